// Package warm fetches images before anybody asks for them, by hand or by a schedule, and pins them where that is
// wanted.
//
// Its invariant: it is a caller of the cache like any other, only never in anybody's way: what it fetches goes after
// what clients wait for, nothing is spent on it of what a registry's limit has left for clients, and it stops at once.
// What it has fetched is not fetched again: who runs it a second time goes on where the first one ended.
package warm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Order says what is to be fetched.
type Order struct {
	Images    []string   // as docker writes names; in the place of a tag, a range of versions or a pattern too
	Platforms []Platform // of images that there are for several; none: all
	Referrers Referrers
	Newest    int    // how many of the tags that a range or a pattern matches, the newest first; 0: all of them
	Owner     string // who pins the images; "": nobody does
}

// Referrers says when what refers to an image is fetched with it: its signatures, attestations and bills of materials.
type Referrers uint8

// By default referrers are asked for once; what is signed later comes with the image's next change.
const (
	ReferrersOnce Referrers = iota
	ReferrersAlways
	ReferrersNever
)

// Event tells how far an image is.
type Event struct {
	Image  string // canonical where the name could be read
	Digest string // of what the name stands for, once that is known
	State  State
	Have   int64 // bytes of Total that are here
	Total  int64 // bytes of all that belongs to it
	Bytes  int64 // of Have, those that were fetched for this order
	Pinned bool
	Err    error // of Failed
}

// State is how far an image is.
type State uint8

// An image is Started when it is known what belongs to it; then come any number of Moving, and one of the others.
const (
	Started State = iota
	Moving
	Fetched   // something of it was
	Unchanged // all of it was here
	Failed
)

func (s State) String() string {
	return [...]string{"started", "moving", "fetched", "unchanged", "failed"}[s]
}

// Over reports whether nothing comes after s.
func (s State) Over() bool { return s >= Fetched }

// Summary is what became of an order.
type Summary struct {
	Images, Fetched, Unchanged, Failed int
	Bytes                              int64       // fetched
	Refs                               []cache.Ref // wherever they may be found
	Complete                           bool        // every range and pattern could be looked up, so that Refs are all that was meant
}

// Store is what content comes by.
type Store interface {
	Open(ctx context.Context, ref cache.Ref, want cache.Want) (*cache.Blob, error)
	Stat(ctx context.Context, ref cache.Ref) (cache.Found, error)
	Holds(d cache.Digest) bool
	Knows(ref cache.Ref) bool
	Keeps(ref cache.Ref) bool
	Pin(ctx context.Context, p cache.Pin) error
	Unpin(owner string, ref cache.Ref) (bool, error)
	Pins() []cache.Pin
}

// Warmer carries orders out. Its fields must be set, but Log.
type Warmer struct {
	Store Store
	// Name says which repository of which registry a name without tag and digest means.
	Name func(name string) (registry, repo string, err error)
	// Places are where a thing is to be looked for, in order, as for clients: aliases and virtual upstreams. An error says
	// why it is looked for nowhere. nil, or none: where its name says.
	Places func(ref cache.Ref) ([]cache.Ref, error)
	// Offline says that an operator wants this registry asked for nothing: then what is held is as good as it gets. nil: none is.
	Offline func(registry string) bool
	Log     *zap.Logger // nil: silence

	once  sync.Once
	downs *semaphore.Weighted
	count counters
}

const (
	// images are warmed at a time: while one waits for manifests, another's layers come.
	images = 3
	// downloads of all orders together go on at a time: as many as fill an uplink, and as one docker client opens.
	downloads = 3
	// tellEvery is how often it is told how far an image is.
	tellEvery = 500 * time.Millisecond
)

// Run carries o out and tells how that goes, one event at a time. An image that fails stops no other. It ends early
// only with ctx.
func (w *Warmer) Run(ctx context.Context, o Order, tell func(Event)) Summary {
	w.once.Do(func() { w.downs = semaphore.NewWeighted(downloads) })
	ctx = cache.WithSpare(cache.WithUrgency(ctx, cache.Warming))
	if o.Owner != "" {
		ctx = cache.WithKeep(ctx)
	}
	r := &run{w: w, o: o, tell: tell, seen: map[cache.Ref]bool{}}
	r.sum.Complete = true
	var g errgroup.Group
	g.SetLimit(images)
	for _, text := range o.Images {
		refs, err := r.refs(ctx, text)
		if err != nil {
			r.sum.Complete = false
			r.over(Event{Image: text, State: Failed, Err: err})
			continue
		}
		for _, places := range refs {
			g.Go(func() error {
				r.image(ctx, places)
				return nil
			})
		}
	}
	_ = g.Wait() // of funcs that never fail
	return r.sum
}

// run is one order that is being carried out.
type run struct {
	w *Warmer
	o Order

	mu   sync.Mutex // guards what follows; tell is called with it
	tell func(Event)
	sum  Summary
	seen map[cache.Ref]bool
}

// refs are the images that a text means, each by the places where it may be; those are left out that another text has
// meant.
func (r *run) refs(ctx context.Context, text string) ([][]cache.Ref, error) {
	if ctx.Err() != nil {
		return nil, stopped(ctx)
	}
	item, err := Parse(text)
	if err != nil {
		return nil, err
	}
	repo := cache.Ref{Kind: cache.KindManifest}
	if repo.Registry, repo.Repo, err = r.w.Name(item.Name); err != nil {
		return nil, err
	}
	all, err := r.w.expand(ctx, repo, item, r.o.Newest)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var fresh [][]cache.Ref
	for _, places := range all {
		if !r.seen[places[0]] {
			r.seen[places[0]] = true
			fresh = append(fresh, places)
			r.sum.Refs = append(r.sum.Refs, places...)
		}
	}
	return fresh, nil
}

// image fetches one image from the first place that has it, and tells what came of it.
func (r *run) image(ctx context.Context, places []cache.Ref) {
	var i *image
	err := stopped(ctx)
	for _, ref := range places {
		i = &image{run: r, name: ref, seen: map[cache.Ref]bool{}}
		if err == nil {
			err = i.fetch(ctx)
		}
		if i.digest.IsZero() && errors.Is(err, cache.ErrNotFound) && ref != places[len(places)-1] {
			err = nil
			continue
		}
		break
	}
	e := i.event(Unchanged)
	switch {
	case err != nil:
		e.State, e.Err = Failed, err
	case i.changed || e.Bytes > 0:
		e.State = Fetched
	}
	r.over(e)
}

// over counts and tells the end of an image.
func (r *run) over(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Images++
	r.sum.Bytes += e.Bytes
	switch e.State {
	case Fetched:
		r.sum.Fetched++
	case Unchanged:
		r.sum.Unchanged++
	default:
		r.sum.Failed++
	}
	r.w.count.add(e)
	r.tell(e)
}

func (r *run) say(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tell(e)
}

func (w *Warmer) log() *zap.Logger {
	if w.Log == nil {
		return zap.NewNop()
	}
	return w.Log
}

// errStopped says that the order was broken off.
var errStopped = errors.New("stopped; the next run goes on from here")

// stopped is nil while ctx lasts.
func stopped(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w (%w)", errStopped, context.Cause(ctx))
}
