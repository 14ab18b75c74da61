package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// world is the registries behind a cluster: it has what it was given, and counts what it sends.
type world struct {
	mu    sync.Mutex
	blobs map[cache.Digest][]byte
	tags  map[string]cache.Digest
	lists map[cache.Digest]cache.Digest // of referrers, by what they refer to
	gets  map[string]int                // by ref
	heads map[string]int
	slow  time.Duration // until its first byte
	pace  time.Duration // of each 64 KiB
	down  bool
}

func newWorld() *world {
	return &world{blobs: map[cache.Digest][]byte{}, tags: map[string]cache.Digest{}, lists: map[cache.Digest]cache.Digest{}, gets: map[string]int{}, heads: map[string]int{}}
}

func (w *world) blob(n int, seed uint64) cache.Ref {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return w.put(cache.KindBlob, fmt.Sprintf("library/app%d", seed%7), b)
}

func (w *world) put(kind cache.Kind, repo string, b []byte) cache.Ref {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := cache.Sum(b)
	w.blobs[d] = b
	return cache.Ref{Registry: "docker.io", Repo: repo, Kind: kind, Digest: d}
}

func (w *world) image(repo, tag string, layers ...cache.Ref) cache.Ref {
	list := ""
	for i, l := range layers {
		if i > 0 {
			list += ","
		}
		list += fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, l.Digest, len(w.blobs[l.Digest]))
	}
	ref := w.put(cache.KindManifest, repo, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[%s],"annotations":{"n":%q}}`, list, repo+tag))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tags[repo+":"+tag] = ref.Digest
	return cache.Ref{Registry: "docker.io", Repo: repo, Kind: cache.KindManifest, Tag: tag}
}

// referrers are a list that is never empty, of what refers to a manifest.
func (w *world) referrers(of cache.Ref) cache.Ref {
	doc := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"of":%q}}`, of.Digest)
	w.mu.Lock()
	defer w.mu.Unlock()
	d := cache.Sum(doc)
	w.blobs[d], w.lists[of.Digest] = doc, d
	return cache.Ref{Registry: of.Registry, Repo: of.Repo, Kind: cache.KindReferrers, Digest: of.Digest}
}

func (w *world) find(ref cache.Ref, count map[string]int) (cache.Answer, []byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	count[ref.String()]++
	d := ref.Digest
	if ref.Tag != "" {
		d = w.tags[ref.Repo+":"+ref.Tag]
	}
	if ref.Kind == cache.KindReferrers {
		d = w.lists[ref.Digest]
	}
	b, ok := w.blobs[d]
	switch {
	case w.down:
		return cache.Answer{}, nil, fmt.Errorf("%s: %w", ref, cache.ErrUnavailable)
	case !ok:
		return cache.Answer{}, nil, fmt.Errorf("%s: %w", ref, cache.ErrNotFound)
	}
	a := cache.Answer{Desc: cache.Desc{Digest: d, Size: int64(len(b))}}
	switch ref.Kind {
	case cache.KindManifest:
		a.MediaType = "application/vnd.oci.image.manifest.v1+json"
	case cache.KindReferrers:
		a.MediaType = "application/vnd.oci.image.index.v1+json"
	}
	return a, b, nil
}

func (w *world) Resolve(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	if !pause(ctx, w.slow) {
		return cache.Answer{}, ctx.Err()
	}
	a, _, err := w.find(ref, w.heads)
	if err == nil && a.Digest == want.Known {
		err = cache.ErrUnchanged
	}
	return a, err
}

func (w *world) Open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	a, b, err := w.find(ref, w.gets)
	if !pause(ctx, w.slow) {
		return cache.Answer{}, ctx.Err()
	}
	if err != nil {
		return a, err
	}
	if want.Off > int64(len(b)) { // by another's word it is longer
		return a, fmt.Errorf("%s: it has %d bytes, asked from %d on: %w", ref, len(b), want.Off, cache.ErrCorrupt)
	}
	end := len(b)
	if want.N >= 0 {
		end = min(end, int(want.Off+want.N))
	}
	a.Off = want.Off
	a.Body = io.NopCloser(&slowly{ctx, bytes.NewReader(b[want.Off:end]), w.pace})
	return a, nil
}

type slowly struct {
	ctx  context.Context
	r    io.Reader
	pace time.Duration
}

func (p *slowly) Read(b []byte) (int, error) {
	if !pause(p.ctx, p.pace) {
		return 0, p.ctx.Err()
	}
	return p.r.Read(b[:min(len(b), 64<<10)])
}

func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// most is the most often that anything was asked for.
func most(m map[string]int) (n int, what string) {
	for k, v := range m {
		if v > n {
			n, what = v, k
		}
	}
	return n, what
}

func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.gets)
	clear(w.heads)
}

// corpus is some images, and all that belongs to them.
func (w *world) corpus(images, layers, size int) (refs []cache.Ref) {
	for i := range images {
		repo := fmt.Sprintf("library/image%d", i)
		var blobs []cache.Ref
		for l := range layers {
			b := w.blob(size, uint64(1000+i*layers+l))
			b.Repo = repo
			blobs = append(blobs, b)
		}
		refs = append(append(refs, w.image(repo, "1", blobs...)), blobs...)
	}
	return refs
}
