package main

import (
	"context"
	"errors"
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
	DryRun bool        `json:"dry_run"` // nothing was forgotten
	Told   int         `json:"told"`    // other members that are alive, and were told
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
	for _, text := range o.Images {
		one := purgedDoc{Image: text}
		if err := w.purge(ctx, o, &one); err != nil {
			one.Error = err.Error()
		} else if !o.DryRun && !o.Here {
			answer.Told = w.cluster.others()
		}
		answer.Images = append(answer.Images, one)
	}
	return answer, nil
}

// purge forgets one image, or repository, at each place where it is looked for; or none of it.
func (w *warming) purge(ctx context.Context, o admin.PurgeOrder, one *purgedDoc) error {
	name, all := strings.CutSuffix(one.Image, everyTag)
	ref, places, err := w.Find(name)
	if err != nil {
		return err
	}
	places = slices.Clone(places)
	for i := range places {
		if all {
			ref.Tag, places[i].Tag = "", ""
		}
	}
	if one.Image = ref.String(); all {
		one.Image += everyTag
	}
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
