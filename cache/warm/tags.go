package warm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidepool-oci/tidepool/cache"
)

// Find is the one image that a text means: its name in full, and the places where it is to be looked for, at least one.
func (w *Warmer) Find(text string) (ref cache.Ref, places []cache.Ref, err error) {
	item, err := Parse(text)
	if err == nil && item.match != nil {
		err = fmt.Errorf("%q is several images: name each by its tag", text)
	}
	if err != nil {
		return ref, nil, err
	}
	ref = cache.Ref{Kind: cache.KindManifest, Tag: item.Tag, Digest: item.Digest}
	if ref.Registry, ref.Repo, err = w.Name(item.Name); err != nil {
		return ref, nil, err
	}
	places, err = w.places(ref)
	return ref, places, err
}

// places are where a thing is to be looked for; at least one.
func (w *Warmer) places(ref cache.Ref) ([]cache.Ref, error) {
	if w.Places == nil {
		return []cache.Ref{ref}, nil
	}
	all, err := w.Places(ref)
	if len(all) == 0 {
		all = []cache.Ref{ref}
	}
	return all, err
}

// expand is the images of repo that an item means, each by the places where it may be.
func (w *Warmer) expand(ctx context.Context, repo cache.Ref, item Item, newest int) ([][]cache.Ref, error) {
	if item.match == nil {
		repo.Tag, repo.Digest = item.Tag, item.Digest
		places, err := w.places(repo)
		return [][]cache.Ref{places}, err
	}
	tags, err := w.tagsAnywhere(ctx, repo)
	if err != nil {
		return nil, err
	}
	tags = slices.DeleteFunc(tags, func(t string) bool { return !tagForm.MatchString(t) || !item.match(t) })
	if len(tags) == 0 {
		return nil, fmt.Errorf("%s has no such tag: tidepool warm fetches what the registry lists", repo)
	}
	slices.SortFunc(tags, func(a, b string) int { return compareTags(b, a) })
	if newest > 0 {
		tags = tags[:min(newest, len(tags))]
	}
	var all [][]cache.Ref
	for _, t := range tags {
		ref := repo
		ref.Tag = t
		places, err := w.places(ref)
		if err != nil {
			return nil, err
		}
		all = append(all, places)
	}
	return all, nil
}

// tagsAnywhere are those that are listed wherever repo is to be looked for.
func (w *Warmer) tagsAnywhere(ctx context.Context, repo cache.Ref) (all []string, err error) {
	repo.Kind = cache.KindTags
	places, err := w.places(repo)
	if err != nil {
		return nil, err
	}
	var missing error
	for _, ref := range places {
		tags, err := w.tags(ctx, ref)
		switch {
		case errors.Is(err, cache.ErrNotFound):
			missing = err
		case err != nil:
			return nil, err
		}
		all = append(all, tags...)
	}
	if len(all) == 0 {
		return nil, missing
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// tags are those that the registry lists.
func (w *Warmer) tags(ctx context.Context, repo cache.Ref) ([]string, error) {
	b, err := w.Store.Open(ctx, repo, cache.Whole)
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.Close() }()
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(b.Bytes(), &list); err != nil {
		return nil, fmt.Errorf("%s: %w", repo, err)
	}
	return list.Tags, nil
}

// compareTags orders tags by age, as far as they tell: numbers in them count as numbers, and what has a hyphen more comes
// before what it is built from, as 1.5.0-rc.1 before 1.5.0. Registries tell no dates with their lists.
func compareTags(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			m, n := strings.TrimLeft(a[:x], "0"), strings.TrimLeft(b[:y], "0")
			if c := cmp.Or(cmp.Compare(len(m), len(n)), cmp.Compare(m, n)); c != 0 {
				return c
			}
			a, b = a[x:], b[y:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(weight(a), weight(b))
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(weight(a), weight(b))
}

// weight is what the next byte of a tag counts: an end is more than a hyphen and less than anything else.
func weight(s string) int {
	switch {
	case s == "":
		return 1
	case s[0] == '-':
		return 0
	}
	return 2 + int(s[0])
}

// digits is how many of them s begins with.
func digits(s string) (n int) {
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
