package warm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/tidepool-oci/tidepool/cache"
)

// image is one image on its way.
type image struct {
	*run
	name    cache.Ref
	digest  cache.Digest
	asOf    time.Time // of the name
	doubt   bool      // the registry could not be asked whether the name still is what it was
	changed bool      // a manifest was fetched
	pinned  bool

	seen  map[cache.Ref]bool
	parts []cache.Part
	blobs []cache.Part // of parts, what is fetched at last

	mu     sync.Mutex // guards what follows
	here   int64      // bytes of blobs that are here whole
	bytes  int64      // fetched for this order, manifests included
	flying map[*cache.Blob]struct{}
}

// deepest is how many indexes may be within each other, and how many referrers may refer to each other: two are used.
const deepest = 4

func (i *image) fetch(ctx context.Context) error {
	if err := i.top(ctx); err != nil {
		return i.explain(ctx, err)
	}
	if i.asPinned() {
		return i.verdict()
	}
	if err := i.content(ctx); err != nil {
		return i.explain(ctx, err)
	}
	if i.o.Owner != "" {
		if err := i.pin(ctx); err != nil {
			return i.explain(ctx, err)
		}
	}
	return i.verdict()
}

// explain is err, told as what it is to the image.
func (i *image) explain(ctx context.Context, err error) error {
	if stop := stopped(ctx); stop != nil {
		return stop
	}
	if errors.Is(err, cache.ErrNoRoom) {
		return fmt.Errorf("%w: give the store more (disk), or pin less", err)
	}
	return err
}

// verdict is what is left to say of an image that is here.
func (i *image) verdict() error {
	if i.doubt {
		return fmt.Errorf("it is held as it was at %s, but the upstream could not be asked whether it has changed",
			i.asOf.UTC().Format(time.RFC3339))
	}
	return nil
}

// top asks what the name stands for.
func (i *image) top(ctx context.Context) error {
	b, err := i.w.Store.Open(ctx, i.name, cache.Whole)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	i.digest, i.asOf = b.Digest, b.AsOf
	i.doubt = b.Stale() && !i.offline()
	i.fetched(b)
	if i.name.Mutable() {
		i.parts = append(i.parts, cache.Part{Ref: i.name, Desc: b.Desc, AsOf: b.AsOf})
	}
	return nil
}

// offline reports whether an operator wants its registry asked for nothing.
func (i *image) offline() bool { return i.w.Offline != nil && i.w.Offline(i.name.Registry) }

// asPinned reports whether the image is pinned as it is, and all of that is here, so that there is nothing to do. What was
// pinned while nobody could be asked what refers to it has no list of that.
func (i *image) asPinned() bool {
	if i.o.Owner == "" || i.o.Referrers == ReferrersAlways {
		return false
	}
	list := i.listOf(i.name.At(i.digest))
	for _, p := range i.w.Store.Pins() {
		if p.Owner != i.o.Owner || p.Ref != i.name {
			continue
		}
		whole, listed := false, i.o.Referrers == ReferrersNever || i.doubt || i.offline()
		for _, x := range p.Parts {
			if !i.w.Store.Holds(x.Digest) {
				return false
			}
			whole = whole || x.Digest == i.digest
			listed = listed || x.Ref == list
		}
		if !whole || !listed {
			return false
		}
		i.pinned = true
		i.here = p.Bytes()
		return true
	}
	return false
}

// content fetches all that belongs to the image: first the manifests, which tell how much that is.
func (i *image) content(ctx context.Context) error {
	if err := i.walk(ctx, i.name.At(i.digest), 0); err != nil {
		return err
	}
	if err := i.signatures(ctx); err != nil {
		return err
	}
	i.say(i.event(Started))
	stop := i.report(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(downloads)
	for _, x := range i.blobs {
		g.Go(func() error { return i.blob(ctx, x) })
	}
	return g.Wait()
}

// manifestDoc is an image's manifest, an index, or an artifact's: what is common to them.
type manifestDoc struct {
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Blobs     []ocispec.Descriptor `json:"blobs"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// walk fetches a manifest and all manifests in it, and notes the blobs.
func (i *image) walk(ctx context.Context, ref cache.Ref, depth int) error {
	if depth > deepest {
		return fmt.Errorf("%s: more than %d manifests within each other", ref, deepest)
	}
	if i.seen[ref] {
		return nil
	}
	i.seen[ref] = true
	doc, err := i.manifestAt(ctx, ref)
	if err != nil {
		return err
	}
	if doc.Config != nil {
		doc.Layers = append(doc.Layers, *doc.Config)
	}
	for _, d := range append(doc.Layers, doc.Blobs...) {
		if err := i.note(ref, d); err != nil {
			return err
		}
	}
	children, err := choose(doc.Manifests, i.o.Platforms)
	if err != nil && depth == 0 && doc.Manifests != nil {
		return err // what is within may be for fewer platforms, and an image is for one
	}
	for _, d := range children {
		child, err := cache.ParseDigest(string(d.Digest))
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
		if err := i.walk(ctx, ref.At(child), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// manifestAt is a manifest, as a part of the image.
func (i *image) manifestAt(ctx context.Context, ref cache.Ref) (doc manifestDoc, err error) {
	b, err := i.w.Store.Open(ctx, ref, cache.Whole)
	if err != nil {
		return doc, err
	}
	defer func() { _ = b.Close() }()
	i.parts = append(i.parts, cache.Part{Ref: ref, Desc: b.Desc})
	i.fetched(b)
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		return doc, fmt.Errorf("%s: %w", ref, err)
	}
	return doc, nil
}

// fetched counts a manifest, if it was fetched for this order.
func (i *image) fetched(b *cache.Blob) {
	if b.From != cache.FromUpstream {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.changed = true
	i.bytes += b.Size
}

// note notes a blob of the manifest at ref.
func (i *image) note(ref cache.Ref, d ocispec.Descriptor) error {
	if len(d.URLs) > 0 && (strings.Contains(d.MediaType, ".foreign.") || strings.Contains(d.MediaType, ".nondistributable.")) {
		return nil // clients fetch it from there: registries do not have it
	}
	digest, err := cache.ParseDigest(string(d.Digest))
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	ref.Kind = cache.KindBlob
	if ref = ref.At(digest); i.seen[ref] {
		return nil
	}
	i.seen[ref] = true
	part := cache.Part{Ref: ref, Desc: cache.Desc{Digest: digest, Size: d.Size}}
	i.parts, i.blobs = append(i.parts, part), append(i.blobs, part)
	return nil
}

// blob fetches one, unless it is here, and waits until it is proven.
func (i *image) blob(ctx context.Context, x cache.Part) error {
	if err := i.w.downs.Acquire(ctx, 1); err != nil {
		return err
	}
	defer i.w.downs.Release(1)
	b, err := i.w.Store.Open(ctx, x.Ref, cache.Whole)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	had := b.From == cache.FromMemory || b.From == cache.FromDisk
	if !had {
		i.aboard(b)
		err = b.Prove(ctx)
		i.ashore(b)
	}
	switch {
	case err != nil:
		return err
	case b.Size != x.Size:
		return fmt.Errorf("%s has %d bytes, its manifest says %d", x.Ref, b.Size, x.Size)
	case !i.w.Store.Holds(x.Digest) && (i.o.Owner != "" || i.w.Store.Keeps(x.Ref)): // else another member keeps it
		return fmt.Errorf("%s was fetched and could not be kept: %w", x.Ref, cache.ErrNoRoom)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.here += x.Size
	if b.From == cache.FromUpstream {
		i.bytes += x.Size
	}
	return nil
}

func (i *image) aboard(b *cache.Blob) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.flying == nil {
		i.flying = map[*cache.Blob]struct{}{}
	}
	i.flying[b] = struct{}{}
}

func (i *image) ashore(b *cache.Blob) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.flying, b)
}

// pin pins what there is.
func (i *image) pin(ctx context.Context) error {
	err := i.w.Store.Pin(ctx, cache.Pin{Ref: i.name, Owner: i.o.Owner, Parts: i.parts})
	i.pinned = err == nil
	return err
}

// event is how far it is.
func (i *image) event(s State) Event {
	i.mu.Lock()
	defer i.mu.Unlock()
	e := Event{Image: i.name.String(), State: s, Have: i.here, Bytes: i.bytes, Pinned: i.pinned}
	if !i.digest.IsZero() {
		e.Digest = i.digest.String()
	}
	for _, x := range i.blobs {
		e.Total += x.Size
	}
	for b := range i.flying {
		e.Have += b.Arrived()
	}
	e.Total = max(e.Total, i.here)
	return e
}

// report tells how far it is, until stop returns.
func (i *image) report(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var over sync.WaitGroup
	over.Go(func() {
		tick := time.NewTicker(tellEvery)
		defer tick.Stop()
		for last := int64(-1); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if e := i.event(Moving); e.Have != last {
				last = e.Have
				i.say(e)
			}
		}
	})
	return func() {
		cancel()
		over.Wait()
	}
}
