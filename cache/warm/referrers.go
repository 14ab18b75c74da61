package warm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidepool-oci/tidepool/cache"
)

// cosign's older scheme: what it makes for an image has a tag of its own, made of the image's digest.
var cosignTags = []string{".sig", ".att", ".sbom"}

// mostReferrers of one manifest are fetched: who has more has a scanner that never cleans up.
const mostReferrers = 200

// signatures fetches what refers to the image's manifests: by the referrers of each, and by cosign's tags for the image
// itself.
func (i *image) signatures(ctx context.Context) error {
	if i.o.Referrers == ReferrersNever {
		return nil
	}
	var manifests []cache.Ref
	for _, x := range i.parts {
		if x.Ref.Kind == cache.KindManifest && !x.Ref.Mutable() {
			manifests = append(manifests, x.Ref)
		}
	}
	if err := i.cosign(ctx, i.asks(i.listOf(manifests[0]))); err != nil {
		return err
	}
	// The image's own list comes last: once it is known, the rest was asked for too.
	for _, ref := range slices.Backward(manifests) {
		if err := i.referrers(ctx, ref, 0); err != nil {
			return fmt.Errorf("what refers to %s: %w", ref, err)
		}
	}
	return nil
}

// listOf is the list of what refers to a manifest.
func (i *image) listOf(ref cache.Ref) cache.Ref {
	ref.Kind = cache.KindReferrers
	return ref
}

// asks reports whether a list is to be asked for.
func (i *image) asks(list cache.Ref) bool {
	return i.o.Referrers == ReferrersAlways || i.changed || i.o.Owner != "" || !i.w.Store.Knows(list)
}

// referrers fetches what refers to a manifest, and what refers to that.
func (i *image) referrers(ctx context.Context, ref cache.Ref, depth int) error {
	list := i.listOf(ref)
	if depth > deepest || i.seen[list] || !i.asks(list) {
		return nil
	}
	i.seen[list] = true
	found, err := i.list(ctx, list)
	if err != nil {
		return err
	}
	for _, d := range found[:min(len(found), mostReferrers)] {
		digest, err := cache.ParseDigest(string(d.Digest))
		if err != nil {
			return err
		}
		if err := i.walk(ctx, ref.At(digest), 1); err != nil {
			return err
		}
		if err := i.referrers(ctx, ref.At(digest), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// none reports whether there is no such thing to be had, which is no fault: not every image is signed. Nor is it one that a
// registry is not asked by an operator's word: an image that is here can be pinned all the same.
func none(err error) bool {
	return errors.Is(err, cache.ErrNotFound) || errors.Is(err, cache.ErrUnsupported) || errors.Is(err, cache.ErrOffline)
}

// list is what refers to something, as a part of the image; nothing where the registry has no such list.
func (i *image) list(ctx context.Context, ref cache.Ref) ([]ocispec.Descriptor, error) {
	b, err := i.w.Store.Open(ctx, ref, cache.Whole)
	if none(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.Close() }()
	var index ocispec.Index
	if err := json.Unmarshal(b.Bytes(), &index); err != nil {
		return nil, err
	}
	i.parts = append(i.parts, cache.Part{Ref: ref, Desc: b.Desc, AsOf: b.AsOf})
	return index.Manifests, nil
}

// cosign fetches what has a tag made of the image's digest.
func (i *image) cosign(ctx context.Context, ask bool) error {
	if !ask {
		return nil
	}
	for _, suffix := range cosignTags {
		ref := i.name
		ref.Digest, ref.Tag = cache.Digest{}, strings.Replace(i.digest.String(), ":", "-", 1)+suffix
		found, err := i.w.Store.Stat(ctx, ref) // a HEAD: mostly there is none, and a GET may count
		if none(err) {
			continue
		}
		if err == nil {
			i.parts = append(i.parts, cache.Part{Ref: ref, Desc: found.Desc, AsOf: found.AsOf})
			err = i.walk(ctx, ref.At(found.Digest), 1)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
	}
	return nil
}
