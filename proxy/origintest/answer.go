package origintest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/tidepool-oci/tidepool/cache"
)

// answer is what is about to be sent: first what is right, then what the rules made of it.
type answer struct {
	status  int
	header  http.Header
	content *Content // nil: no body
	off, n  int64    // which part of it goes out
	digest  cache.Digest
	etag    string

	asked     string                     // the address asked for
	challenge func(realm string) *answer // a 401

	before   []func(*exchange) // done before the header goes out
	stops    []stop
	flips    []int64 // offsets in the content
	pace     *pacer
	lie      int64 // added to Content-Length
	pad      int64 // added to the body
	noLength bool
	noRange  bool
	override [][2]string
}

// whole is the answer 200 with all of c.
func whole(c *Content, d cache.Digest, mediaType string) *answer {
	a := &answer{status: http.StatusOK, header: http.Header{}, digest: d}
	a.body(c)
	a.header.Set("Content-Type", mediaType)
	if !d.IsZero() {
		a.etag = `"` + d.String() + `"`
		a.header.Set("ETag", a.etag)
	}
	return a
}

// document is the answer 200 with a page of its own.
func document(mediaType string, b []byte) *answer { return whole(Bytes(b), cache.Digest{}, mediaType) }

// refuse is an error as the distribution spec writes it.
func refuse(status int, code, message string) *answer {
	type fault struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]fault{"errors": {{code, message}}})
	if err != nil {
		panic(err) // strings can be marshalled
	}
	a := document("application/json", append(body, '\n'))
	a.status = status
	a.noRange = true
	return a
}

// redirect is the answer 307.
func redirect(url string) *answer {
	a := &answer{status: http.StatusTemporaryRedirect, header: http.Header{}}
	a.header.Set("Location", url)
	return a
}

// body makes all of c what goes out.
func (a *answer) body(c *Content) { a.content, a.off, a.n = c, 0, c.Size() }

// foreign makes all of c what goes out where other content was meant: it does not count as having been sent.
func (a *answer) foreign(c *Content) {
	a.body(c)
	a.digest, a.noRange = cache.Digest{}, true
}

// replace makes a say what b says, and keeps how it is said.
func (a *answer) replace(b *answer) {
	a.status, a.header, a.content, a.off, a.n = b.status, b.header, b.content, b.off, b.n
	a.digest, a.etag, a.noRange = cache.Digest{}, "", true
}

// settle answers 304 where the client has it already.
func (a *answer) settle(r *http.Request) {
	for tag := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == a.etag {
			a.status, a.content, a.n = http.StatusNotModified, nil, 0
		}
	}
}

// narrow obeys a Range header: a single range is met, several and malformed ones are ignored (RFC 9110, 14.2).
func (a *answer) narrow(r *http.Request) {
	spec, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	if !ok || a.noRange || a.status != http.StatusOK || a.content == nil {
		return
	}
	if cond := r.Header.Get("If-Range"); cond != "" && cond != a.etag {
		return
	}
	off, n, ok := parseRange(spec, a.content.Size())
	switch {
	case !ok:
	case n <= 0:
		size := a.content.Size()
		a.replace(refuse(http.StatusRequestedRangeNotSatisfiable, "UNSUPPORTED", "no such range"))
		a.header.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
	default:
		a.part(off, n)
	}
}

// parseRange reads "a-b", "a-" and "-n"; n is not positive where nothing of it lies in the content.
func parseRange(spec string, size int64) (off, n int64, ok bool) {
	from, to, dash := strings.Cut(spec, "-")
	if !dash {
		return 0, 0, false
	}
	if from == "" {
		last, err := strconv.ParseInt(to, 10, 64)
		last = min(last, size)
		return size - last, last, err == nil && last >= 0
	}
	off, err := strconv.ParseInt(from, 10, 64)
	if err != nil || off < 0 {
		return 0, 0, false
	}
	end := size - 1
	if to != "" {
		if end, err = strconv.ParseInt(to, 10, 64); err != nil || end < off {
			return 0, 0, false
		}
	}
	return off, min(end, size-1) - off + 1, true
}
