package main

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cache/warm"
	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/metrics"
	"github.com/tidepool-oci/tidepool/proxy/admin"
)

// byHand is who pins what a command asks for.
const byHand = "operator"

// warming is the warmer as the admin listener takes it.
type warming struct {
	warm.Warmer
	store   *cache.Cache
	cluster *clustering     // nil: there is none
	ends    context.Context // when the process does
}

// warmUp makes the warmer, and has the configuration's rules carried out until the end.
func (r *running) warmUp(ctx context.Context) *warming {
	w := &warming{store: r.store, cluster: r.cluster}
	w.ends, r.cool = context.WithCancel(context.WithoutCancel(ctx))
	known := names(r.cfg)
	w.Store, w.Name, w.Places, w.Log = ruled{r.store, r.cluster}, known.Image, r.cfg.Candidates(), r.log.Named("warm")
	w.Offline = func(registry string) bool {
		all, each := r.hubs.Offline()
		return all || each[registry]
	}
	r.warming.Go(func() { w.Keep(w.ends, r.cfg.Rules()) })
	return w
}

// counted is what metrics tell.
func (w *warming) counted() metrics.Warmed { return metrics.Warmed(w.Stats()) }

// warmEvent is a line of the answer to an order: how far one image is, or at last what became of all.
type warmEvent struct {
	Schema int    `json:"schema"`
	Image  string `json:"image"`
	State  string `json:"state"` // started, moving, fetched, unchanged, failed
	Digest string `json:"digest,omitempty"`
	Have   int64  `json:"have_bytes"`
	Total  int64  `json:"total_bytes"`
	Bytes  int64  `json:"fetched_bytes"`
	Pinned bool   `json:"pinned"`
	Error  string `json:"error,omitempty"`
}

// warmSummary is the last line of it.
type warmSummary struct {
	Schema    int    `json:"schema"`
	State     string `json:"state"` // over
	Images    int    `json:"images"`
	Fetched   int    `json:"fetched"`
	Unchanged int    `json:"unchanged"`
	Failed    int    `json:"failed"`
	Bytes     int64  `json:"fetched_bytes"`
}

// stateOver is the state of a warmSummary.
const stateOver = "over"

// Warm carries an order of the admin listener out.
func (w *warming) Warm(ctx context.Context, o admin.WarmOrder, tell func(event any)) error {
	order, err := readOrder(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.ends, cancel)()
	sum := w.Run(ctx, order, func(e warm.Event) {
		line := warmEvent{
			Schema: thisSchema, Image: e.Image, State: e.State.String(), Digest: e.Digest,
			Have: e.Have, Total: e.Total, Bytes: e.Bytes, Pinned: e.Pinned,
		}
		if e.Err != nil {
			line.Error = e.Err.Error()
		}
		tell(line)
	})
	tell(warmSummary{
		Schema: thisSchema, State: stateOver, Images: sum.Images, Fetched: sum.Fetched, Unchanged: sum.Unchanged,
		Failed: sum.Failed, Bytes: sum.Bytes,
	})
	return nil
}

// readOrder reads what comes from outside.
func readOrder(o admin.WarmOrder) (order warm.Order, err error) {
	order = warm.Order{Images: o.Images, Newest: o.Newest}
	if len(o.Images) == 0 {
		err = errors.New("say which images, as in alpine:3")
	}
	if o.Newest < 0 {
		err = errors.Join(err, errors.New("newest: want how many tags, or 0 for all of them"))
	}
	for _, text := range o.Platforms {
		p, e := warm.ParsePlatform(text)
		order.Platforms, err = append(order.Platforms, p), errors.Join(err, e)
	}
	var r config.Referrers
	err = errors.Join(err, r.UnmarshalText([]byte(cmp.Or(o.Referrers, "once"))))
	if order.Referrers = r.Mean(); o.Pin {
		order.Owner = byHand
	}
	return order, err
}

// pinList is the document GET /api/v1/pins.
type pinList struct {
	Schema int         `json:"schema"`
	Bytes  int64       `json:"bytes"` // on disk, what several pins keep counted once
	Pins   []pinnedDoc `json:"pins"`
}

type pinnedDoc struct {
	Image  string    `json:"image"`
	Digest string    `json:"digest"`
	Owner  string    `json:"owner"` // operator: by hand; rules: by warm in the configuration
	Pinned time.Time `json:"pinned"`
	AsOf   time.Time `json:"as_of,omitzero"` // when the upstream said that the name stands for the digest
	Parts  int       `json:"parts"`
	Size   int64     `json:"size_bytes"`
	Whole  bool      `json:"whole"` // all of it is here; what is damaged is fetched anew by the next warming
}

// Pins are what is pinned.
func (w *warming) Pins() any {
	list := pinList{Schema: thisSchema, Bytes: w.store.Stats().PinnedBytes, Pins: []pinnedDoc{}}
	for _, p := range w.store.Pins() {
		d := pinnedDoc{Image: p.Ref.String(), Owner: p.Owner, Pinned: p.At.UTC(), Parts: len(p.Parts), Size: p.Bytes(), Whole: true}
		for n, x := range p.Parts {
			if d.Whole = d.Whole && w.store.Holds(x.Digest); n == 0 {
				d.Digest, d.AsOf = x.Digest.String(), x.AsOf.UTC()
			}
		}
		list.Pins = append(list.Pins, d)
	}
	return list
}
