package upstream

import (
	"encoding/json"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// judge says whether r is the content that q asked for, or why it is not. 401 and 403 of the endpoint itself were
// dealt with before.
func (h *hub) judge(q query, r *reply) error {
	if h.cameBack(r.Header) {
		return refused(cache.ErrLooped, "%s asks us in turn: a loop", r.host)
	}
	switch {
	case r.StatusCode == http.StatusOK:
	case r.StatusCode == http.StatusPartialContent && q.span != "":
	case r.StatusCode == http.StatusNotModified && !q.known.IsZero():
		return refused(cache.ErrUnchanged, "unchanged")
	case r.StatusCode == http.StatusRequestedRangeNotSatisfiable && endsBefore(r.Header, q.off):
		// somebody was told a wrong size, and must not hold on to what came with it
		return refused(cache.ErrCorrupt, "%s has less of it: it ends before byte %d", r.host, q.off)
	default:
		return h.refusal(r)
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return broken("%s answered with the content encoding %q, which was not asked for", r.host, r.clean(enc))
	}
	if t := mediaType(r.Header); t == "text/html" || t == "application/xhtml+xml" {
		return broken("%s answered with a web page: a login page or another proxy in between?", r.host)
	}
	return nil
}

// endsBefore reports whether a 416 says that the content ends at off or before.
func endsBefore(header http.Header, off int64) bool {
	_, _, total, ok := contentRange(header.Get("Content-Range"))
	return ok && total >= 0 && total <= off
}

// cameBack reports whether an answer went through ourselves.
func (h *hub) cameBack(header http.Header) bool {
	for _, v := range header.Values("Via") {
		for hop := range strings.SplitSeq(v, ",") {
			if f := strings.Fields(hop); len(f) > 1 && f[1] == h.shared.ID {
				return true
			}
		}
	}
	return false
}

// refusal is the error that an answer without content stands for.
func (h *hub) refusal(r *reply) error {
	code, text := r.phrase()
	if s := r.StatusCode; s == http.StatusTooManyRequests || code == "TOOMANYREQUESTS" && s >= 400 && s < 500 {
		return h.limit(r, text)
	}
	told := r.host + " answered " + strconv.Itoa(r.StatusCode)
	if text != "" {
		told += ": " + text
	}
	f := &fault{kind: cache.ErrUnavailable, status: r.StatusCode, text: told}
	switch s := r.StatusCode; {
	case s == http.StatusNotFound, s == http.StatusGone:
		f.kind = cache.ErrNotFound
	case (s == http.StatusUnauthorized || s == http.StatusForbidden) && !r.foreign:
		f.kind = cache.ErrDenied
	case s == http.StatusLoopDetected:
		f.kind = cache.ErrLooped
		f.text += ": the request went round in a loop"
	case s >= 500:
		f.blame = true
	case s < 300:
		f.blame = true
		f.text += ", which was not asked for"
	}
	return f
}

// longestWait bounds what an upstream may say of when to ask again: what is longer is a mistake, and would outlast it.
const longestWait = 24 * time.Hour

// retryAfter is when to ask again, as seconds or a date (RFC 9110 section 10.2.3), or as the seconds of a
// ratelimit-reset; zero where header does not tell.
func retryAfter(header http.Header, now time.Time) time.Time {
	for _, name := range []string{"Retry-After", "Ratelimit-Reset"} {
		v, _, _ := strings.Cut(header.Get(name), ";")
		if s, ok := number(v); ok && s < 1e9 { // more is a time of day, which no such header has
			return now.Add(min(time.Duration(s)*time.Second, longestWait))
		}
		if t, err := http.ParseTime(v); err == nil && t.After(now) {
			return now.Add(min(t.Sub(now), longestWait))
		}
	}
	return time.Time{}
}

// phrase reads what an answer says of why it refuses: the code of the spec's error document, and one line of text.
func (r *reply) phrase() (code, text string) {
	b := r.errorBody()
	var doc struct {
		Errors           []struct{ Code, Message string }
		Details, Message string // what some token servers say instead
	}
	if err := json.Unmarshal(b, &doc); err == nil {
		var parts []string
		for _, e := range doc.Errors {
			parts = append(parts, strings.TrimSpace(e.Code+" "+e.Message))
		}
		if len(doc.Errors) > 0 {
			code = doc.Errors[0].Code
		}
		parts = append(parts, doc.Details, doc.Message)
		return code, r.clean(strings.Join(parts, " "))
	}
	if mediaType(r.Header) == "text/plain" {
		text = string(b)
	}
	return "", r.clean(text)
}

// errorBody is the beginning of an answer that is an error, as much of it as comes in a moment. The answer is given
// up.
func (r *reply) errorBody() []byte {
	const moment = 2 * time.Second
	t := time.AfterFunc(moment, func() { r.cancel(broken("%s does not finish its answer", r.host)) })
	b, _ := io.ReadAll(io.LimitReader(r.Body, maxError))
	t.Stop()
	r.drop()
	return b
}

// mediaType is the Content-Type without its parameters, in lower case; empty where there is none or it is malformed.
func mediaType(header http.Header) string {
	t, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// asOf is when the content of an answer was last known to be true: an answer out of somebody's cache says how old it
// is. Zero: just now.
func asOf(header http.Header, now time.Time) time.Time {
	s, ok := number(header.Get("Age"))
	if !ok || s == 0 {
		return time.Time{}
	}
	return now.Add(-time.Duration(min(s, math.MaxInt32)) * time.Second)
}

// contentRange reads "bytes first-last/total" and "bytes */total" (RFC 9110 section 14.4). total is -1 where it is not
// told, and so is first where the range could not be met.
func contentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, found := strings.Cut(s, "/")
	if !ok || !found {
		return 0, 0, 0, false
	}
	total = -1
	if size != "*" {
		if total, ok = number(size); !ok {
			return 0, 0, 0, false
		}
	}
	if span == "*" {
		return -1, -1, total, total >= 0
	}
	a, b, _ := strings.Cut(span, "-")
	first, okFirst := number(a)
	last, okLast := number(b)
	ok = okFirst && okLast && first <= last && (total < 0 || last < total)
	return first, last, total, ok
}

// number reads digits only: no sign, no space.
func number(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}
