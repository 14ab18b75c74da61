package proxy

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/tidepool-oci/tidepool/cache"
)

// root answers to who asks whether this is a registry.
func (a *answer) root() error {
	h := a.w.Header()
	h["Cache-Status"], h["Content-Type"], h["Docker-Distribution-Api-Version"] = statusLocal, jsonType, apiVersion
	return a.send(http.StatusOK, []byte("{}"))
}

// content answers with a manifest or a blob. What a client says it accepts is not looked at: there is one answer, of
// the bytes and the type that the upstream gave.
func (h *Handler) content(ctx context.Context, a *answer) error {
	want, size := cache.Whole, int64(-1)
	if ranges := a.ranges(a.ask.digest); a.r.Method == http.MethodHead || len(a.r.Header["If-None-Match"]) > 0 ||
		needSize(a.ask.ref.Kind, ranges) {
		var done bool
		var err error
		if size, done, err = h.described(ctx, a); done || err != nil {
			return err
		}
		if needSize(a.ask.ref.Kind, ranges) {
			if want, err = first(ranges, size); err != nil {
				return err
			}
		}
	}
	b, err := h.Store.Open(ctx, a.ask.ref, want)
	if err != nil {
		return err
	}
	defer b.Close() // it only gives a descriptor back
	if b.Size >= 0 {
		size = b.Size
	}
	return a.pour(ctx, b, size)
}

// described answers where a description of the content is all that is wanted; else done is false. The size is -1 where
// nobody can tell it. It is no part of content, whose frame stays on the stack of every client while it reads.
func (h *Handler) described(ctx context.Context, a *answer) (size int64, done bool, err error) {
	found, err := h.Store.Stat(ctx, a.ask.ref)
	switch {
	case err != nil:
		return 0, false, err
	case matches(a.r.Header["If-None-Match"], a.textOf(found.Digest)):
		return found.Size, true, a.unchanged(found)
	case a.r.Method == http.MethodHead:
		return found.Size, true, a.head(found)
	}
	return found.Size, false, nil
}

// needSize reports whether the size must be known before content is opened: a blob of which only ranges are wanted is
// not fetched whole, and where they begin may depend on where it ends. Manifests are always whole.
func needSize(kind cache.Kind, ranges []rangeSpec) bool {
	return kind == cache.KindBlob && len(ranges) > 0 && (len(ranges) > 1 || ranges[0] != fromStart)
}

// first is the part of a blob that ranges will be read from first.
func first(ranges []rangeSpec, size int64) (cache.Want, error) {
	switch spans, whole := within(ranges, size); {
	case whole:
		return cache.Whole, nil
	case len(spans) == 0:
		return cache.Whole, outside(size)
	default:
		return cache.Want{Off: spans[0].off, N: spans[0].n}, nil
	}
}

// pour sends b, of the given size, or the ranges of it that were asked for.
func (a *answer) pour(ctx context.Context, b *cache.Blob, size int64) error {
	if !a.r.ProtoAtLeast(1, 1) { // to whom the end of the connection is the end of the content
		if err := b.Prove(ctx); err != nil {
			return err
		}
		size = b.Size
	}
	a.describe(b.Found)
	switch spans, whole := within(a.ranges(a.digest), size); {
	case whole:
		return a.whole(ctx, b, size)
	case len(spans) == 0:
		return outside(size)
	case len(spans) == 1:
		return a.part(ctx, b, spans[0], size)
	default:
		return a.several(ctx, b, spans, size)
	}
}

func (a *answer) whole(ctx context.Context, b *cache.Blob, size int64) error {
	a.status = http.StatusOK
	a.length(size)
	a.ahead(b.From, size)
	if err := b.SendRange(ctx, a, 0, -1); err != nil {
		return err
	}
	return a.sentAll(size)
}

func (a *answer) part(ctx context.Context, b *cache.Blob, s span, size int64) error {
	a.status = http.StatusPartialContent
	a.set("Content-Range", s.of(size))
	a.length(s.n)
	a.ahead(b.From, s.n)
	if err := b.SendRange(ctx, a, s.off, s.n); err != nil {
		return err
	}
	return a.sentAll(s.n)
}

func (a *answer) several(ctx context.Context, b *cache.Blob, spans []span, size int64) error {
	p := newParts(spans, size, a.w.Header().Get("Content-Type"))
	a.status = http.StatusPartialContent
	a.set("Content-Type", p.contentType())
	a.length(p.length())
	err := p.send(a, func(s span) error { return b.SendRange(ctx, a, s.off, s.n) })
	if err != nil {
		return err
	}
	return a.sentAll(p.length())
}

// sentAll is an error where fewer or more bytes went out than the header promised: over HTTP/2 nobody else looks.
func (a *answer) sentAll(n int64) error {
	if n >= 0 && a.sent != n {
		return fmt.Errorf("sent %d of %d bytes", a.sent, n)
	}
	return nil
}

// head answers with what would be sent, without it. Ranges are GET's alone (RFC 9110, section 14.2).
func (a *answer) head(f cache.Found) error {
	a.describe(f)
	a.length(f.Size)
	a.status = http.StatusOK
	return nil
}

// unchanged answers to a client that has what f says.
func (a *answer) unchanged(f cache.Found) error {
	a.describe(f)
	a.status = http.StatusNotModified
	return nil
}

// outside says that none of the ranges asked for lies in size bytes.
func outside(size int64) error {
	return refuse(rangeInvalid, "no range that was asked for lies within the %d bytes that there are", size).
		with("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
}

// ranges are those that the request asks for, if it is about the content with this digest, or still may be: "".
func (a *answer) ranges(digest string) []rangeSpec {
	if headers := a.r.Header["Range"]; len(headers) > 0 && a.current(digest) {
		return parseRanges(headers)
	}
	return nil
}

// current reports whether If-Range, where given, is the digest's tag. A date is not: content here has none. A digest
// that is not known yet ("") passes, and is asked about again when it is.
func (a *answer) current(digest string) bool {
	tags := a.r.Header["If-Range"]
	return len(tags) == 0 || digest == "" || len(tags) == 1 && tags[0] == `"`+digest+`"`
}

// matches reports whether If-None-Match names the digest's tag (RFC 9110, section 13.1.2). The comparison is weak: a
// proxy on the way may have compressed the content, which is all that "weak" can mean here.
func matches(headers []string, digest string) bool {
	for _, list := range headers {
		for tag := range strings.SplitSeq(list, ",") {
			tag = strings.TrimPrefix(strings.Trim(tag, " \t"), "W/")
			if tag == "*" || len(tag) == len(digest)+2 && tag[0] == '"' && tag[1:len(tag)-1] == digest {
				return true
			}
		}
	}
	return false
}
