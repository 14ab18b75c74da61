package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tidepool-oci/tidepool/cache"
)

// verdict is how a kind of failure is told: by a status, by one of the spec's error codes (of its own making only
// with 5xx, where the spec sets none), and by what Cache-Status says of it.
type verdict struct {
	status int
	code   string
	cached string
}

// What the door itself says no to.
var (
	nameInvalid   = verdict{400, "NAME_INVALID", refused}
	nameTooLong   = verdict{414, "NAME_INVALID", refused}
	nameUnknown   = verdict{404, "NAME_UNKNOWN", refused}
	tagInvalid    = verdict{400, "MANIFEST_INVALID", refused}
	digestInvalid = verdict{400, "DIGEST_INVALID", refused}
	paramInvalid  = verdict{400, "UNSUPPORTED", refused}
	bodyInvalid   = verdict{400, "UNSUPPORTED", refused}
	routeUnknown  = verdict{404, "UNSUPPORTED", refused}
	readOnly      = verdict{405, "UNSUPPORTED", refused}
	rangeInvalid  = verdict{416, "SIZE_INVALID", refused}
	// 403 rather than 404: containerd asks again by GET to show the sentence, and docker prints it too.
	denied = verdict{403, "DENIED", refused}
	looped = verdict{508, "LOOP_DETECTED", refused}
)

const refused = "tidepool; detail=refused"

var (
	errRoute = refuse(routeUnknown, "there is nothing here: the registry API is under /v2/, and this is none of the "+
		"addresses from which content is pulled")
	errCatalog = refuse(routeUnknown, "a proxy has no catalogue of its upstreams: list the tags of a repository instead")
	errMethod  = refuse(readOnly, "this registry only serves pulls: push to the upstream itself").
			with("Allow", "GET, HEAD")
	errBody = refuse(bodyInvalid, "a GET or HEAD request must have no body")
)

// kinds is the one table that says how a Store's failures are told, and what to do about each. The first row that
// matches counts.
var kinds = []struct {
	kind error
	verdict
	retry  int // seconds until asking again makes sense; 0: never, or not known
	advice string
}{
	{cache.ErrNotFound, verdict{404, "", "tidepool; fwd=uri-miss; detail=not-found"}, 0, ""},
	{cache.ErrDenied, verdict{403, "DENIED", "tidepool; fwd=uri-miss; detail=denied"}, 0,
		"check the name, and the credentials that tidepool has for this upstream"},
	// The status is that of the agent who asks.
	{cache.ErrLimited, verdict{429, tooMany, "tidepool; fwd=uri-miss; detail=limited"}, 60,
		"this is not held here: pull it again later, or give tidepool credentials for this upstream"},
	{cache.ErrUnsupported, verdict{415, "UNSUPPORTED", "tidepool; fwd=uri-miss; detail=unsupported"}, 0, ""},
	{cache.ErrCorrupt, verdict{502, "CORRUPT", "tidepool; fwd=uri-miss; detail=corrupt"}, 5,
		"nothing of it is kept: try again, and tell the upstream if it stays so"},
	{context.Canceled, verdict{503, "UNAVAILABLE", "tidepool; detail=canceled"}, 1, "try again in a moment"},
	{cache.ErrClosed, verdict{503, "UNAVAILABLE", "tidepool; detail=closing"}, 1, "try again in a moment"},
	// Nobody will be asked: to a client, what is not held does not exist, and to ask again later changes nothing.
	{cache.ErrOffline, verdict{404, "", "tidepool; detail=offline"}, 0, "pull it once while online, or switch offline " +
		"mode off (offline: in the configuration, PUT /api/v1/offline at the admin listener)"},
	{cache.ErrLooped, verdict{508, "LOOP_DETECTED", "tidepool; fwd=uri-miss; detail=loop"}, 0,
		"the configuration of an upstream on the way leads back to where it began"},
	{cache.ErrUnavailable, verdict{502, "UNAVAILABLE", "tidepool; fwd=uri-miss; detail=unavailable"}, 5,
		"it is not held here either"},
	{context.DeadlineExceeded, verdict{504, "UNAVAILABLE", "tidepool; fwd=uri-miss; detail=timeout"}, 5,
		"try again"},
}

var internal = verdict{500, "UNKNOWN", "tidepool; detail=failed"}

// refusal is an error that carries its own verdict.
type refusal struct {
	verdict
	message    string
	key, value string // a header that goes with it; "": none does
}

func refuse(v verdict, format string, args ...any) *refusal {
	return &refusal{verdict: v, message: fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string { return r.message }

// with returns r and a header.
func (r *refusal) with(key, value string) *refusal {
	r.key, r.value = key, value
	return r
}

// judge says how err is told to a client who asked for something of the given kind.
func judge(err error, kind cache.Kind) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	for _, row := range kinds {
		if !errors.Is(err, row.kind) {
			continue
		}
		r := refuse(row.verdict, "%s", sentence(err.Error(), row.advice))
		if r.code == "" {
			r.code = unknown(kind)
		}
		if s := retryAfter(err, row.retry); s > 0 {
			return r.with("Retry-After", strconv.Itoa(s))
		}
		return r
	}
	return refuse(internal, "this is a fault of tidepool: its log says more")
}

// unknown is the code for what is not there.
func unknown(kind cache.Kind) string {
	switch kind {
	case cache.KindManifest:
		return "MANIFEST_UNKNOWN"
	case cache.KindBlob:
		return "BLOB_UNKNOWN"
	default:
		return "NAME_UNKNOWN"
	}
}

// retryAfter is in how many seconds to ask again: what the upstream said, else otherwise.
func retryAfter(err error, otherwise int) int {
	var l *cache.LimitedError
	if !errors.As(err, &l) || l.Until.IsZero() {
		return otherwise
	}
	return max(1, int(math.Ceil(time.Until(l.Until).Seconds())))
}

// Long enough for a reference, a digest and what an upstream said; a longer text is hardly read.
const maxSentence = 1 << 10

// sentence is what failed and what to do, on one line and of a bounded length, whatever an upstream wrote into it.
func sentence(what, advice string) string {
	what = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, what[:min(len(what), maxSentence)])
	if advice == "" {
		return what
	}
	return what + ": " + advice
}

// body is r as the spec wants errors (distribution-spec, "Error Codes").
func (r *refusal) body() []byte {
	type failure struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	b, err := json.Marshal(map[string][]failure{"errors": {{r.code, r.message}}})
	if err != nil {
		return []byte(`{"errors":[{"code":"UNKNOWN"}]}`)
	}
	return append(b, '\n')
}
