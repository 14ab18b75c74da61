package proxy

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// answer is the response to one request. It is the writer that content is sent to, and knows what went out: so the
// log can say it, and a failure knows whether it can still be told or must cut the connection.
type answer struct {
	w http.ResponseWriter
	r *http.Request

	status  int       // sent with the first byte of the body, or when all is done
	begun   bool      // it was sent
	first   time.Time // when it was
	sent    int64     // bytes of body
	size    int64     // what Content-Length says; negative: nothing
	timed   bool      // somebody set a deadline for what is written
	torn    bool      // the connection is to be cut
	corked  *counted  // holds a packet back until it is full; nil: does not
	values  [12]string
	nvalues int

	began    time.Time
	id       string
	ask      asked
	visitor  visitor
	stead    Stead  // what may stand in for his login; nil: nothing
	digest   string // of what is served
	tier     string
	err      error
	limit    *Refused
	held     time.Duration
	panicked bool
}

const (
	// The status in the log where the client left before there was an answer. It never goes out.
	statusGone = 499
	// A client that takes less than this many bytes per second, after some grace, is stuck or means harm.
	minRate = 1 << 10
	grace   = time.Minute
	// The rest of a request that nobody wants is on its way or does not come.
	linger = time.Second
)

// Values that many answers have. The slices are shared: nobody changes the values of a header in place. A hit
// has eight headers, which is how many Go's maps hold without growing.
var (
	octets      = []string{"application/octet-stream"}
	jsonType    = []string{"application/json"}
	bytesUnit   = []string{"bytes"}
	apiVersion  = []string{"registry/2.0"}
	statusLocal = []string{"tidepool; detail=local"}

	statusUnchanged = []string{"tidepool; fwd=stale; detail=unchanged"}
	statusChanged   = []string{"tidepool; fwd=stale; stored; detail=changed"}

	statusOf = [...][]string{
		cache.FromMemory:   {"tidepool; hit; detail=memory"},
		cache.FromDisk:     {"tidepool; hit; detail=disk"},
		cache.FromFlight:   {"tidepool; fwd=uri-miss; collapsed; detail=flight"},
		cache.FromPeer:     {"tidepool; fwd=uri-miss; detail=peer"},
		cache.FromUpstream: {"tidepool; fwd=uri-miss; detail=upstream"},
	}
)

func newAnswer(w http.ResponseWriter, r *http.Request) *answer {
	a := &answer{w: w, r: r, began: time.Now(), id: r.Header.Get("X-Request-Id")}
	if !validToken(a.id) {
		a.id = newID()
	}
	a.set("X-Request-Id", a.id)
	return a
}

// newID names a request. It must be unique and cheap, and need not be hard to guess.
func newID() string {
	var id [16]byte
	return string(hex.AppendEncode(id[:0], binary.BigEndian.AppendUint64(nil, rand.Uint64())))
}

// set sets a header of which key is the canonical form. It costs no allocation: the values live in a.
func (a *answer) set(key, value string) {
	if a.nvalues == len(a.values) {
		a.w.Header()[key] = []string{value}
		return
	}
	a.values[a.nvalues] = value
	a.w.Header()[key] = a.values[a.nvalues : a.nvalues+1 : a.nvalues+1]
	a.nvalues++
}

// origin sets the headers that say of what type f is and where it came from.
func (a *answer) origin(f cache.Found) {
	h := a.w.Header()
	switch a.tier = f.From.String(); {
	case f.Aged == cache.NotAged, f.AsOf.IsZero(): // what nobody ever said, as a list of what is held, has no age
		h["Cache-Status"] = statusOf[f.From]
	case f.Aged == cache.Unchanged:
		h["Cache-Status"] = statusUnchanged
	case f.Aged == cache.Changed:
		h["Cache-Status"] = statusChanged
	default: // a time to live that is over (RFC 9211, section 2.4)
		a.set("Cache-Status", "tidepool; hit; ttl=-"+strconv.FormatInt(int64(f.Over/time.Second), 10)+"; detail="+a.tier)
	}
	a.keyed()
	if !f.AsOf.IsZero() {
		a.set("Age", strconv.FormatInt(int64(max(0, a.began.Sub(f.AsOf)/time.Second)), 10))
	}
	if f.Stale() {
		a.set("Warning", stale(a.ask.ref))
	}
	// A manifest says itself of what type it is: one that claims to be a web page must not be shown as one of ours.
	if h["Content-Type"] = octets; strings.HasPrefix(f.MediaType, "application/") {
		a.set("Content-Type", f.MediaType)
	}
}

// describe sets all headers that say what f is.
func (a *answer) describe(f cache.Found) {
	a.origin(f)
	tag := `"` + a.textOf(f.Digest) + `"`
	a.digest = tag[1 : len(tag)-1]
	a.set("Etag", tag)
	a.set("Docker-Content-Digest", a.digest)
	a.w.Header()["Accept-Ranges"] = bytesUnit
}

// textOf is d as text: the request's own where it asked by digest.
func (a *answer) textOf(d cache.Digest) string {
	if a.ask.digest != "" {
		return a.ask.digest
	}
	return d.String()
}

// stale is what the user of a client that shows warnings should know (distribution-spec, "Warnings").
func stale(ref cache.Ref) string {
	return `299 - "` + ref.String() + ` may have changed: ` + ref.Registry + ` cannot be asked at present"`
}

// length sets the body's length in bytes; negative: it is not known.
func (a *answer) length(n int64) {
	if a.size = n; n >= 0 {
		a.set("Content-Length", strconv.FormatInt(n, 10))
	}
}

// begin sends the header, once.
func (a *answer) begin() {
	if a.begun {
		return
	}
	a.begun, a.first = true, time.Now()
	if !a.timed { // content sets deadlines of its own
		_ = a.SetWriteDeadline(a.first.Add(grace + time.Duration(a.size/minRate)*time.Second)) // a recorder has none
	}
	a.w.WriteHeader(a.status)
}

// Write sends a piece of the body.
func (a *answer) Write(b []byte) (int, error) {
	a.begin()
	n, err := a.w.Write(b)
	a.sent += int64(n)
	return n, err
}

// ReadFrom sends what src holds, by sendfile where src is a file and the connection can.
func (a *answer) ReadFrom(src io.Reader) (n int64, err error) {
	a.begin()
	defer func() { a.sent += n }()
	rf, ok := a.w.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{a.w}, src)
	}
	if n, ok, err := a.sendFile(rf, src); ok {
		return n, err
	}
	return rf.ReadFrom(src)
}

// SetWriteDeadline says until when the client must have taken what is written from now on. There is always one: what
// net/http still holds when content has been sent must not wait for ever either.
func (a *answer) SetWriteDeadline(t time.Time) error {
	if a.timed = true; t.IsZero() {
		t = time.Now().Add(grace)
	}
	return http.NewResponseController(a.w).SetWriteDeadline(t)
}

// send answers with a body that is at hand.
func (a *answer) send(status int, body []byte) error {
	a.status = status
	a.length(int64(len(body)))
	if a.r.Method == http.MethodHead {
		return nil
	}
	_, err := a.Write(body)
	return err
}

// finish ends the answer: well, or by telling why not, or by having the connection cut.
func (a *answer) finish() {
	defer a.uncork()
	switch {
	case a.err == nil:
		a.begin()
	case a.begun:
		a.torn = true
	case errors.Is(a.err, context.Canceled) && a.r.Context().Err() != nil:
		a.status, a.torn = statusGone, true
	default:
		r := judge(a.err, a.ask.ref.Kind)
		if a.visitor != unasked {
			r = a.personal(r, a.err)
		}
		if r.code == tooMany {
			r = a.limited(r)
		}
		a.refuse(r)
		a.begin()
	}
}

// Headers that describe content, and so no error.
var describing = []string{"Accept-Ranges", "Age", "Content-Range", "Docker-Content-Digest", "Etag", "Link",
	"Oci-Filters-Applied", "Warning"}

// refuse answers with r instead of what was asked for.
func (a *answer) refuse(r *refusal) {
	h := a.w.Header()
	for _, key := range describing {
		delete(h, key)
	}
	a.tier, a.digest = "", ""
	h["Cache-Status"], h["Content-Type"] = []string{r.cached}, jsonType
	if r.key != "" {
		a.set(r.key, r.value)
	}
	if a.r.ContentLength != 0 || a.r.Method == http.MethodConnect {
		a.unread()
	}
	if err := a.send(r.status, r.body()); err != nil {
		a.torn = true
	}
}

// unread ends the connection with the answer, because what the client sends next is not meant as a request. What is
// on its way already is taken, or the kernel would reset the connection before the client has read the answer.
func (a *answer) unread() {
	a.w.Header()["Connection"] = []string{"close"}
	_ = http.NewResponseController(a.w).SetReadDeadline(time.Now().Add(linger)) // HTTP/2 has no need of it
}

// exchange is what there is to say at the end.
func (a *answer) exchange() Exchange {
	x := Exchange{
		Began: a.began, Took: time.Since(a.began), Method: a.r.Method, Ref: a.ask.ref, Asked: a.ask.otherwise(), Digest: a.digest,
		Status: a.status, Sent: a.sent, Tier: a.tier, Client: peer(a.r), UserAgent: a.r.UserAgent(), ID: a.id,
		Err: a.err, Limited: a.limit, Held: a.held, Torn: a.torn, Panicked: a.panicked,
	}
	if a.begun {
		x.First = a.first.Sub(a.began)
	}
	return x
}
