package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// maxManifest bounds a manifest, in bytes: the distribution spec asks clients to expect no more (section "Pulling
// manifests" and "Pushing Manifests": 4 MiB).
const maxManifest = 4 << 20

// statManifest asks e what a manifest is, by HEAD, which no registry counts as a pull; where that does not tell, by
// GET, whose body is handed over.
func (h *hub) statManifest(ctx context.Context, e *endpoint, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	q := manifestQuery(ref)
	q.method = http.MethodHead
	a, err := h.headManifest(ctx, e, ref, q)
	switch {
	case err != nil && (!doubtful(err) || errors.Is(err, cache.ErrNotFound)):
		return cache.Answer{}, err
	case err != nil || a.Digest.IsZero() || usable(a.MediaType) != nil:
		return h.openManifest(ctx, e, ref, want)
	case ref.Mutable() && a.Digest == want.Known:
		return cache.Answer{}, refused(cache.ErrUnchanged, "unchanged")
	}
	return a, nil
}

func manifestQuery(ref cache.Ref) query {
	q := query{method: http.MethodGet, repo: ref.Repo, tail: "manifests/" + ref.Tag, accept: manifestTypes}
	if !ref.Digest.IsZero() {
		q.tail = "manifests/" + ref.Digest.String()
	}
	return q
}

func (h *hub) headManifest(ctx context.Context, e *endpoint, ref cache.Ref, q query) (cache.Answer, error) {
	ctx, cancel := h.hurry(ctx, e)
	defer cancel()
	r, err := h.ask(ctx, e, q)
	if err != nil {
		return cache.Answer{}, err
	}
	defer r.drop()
	a := cache.Answer{Desc: cache.Desc{MediaType: mediaType(r.Header), Digest: ref.Digest, Size: r.ContentLength}}
	if ref.Mutable() {
		a.Digest, a.AsOf = namedDigest(r.Header), asOf(r.Header, time.Now())
	}
	if a.Size == 0 {
		a.Size = -1 // no manifest is empty: the server does not say
	}
	if legacy(a.MediaType) || a.Size > maxManifest {
		return cache.Answer{}, unsupported(a.MediaType, e)
	}
	return a, nil
}

// openManifest brings a manifest whole, and proven where its digest was given: so that bytes that are cut short or wrong
// make the next endpoint be asked.
func (h *hub) openManifest(ctx context.Context, e *endpoint, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	q := manifestQuery(ref)
	if ref.Mutable() {
		q.known = want.Known
	}
	doc, err := h.document(ctx, e, q, maxManifest)
	if err != nil {
		return cache.Answer{}, err
	}
	t := mediaType(doc.header)
	if legacy(t) {
		return cache.Answer{}, unsupported(t, e)
	}
	if err := usable(t); err != nil {
		return cache.Answer{}, broken("%s: %v", e.origin, err)
	}
	return doc.manifest(ref, want, e)
}

// manifest is the document as the answer for ref.
func (doc *document) manifest(ref cache.Ref, want cache.Want, e *endpoint) (cache.Answer, error) {
	a := cache.Answer{Desc: cache.Desc{MediaType: mediaType(doc.header), Digest: ref.Digest, Size: int64(len(doc.body))}}
	if ref.Mutable() {
		a.Digest, a.AsOf = namedDigest(doc.header), asOf(doc.header, time.Now())
		if a.Digest.IsZero() {
			a.Digest = cache.Sum(doc.body)
		}
	}
	switch {
	case len(doc.body) == 0:
		return cache.Answer{}, broken("%s sent an empty manifest", e.origin)
	case !a.Digest.Names(doc.body):
		wrong := broken("%s sent a manifest whose bytes are not those of %s", e.origin, a.Digest)
		wrong.kind = cache.ErrCorrupt
		return cache.Answer{}, wrong
	case ref.Mutable() && a.Digest == want.Known:
		return cache.Answer{}, refused(cache.ErrUnchanged, "unchanged")
	}
	a.Body = io.NopCloser(bytes.NewReader(doc.body))
	return a, nil
}

// namedDigest is the digest that an answer claims for a tag; zero where it claims none that we know.
func namedDigest(header http.Header) cache.Digest {
	d, err := cache.ParseDigest(header.Get("Docker-Content-Digest"))
	if err != nil {
		return cache.Digest{}
	}
	return d
}

// legacy reports whether t is a schema 1 manifest, of which the signed sort has a digest that is not its bytes'.
func legacy(t string) bool {
	return strings.HasPrefix(t, "application/vnd.docker.distribution.manifest.v1+")
}

func unsupported(t string, e *endpoint) error {
	if legacy(t) {
		return refused(cache.ErrUnsupported, "%s has it as a schema 1 manifest only, which is long deprecated: push it anew", e.origin)
	}
	return tooLarge(e, maxManifest)
}

func tooLarge(e *endpoint, limit int64) error {
	return refused(cache.ErrUnsupported, "%s has more of it than the %d MiB that we take", e.origin, limit>>20)
}

var errNoManifest = errors.New("what should be a manifest has another type: an error page, or another server in between?")

// usable reports whether t may be a manifest's type. It need not be one that we know, but one that somebody has named.
func usable(t string) error {
	if strings.HasPrefix(t, "application/vnd.") && strings.HasSuffix(t, "+json") {
		return nil
	}
	return errNoManifest
}

// document is a small answer, read whole.
type document struct {
	header http.Header
	body   []byte
}

// document makes q at e for an answer of at most limit bytes; a larger one is cache.ErrUnsupported. Where a connection
// breaks in the middle, another is tried: nobody can resume what must come whole.
func (h *hub) document(ctx context.Context, e *endpoint, q query, limit int64) (*document, error) {
	ctx, cancel := h.hurry(ctx, e)
	defer cancel()
	for first := true; ; first = false {
		r, err := h.ask(ctx, e, q)
		if err != nil {
			return nil, err
		}
		b, err := h.readAll(r, limit)
		switch {
		case errors.Is(err, errTooMuch):
			return nil, tooLarge(e, limit)
		case first && brokeOff(err):
			continue
		}
		return &document{r.Header, b}, err
	}
}

// brokeOff reports whether err, of a body, is that of its connection.
func brokeOff(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.cause != nil
}

// readAll reads an answer of at most limit bytes; the error for a larger one is errTooMuch.
func (h *hub) readAll(r *reply, limit int64) ([]byte, error) {
	b := newBody(r, r.ContentLength, h.shared.Timeouts.Stall, h.count.read, func(bool, error) {})
	defer b.Close()
	if r.ContentLength > limit {
		return nil, errTooMuch
	}
	all, err := io.ReadAll(io.LimitReader(b, limit+1))
	if err == nil && int64(len(all)) > limit {
		err = errTooMuch
	}
	return all, err
}
