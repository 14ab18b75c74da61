package upstream

import (
	"context"
	"net/http"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// openBlob brings a blob, or the part of it that is wanted, from e. The caller holds a slot, which the body gives back.
func (h *hub) openBlob(ctx context.Context, e *endpoint, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	began := time.Now()
	q := query{method: http.MethodGet, repo: ref.Repo, tail: "blobs/" + ref.Digest.String(), blob: true}
	q.ask(want)
	r, err := h.ask(ctx, e, q)
	if err != nil {
		return cache.Answer{}, err
	}
	a, length, err := blobAnswer(r, want)
	if err != nil {
		r.drop()
		return cache.Answer{}, err
	}
	a.Digest = ref.Digest
	a.Body = newBody(r, length, h.shared.Timeouts.Stall, h.count.read, func(brought bool, err error) {
		h.release()
		if brought { // failures are in a row only where nothing comes between them
			e.health.worked()
		}
		h.settle(e, began, err)
	})
	return a, nil
}

// blobAnswer is what r says of itself: which part it is, of how much, and how many bytes will come (-1: not told).
func blobAnswer(r *reply, want cache.Want) (a cache.Answer, length int64, err error) {
	if r.StatusCode != http.StatusPartialContent {
		return cache.Answer{Desc: cache.Desc{Size: r.ContentLength}}, r.ContentLength, nil
	}
	first, last, total, ok := contentRange(r.Header.Get("Content-Range"))
	length = last - first + 1
	switch {
	case !ok || first < 0:
		said := r.clean(r.Header.Get("Content-Range"))
		return a, 0, broken("%s answered with a part, but not with which (Content-Range %q)", r.host, said)
	case first != want.Off || want.N >= 0 && length > max(want.N, 1):
		return a, 0, broken("%s answered with another part than was asked for", r.host)
	case r.ContentLength >= 0 && r.ContentLength != length:
		return a, 0, broken("%s announces %d bytes for a part of %d", r.host, r.ContentLength, length)
	}
	return cache.Answer{Desc: cache.Desc{Size: total}, Off: first}, length, nil
}

// statBlob asks e whether it has a blob, and of what size. Caches answer 404 to the HEAD of what they could fetch, and
// some servers know no HEAD, so only a GET of a single byte is believed there.
func (h *hub) statBlob(ctx context.Context, e *endpoint, ref cache.Ref) (cache.Answer, error) {
	ctx, cancel := h.hurry(ctx, e)
	defer cancel()
	q := query{method: http.MethodHead, repo: ref.Repo, tail: "blobs/" + ref.Digest.String()}
	r, err := h.ask(ctx, e, q)
	if err == nil {
		size := r.ContentLength
		r.drop()
		if size > 0 || size == 0 && ref.Digest.Names(nil) {
			return cache.Answer{Desc: cache.Desc{Digest: ref.Digest, Size: size}}, nil
		}
	} else if !doubtful(err) {
		return cache.Answer{}, err
	}
	return h.probeBlob(ctx, e, ref, q)
}

// probeBlob learns a blob's size by asking for its first byte.
func (h *hub) probeBlob(ctx context.Context, e *endpoint, ref cache.Ref, q query) (cache.Answer, error) {
	first := cache.Want{N: 1}
	q.method = http.MethodGet
	q.ask(first)
	r, err := h.sendAgain(ctx, e, q)
	if err != nil {
		return cache.Answer{}, err
	}
	defer r.drop()
	if r.StatusCode == http.StatusRequestedRangeNotSatisfiable && endsBefore(r.Header, 0) {
		return cache.Answer{Desc: cache.Desc{Digest: ref.Digest}}, nil // there, and empty
	}
	if err := h.judge(q, r); err != nil {
		return cache.Answer{}, err
	}
	a, _, err := blobAnswer(r, first)
	a.Off, a.Digest = 0, ref.Digest
	return a, err
}
