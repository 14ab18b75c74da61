package origintest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// CutAt breaks the connection after n bytes of the body; over HTTP/2 the stream. Shorter bodies stay whole.
func (r *Rule) CutAt(n int64) *Rule {
	return r.stopAt(n, func(x *exchange) {
		r.arrive()
		x.abort()
	})
}

// ResetAt is CutAt with a TCP reset, by which the client may lose bytes that were already on their way.
func (r *Rule) ResetAt(n int64) *Rule {
	return r.stopAt(n, func(x *exchange) {
		r.arrive()
		if w, ok := x.r.Context().Value(wireKey{}).(*wire); ok {
			w.reset()
		}
		x.abort()
	})
}

// StallAt goes silent after n bytes of the body, until the request ends or Release.
func (r *Rule) StallAt(n int64) *Rule { return r.stopAt(n, r.hold) }

func (r *Rule) stopAt(n int64, do func(*exchange)) *Rule {
	return r.spoil(func(a *answer) { a.stops = append(a.stops, stop{n, do}) })
}

// Delay waits before the first byte of the header.
func (r *Rule) Delay(d time.Duration) *Rule {
	return r.spoil(func(a *answer) { a.before = append(a.before, func(x *exchange) { x.sleep(d) }) })
}

// Hang does not answer at all, until the request ends or Release.
func (r *Rule) Hang() *Rule {
	return r.spoil(func(a *answer) { a.before = append(a.before, r.hold) })
}

// Drop hangs up without an answer.
func (r *Rule) Drop() *Rule {
	return r.spoil(func(a *answer) {
		a.before = append(a.before, func(x *exchange) { r.arrive(); x.abort() })
	})
}

// Flip changes the byte at offset off of the content, wherever an answer holds it.
func (r *Rule) Flip(off int64) *Rule {
	return r.spoil(func(a *answer) { a.flips = append(a.flips, off) })
}

// Pace sends bytesPerSecond of the body.
func (r *Rule) Pace(bytesPerSecond int64) *Rule {
	return r.spoil(func(a *answer) { a.pace = &pacer{rate: bytesPerSecond} })
}

// Length declares delta bytes more than there are (the answer then breaks off), or fewer (it is short but clean).
func (r *Rule) Length(delta int64) *Rule {
	return r.spoil(func(a *answer) { a.lie = delta })
}

// Pad sends n bytes more than the content has, and declares them.
func (r *Rule) Pad(n int64) *Rule {
	return r.spoil(func(a *answer) { a.pad = n })
}

// NoLength sends the body in chunks, without its length.
func (r *Rule) NoLength() *Rule { return r.spoil(func(a *answer) { a.noLength = true }) }

// UntilClose sends the body without length or chunks, its end being that of the connection, so that over HTTP/1.1 a
// cut looks like the end.
func (r *Rule) UntilClose() *Rule {
	return r.NoLength().Header("Transfer-Encoding", "identity")
}

// NoRange answers 200 with the whole whatever the range asked for.
func (r *Rule) NoRange() *Rule { return r.spoil(func(a *answer) { a.noRange = true }) }

// Partial answers 206 with the n bytes from off on, whatever was asked for.
func (r *Rule) Partial(off, n int64) *Rule {
	return r.spoil(func(a *answer) {
		a.noRange = true
		if a.content != nil {
			a.part(off, n)
		}
	})
}

// Header sets a header of the answer, in the end; an empty value removes it.
func (r *Rule) Header(name, value string) *Rule {
	return r.spoil(func(a *answer) { a.override = append(a.override, [2]string{name, value}) })
}

// Status answers code, with an error as its body.
func (r *Rule) Status(code int) *Rule {
	return r.spoil(func(a *answer) { a.replace(refuse(code, codeOf(code), "as the rule says")) })
}

// Body answers 200 with b in place of the content.
func (r *Rule) Body(contentType string, b []byte) *Rule {
	return r.spoil(func(a *answer) { a.replace(document(contentType, b)) })
}

// HTML answers 200 with a web page, as captive portals do.
func (r *Rule) HTML() *Rule {
	return r.Body("text/html; charset=utf-8", []byte("<!DOCTYPE html><title>Welcome</title><p>Please log in.\n"))
}

// Empty answers 200 with an empty body.
func (r *Rule) Empty() *Rule { return r.Body("application/octet-stream", nil) }

// NoContent answers 204.
func (r *Rule) NoContent() *Rule {
	return r.spoil(func(a *answer) { a.replace(&answer{status: http.StatusNoContent, header: http.Header{}}) })
}

// Endless answers with the right header and a body that never ends.
func (r *Rule) Endless() *Rule {
	return r.spoil(func(a *answer) {
		a.noLength = true
		a.foreign(endless())
	})
}

// Gzip sends the content compressed, and says so, though nobody asked.
func (r *Rule) Gzip() *Rule {
	return r.spoil(func(a *answer) {
		if a.content == nil {
			return
		}
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		// Writing to memory cannot fail.
		_, _ = z.Write(a.content.Bytes())
		_ = z.Close()
		a.header.Set("Content-Encoding", "gzip")
		a.foreign(Bytes(buf.Bytes()))
	})
}

// Redirect answers 307 with url as the place to go; "" is the place asked for, which makes a loop.
func (r *Rule) Redirect(url string) *Rule {
	return r.spoil(func(a *answer) {
		to := url
		if to == "" {
			to = a.asked
		}
		a.replace(redirect(to))
	})
}

// Unauthorized answers 401 with the origin's own challenge, whatever credentials came.
func (r *Rule) Unauthorized() *Rule {
	return r.spoil(func(a *answer) { a.replace(a.challenge("")) })
}

// Realm answers 401 and names url as the token server.
func (r *Rule) Realm(url string) *Rule {
	return r.spoil(func(a *answer) { a.replace(a.challenge(url)) })
}

// codeOf is the error code that goes with a status (distribution spec, "Error Codes").
func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHORIZED"
	case http.StatusForbidden:
		return "DENIED"
	case http.StatusNotFound:
		return "NAME_UNKNOWN"
	case http.StatusTooManyRequests:
		return "TOOMANYREQUESTS"
	default:
		return "UNSUPPORTED"
	}
}

// stop is something to do after so many bytes of the body.
type stop struct {
	at int64
	do func(*exchange)
}

func (a *answer) sortedStops() []stop {
	return slices.SortedStableFunc(slices.Values(a.stops), func(x, y stop) int { return int(x.at - y.at) })
}

// part makes a the answer to a range of its content.
func (a *answer) part(off, n int64) {
	a.status = http.StatusPartialContent
	a.off, a.n = off, n
	a.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, a.content.Size()))
}
