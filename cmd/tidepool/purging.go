package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/proxy/admin"
)

// purged is what POST /api/v1/purge answers.
type purged struct {
	Schema int         `json:"schema"`
	DryRun bool        `json:"dry_run"`          // nothing was forgotten
	Told   int         `json:"told"`             // other members that are alive, and were told
	Silent []string    `json:"silent,omitempty"` // of these, who did not say what they pin: it would be kept there
	Images []purgedDoc `json:"images"`
}

type purgedDoc struct {
	Image  string `json:"image"`
	Names  int    `json:"names"`  // tags and lists
	Things int    `json:"things"` // manifests, lists and blobs that were held here
	Bytes  int64  `json:"bytes"`  // of these
	Error  string `json:"error,omitempty"`
}

// everyTag stands, in the place of a tag, for all of a repository.
const everyTag = ":*"

// Purge forgets images here, and unless it is to be here alone tells the other members to forget them.
func (w *warming) Purge(ctx context.Context, o admin.PurgeOrder) (any, error) {
	if len(o.Images) == 0 {
		return nil, errors.New("say which images, as in alpine:3; alpine:* is all of a repository")
	}
	answer := purged{Schema: thisSchema, DryRun: o.DryRun, Images: []purgedDoc{}}
	found := make([]lookedUp, len(o.Images))
	for i, text := range o.Images {
		found[i] = w.scopeOf(text)
	}
	pins := make([][]cluster.PinnedAt, len(found))
	if !o.Here {
		pins, answer.Silent = w.pinnedIn(ctx, found)
	}
	for i, x := range found {
		one := purgedDoc{Image: cmp.Or(x.name, o.Images[i])}
		err := cmp.Or(x.err, pinnedError(pins[i], w.cluster))
		if err == nil {
			err = w.purge(ctx, o, x.places, &one)
		}
		if err != nil {
			one.Error = err.Error()
		} else if !o.DryRun && !o.Here {
			answer.Told = w.cluster.others()
		}
		answer.Images = append(answer.Images, one)
	}
	return answer, nil
}

// scopeOf is what is named as the image, or repository, that is to be forgotten.
func (w *warming) scopeOf(text string) lookedUp {
	name, all := strings.CutSuffix(text, everyTag)
	ref, places, err := w.Find(name)
	if err != nil {
		return lookedUp{err: err}
	}
	if !all {
		return lookedUp{ref.String(), places, nil}
	}
	places = slices.Clone(places)
	for i := range places {
		places[i].Tag = ""
	}
	ref.Tag = ""
	return lookedUp{ref.String() + everyTag, places, nil}
}

// pinnedError says by whom it is pinned, whichever member was asked: what is pinned at one is forgotten by none.
func pinnedError(pins []cluster.PinnedAt, c *clustering) error {
	if len(pins) == 0 || c == nil { // without a cluster the store says so
		return nil
	}
	p := pins[0]
	home, owner := cluster.HomeOf(p)
	switch {
	case owner == byHand:
		return fmt.Errorf("%w by hand, as %s, at %s: unpin it first", cache.ErrPinned, p.Ref, p.Member)
	case c.means(p):
		return fmt.Errorf("%w by a rule of %s, as %s: take it out of warm in the configuration there first", cache.ErrPinned, home, p.Ref)
	}
	return fmt.Errorf("%w, as %s, at %s for a rule of %s, which is gone: unpin it first", cache.ErrPinned, p.Ref, p.Member, home)
}

// purge forgets one image, or repository, at each place where it is looked for; or none of it.
func (w *warming) purge(ctx context.Context, o admin.PurgeOrder, places []cache.Ref, one *purgedDoc) error {
	upTo := time.Now()
	for _, at := range places {
		p, err := w.store.Purge(ctx, at, upTo, true)
		if err != nil {
			return err
		}
		one.Names, one.Things, one.Bytes = one.Names+p.Names, one.Things+p.Things, one.Bytes+p.Bytes
	}
	if o.DryRun {
		return nil
	}
	for _, at := range places {
		p, err := w.store.Purge(ctx, at, upTo, false)
		if err != nil {
			return err
		}
		if !o.Here {
			w.cluster.tell(cluster.Event{Kind: cluster.Purged, Ref: at})
			w.cluster.drop(w.store, at, p, upTo)
		}
	}
	return nil
}

// forget tells the other members that a pin was taken back.
func (w *warming) forget(places ...cache.Ref) {
	for _, at := range places {
		w.cluster.tell(cluster.Event{Kind: cluster.Unpinned, Ref: at, Of: byHand})
	}
}
