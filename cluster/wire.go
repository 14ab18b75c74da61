package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// What members say to each other, over HTTP/1.1 within TLS 1.3: two questions, as a cache.Source has them.
//
//	GET /v1/resolve?registry=…&repo=…&kind=…&tag=…|digest=…[&known=…]
//	GET /v1/open?…[&off=…][&n=…][&held=1[&vouched=1]]
//
// An answer is 200 with what is known in headers, and with the body from Tidepool-Off on; or an error document. Before
// it, a 103 says that the member has to ask the registry, which may take its time.
const (
	resolvePath = "/v1/resolve"
	openPath    = "/v1/open"

	headType    = "Tidepool-Type"
	headDigest  = "Tidepool-Digest"
	headSize    = "Tidepool-Size"
	headOff     = "Tidepool-Off"
	headAsOf    = "Tidepool-As-Of" // nanoseconds since 1970
	headStale   = "Tidepool-Stale"
	headFetched = "Tidepool-Fetched" // the registry had to be asked for it
	headLoad    = "Tidepool-Load"    // how many answers the member was busy with
	headWork    = "Tidepool-Work"    // of a question, too: how many requests who sends it has served of late
	headKeep    = "Tidepool-Keep"    // who asks is to keep a copy, for its owner has more to do than others

	// mostQuery is the longest question: a repository, a tag and two sha512 digests.
	mostQuery = 2 << 10
	// mostError is the longest error document: an upstream's own words are cut much shorter.
	mostError = 16 << 10
)

// question is what one member asks another.
type question struct {
	ref     cache.Ref
	want    cache.Want
	urgency cache.Urgency
	doubts  int
	resolve bool
	anyhow  bool // a member that has sent something else in its place is asked, too; it goes to nobody
	vouched bool // who asks has asked the registry in a caller's name, or will before anything of it goes out
}

func (q question) path() string {
	path, v := openPath, url.Values{"registry": {q.ref.Registry}, "repo": {q.ref.Repo}, "kind": {q.ref.Kind.String()}}
	if q.resolve {
		path = resolvePath
	}
	set := func(key, value string, is bool) {
		if is {
			v.Set(key, value)
		}
	}
	set("tag", q.ref.Tag, q.ref.Tag != "")
	set("digest", q.ref.Digest.String(), !q.ref.Digest.IsZero())
	set("known", q.want.Known.String(), !q.want.Known.IsZero())
	set("off", strconv.FormatInt(q.want.Off, 10), q.want.Off > 0)
	set("n", strconv.FormatInt(q.want.N, 10), q.want.N >= 0)
	set("held", "1", q.want.HeldOnly)
	set("vouched", "1", q.vouched)
	set("urgency", strconv.Itoa(int(q.urgency)), q.urgency > 0)
	set("doubts", strconv.Itoa(q.doubts), q.doubts > 0)
	return path + "?" + v.Encode()
}

// pull reports whether it is a blob from its beginning that is to come from its owner, fetched if need be: one request of
// somebody's, and something to keep.
func (q question) pull() bool {
	return q.ref.Kind == cache.KindBlob && !q.resolve && !q.want.HeldOnly && q.want.Off == 0 && q.doubts == 0
}

var errQuestion = errors.New("no question that a member asks")

// readQuestion reads what a member asks. It has a certificate of ours, and is disbelieved all the same.
func readQuestion(r *http.Request) (q question, err error) {
	if r.Method != http.MethodGet || len(r.URL.RawQuery) > mostQuery {
		return q, errQuestion
	}
	switch r.URL.Path {
	case resolvePath:
		q.resolve = true
	case openPath:
	default:
		return q, errQuestion
	}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, errQuestion
	}
	q.ref = cache.Ref{Registry: v.Get("registry"), Repo: v.Get("repo"), Tag: v.Get("tag")}
	if q.ref.Kind, err = cache.ParseKind(v.Get("kind")); err != nil {
		return q, err
	}
	q.want, q.want.HeldOnly = cache.Whole, v.Get("held") == "1"
	if q.vouched = v.Get("vouched") == "1"; q.vouched && (!q.want.HeldOnly || q.resolve) {
		return q, errQuestion
	}
	if q.ref.Digest, err = digest(v.Get("digest")); err != nil {
		return q, err
	}
	if q.want.Known, err = digest(v.Get("known")); err != nil {
		return q, err
	}
	for key, to := range map[string]*int64{"off": &q.want.Off, "n": &q.want.N} {
		if s := v.Get(key); s != "" {
			if *to, err = strconv.ParseInt(s, 10, 64); err != nil || *to < 0 {
				return q, errQuestion
			}
		}
	}
	u, _ := strconv.ParseUint(v.Get("urgency"), 10, 8)
	q.urgency = min(cache.Urgency(u), cache.Repair)
	doubts, _ := strconv.ParseUint(v.Get("doubts"), 10, 8)
	q.doubts = int(doubts)
	return q, q.ref.Check()
}

// digest reads one that may be missing.
func digest(s string) (cache.Digest, error) {
	if s == "" {
		return cache.Digest{}, nil
	}
	return cache.ParseDigest(s)
}

// head writes what is known of a thing.
func head(h http.Header, a cache.Answer) {
	h.Set("Content-Type", "application/octet-stream")
	h.Set(headSize, strconv.FormatInt(a.Size, 10))
	if a.MediaType != "" {
		h.Set(headType, a.MediaType)
	}
	if !a.Digest.IsZero() {
		h.Set(headDigest, a.Digest.String())
	}
	if a.Off > 0 {
		h.Set(headOff, strconv.FormatInt(a.Off, 10))
	}
	if !a.AsOf.IsZero() {
		h.Set(headAsOf, strconv.FormatInt(a.AsOf.UnixNano(), 10))
	}
	if a.Stale {
		h.Set(headStale, "1")
	}
	if a.Fetched {
		h.Set(headFetched, "1")
	}
}

// readHead reads what head has written.
func readHead(h http.Header) (a cache.Answer, err error) {
	a.MediaType, a.Stale, a.Fetched = h.Get(headType), h.Get(headStale) == "1", h.Get(headFetched) == "1"
	if a.Digest, err = digest(h.Get(headDigest)); err != nil {
		return a, err
	}
	if a.Size, err = strconv.ParseInt(h.Get(headSize), 10, 64); err != nil || a.Size < -1 {
		return a, fmt.Errorf("%.40q is no size", h.Get(headSize))
	}
	if s := h.Get(headOff); s != "" {
		if a.Off, err = strconv.ParseInt(s, 10, 64); err != nil || a.Off < 0 {
			return a, fmt.Errorf("%.40q is no offset", s)
		}
	}
	if s := h.Get(headAsOf); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return a, fmt.Errorf("%.40q is no time", s)
		}
		a.AsOf = time.Unix(0, n)
	}
	return a, nil
}

// kinds are the failures that members tell each other, the more special ones first.
var kinds = []struct {
	name string
	err  error
}{
	{"offline", cache.ErrOffline}, {"looped", cache.ErrLooped}, {"limited", cache.ErrLimited}, {"not_found", cache.ErrNotFound},
	{"denied", cache.ErrDenied}, {"corrupt", cache.ErrCorrupt}, {"unsupported", cache.ErrUnsupported}, {"unchanged", cache.ErrUnchanged},
	{"not_held", cache.ErrNotHeld}, {"closed", cache.ErrClosed}, {"no_room", cache.ErrNoRoom}, {"unavailable", cache.ErrUnavailable},
}

// failure is an error as members tell it.
type failure struct {
	Kind     string    `json:"kind"`
	Message  string    `json:"message"`
	Registry string    `json:"registry,omitempty"`
	Of       string    `json:"of,omitempty"`
	Whose    string    `json:"whose,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Detail   string    `json:"detail,omitempty"`
}

func failureOf(err error) failure {
	f := failure{Kind: "unavailable", Message: err.Error()}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			f.Kind = k.name
			break
		}
	}
	var limit *cache.LimitedError
	var outage *cache.OutageError
	switch {
	case errors.As(err, &limit):
		f.Registry, f.Of, f.Whose, f.Until, f.Detail = limit.Registry, limit.Of, limit.Whose, limit.Until, limit.Detail
	case errors.As(err, &outage):
		f.Registry, f.Until, f.Detail = outage.Registry, outage.Until, outage.Why
	}
	return f
}

// told is a failure that another member told.
type told struct {
	message string
	kind    error
}

func (t *told) Error() string { return t.message }
func (t *told) Unwrap() error { return t.kind }

// readFailure reads an error document. What is none is the member's fault, not an answer.
func readFailure(b []byte) error {
	var f failure
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("%w: an error that is none", errMember)
	}
	switch {
	case f.Kind == "limited":
		return &cache.LimitedError{Registry: plain(f.Registry), Of: plain(f.Of), Whose: plain(f.Whose), Until: f.Until, Detail: plain(f.Detail)}
	case f.Kind == "unavailable" && !f.Until.IsZero():
		return &cache.OutageError{Registry: plain(f.Registry), Until: f.Until, Why: plain(f.Detail)}
	}
	for _, k := range kinds {
		if k.name == f.Kind {
			return &told{plain(f.Message), k.err}
		}
	}
	return fmt.Errorf("%w: an error of a kind that nobody knows", errMember)
}

// plain takes out of a text what must not go into a log or a header.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
