package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Copies has what this member holds be where it belongs: at as many members as are to keep it, soon after it has landed,
// and again when the ring has changed; and with somebody else before this member leaves.
type Copies struct {
	Router  *Router
	Store   Holder
	Changed func() <-chan struct{} // closed at the next change of the members
	Settle  time.Duration          // how long after a change nothing more must change before it is acted upon; 0: 30 s
	Log     *zap.Logger            // nil: silence

	once   sync.Once
	fresh  chan thing    // landed just now
	names  chan named    // learned just now
	missed chan struct{} // full where something that landed was not taken
	count  copied
}

// Holder is the store of a member that offers others what it holds.
type Holder interface {
	Inventory(skip, n int) (things []cache.Thing, more bool)
	Names(fn func(ref cache.Ref, d cache.Desc, asOf time.Time))
	Rank(d cache.Digest, hotCopy bool)
	Pins() []cache.Pin
	Unpin(owner string, ref cache.Ref) (bool, error)
}

// CopyStats are counters since start of what other members were given to keep.
type CopyStats struct {
	Behind   uint64 // things, just after they had landed here
	Repaired uint64 // things, after the ring had changed
	Handed   uint64 // things, because this member leaves
	Pins     uint64
	Bytes    uint64 // of all things
	Failed   uint64 // things that were not taken, for now
	Rounds   uint64 // how often all that is held was looked through
}

type copied struct{ behind, repaired, handed, pins, bytes, failed, rounds atomic.Uint64 }

// Stats reads the counters.
func (c *Copies) Stats() CopyStats {
	return CopyStats{
		Behind: c.count.behind.Load(), Repaired: c.count.repaired.Load(), Handed: c.count.handed.Load(), Pins: c.count.pins.Load(),
		Bytes: c.count.bytes.Load(), Failed: c.count.failed.Load(), Rounds: c.count.rounds.Load(),
	}
}

const (
	// settled: a rolling restart changes the ring twice a member, and most of what each change would move comes back.
	settled = 30 * time.Second
	// roundEvery is how often all is looked through without a change: for what was dropped, or was not taken.
	roundEvery = 6 * time.Hour
	// againAfter is when what was not taken is offered again.
	againAfter = 5 * time.Minute
	// pinsEvery is how often new pins are looked for.
	pinsEvery = 5 * time.Second
	// pinAgain is when a pin that was not taken is offered again: for want of room, mostly, which a person must make.
	pinAgain = time.Minute
	// writers is how many things are given away at the same time, and mostFresh how many wait for that: of more, the next
	// round takes care.
	writers, mostFresh = 4, 4096
	// mostTake bounds how long a member may take for a thing, besides what its size needs at slowTake bytes a second.
	mostTake, slowTake = 2 * time.Minute, 1 << 20
)

func (c *Copies) prepare() {
	c.once.Do(func() {
		c.fresh, c.names, c.missed = make(chan thing, mostFresh), make(chan named, mostFresh), make(chan struct{}, 1)
	})
}

// Landed notes what has come to stay here. It returns at once.
func (c *Copies) Landed(ref cache.Ref, d cache.Desc, k cache.Keeping) {
	c.prepare()
	// Of a registry that asks each caller, whoever was asked has fetched it, and its owner does not have it yet.
	if wanted := k == cache.Kept && c.Router.Replicas > 1 || k == cache.HotCopy && c.Router.alone(ref); !wanted {
		return
	}
	select {
	case c.fresh <- c.thing(ref, d.Size):
	default:
		c.count.failed.Add(1)
		poke(c.missed)
	}
}

func (c *Copies) thing(ref cache.Ref, size int64) thing {
	x := thingOf(ref, size)
	x.Callers = c.Router.alone(ref)
	return x
}

// Named notes what a registry has said that a name stands for. It returns at once.
func (c *Copies) Named(ref cache.Ref, d cache.Desc, asOf time.Time) {
	c.prepare()
	if c.Router.Replicas < 2 || c.Router.alone(ref) {
		return
	}
	select {
	case c.names <- namedOf(ref, d, asOf):
	default:
	}
}

func namedOf(ref cache.Ref, d cache.Desc, asOf time.Time) named {
	return named{Registry: ref.Registry, Repo: ref.Repo, Tag: ref.Tag, Digest: d.Digest.String(), Size: max(0, d.Size), Type: d.MediaType, AsOf: asOf}
}

// Run writes behind and repairs until ctx ends.
func (c *Copies) Run(ctx context.Context) error {
	c.prepare()
	var all sync.WaitGroup
	for range writers {
		all.Go(func() { c.writeBehind(ctx) })
	}
	all.Go(func() { c.tellNames(ctx) })
	all.Go(func() { c.tend(ctx) })
	all.Go(func() { c.tendPins(ctx) })
	all.Wait()
	return ctx.Err()
}

func (c *Copies) writeBehind(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case x := <-c.fresh:
			ref, err := x.ref()
			if err != nil {
				continue
			}
			for _, m := range c.others(ref) {
				if c.give(ctx, m, x, false) != nil {
					poke(c.missed)
					continue
				}
				c.count.behind.Add(1)
			}
		}
	}
}

// others are the members that are to keep a thing, besides this one.
func (c *Copies) others(ref cache.Ref) []Member {
	v := c.Router.view()
	if v == nil {
		return nil
	}
	order := c.keepers(v.Ring, ref)
	others := make([]Member, 0, len(order))
	for _, m := range order {
		if m.Name != v.Self {
			others = append(others, m)
		}
	}
	return others
}

// give has a member take one thing.
func (c *Copies) give(ctx context.Context, to Member, x thing, hurry bool) error {
	limit := mostTake + time.Duration(x.Size/slowTake)*time.Second
	if rate := c.Router.RepairRate; rate > 0 {
		limit += time.Duration(takes*x.Size/rate) * time.Second // others are before it
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := c.Router.Remotes.to(to).post(ctx, takePath, offer{Things: []thing{x}, Hurry: hurry}, &struct{}{})
	if err != nil {
		c.count.failed.Add(1)
		c.log().Debug("not taken", zap.String("member", to.Name), zap.String("digest", x.Digest), zap.Error(err))
		return err
	}
	c.count.bytes.Add(uint64(x.Size))
	return nil
}

// tellNames tells the other keepers of a name what it stands for, a few at a time.
func (c *Copies) tellNames(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-c.names:
			batch := []named{n}
			for len(batch) < mostThings {
				select {
				case n := <-c.names:
					batch = append(batch, n)
					continue
				default:
				}
				break
			}
			c.spread(ctx, batch)
		}
	}
}

// spread tells names to those who are to keep them, and reports whether all have heard.
func (c *Copies) spread(ctx context.Context, batch []named) (all bool) {
	to := map[string]Member{}
	lists := map[string][]named{}
	for _, n := range batch {
		ref, err := n.ref()
		if err != nil {
			continue
		}
		for _, m := range c.others(ref) {
			to[m.Name], lists[m.Name] = m, append(lists[m.Name], n)
		}
	}
	all = true
	for name, list := range lists {
		ctx, cancel := context.WithTimeout(ctx, headTime)
		if err := c.Router.Remotes.to(to[name]).post(ctx, namesPath, list, &struct{}{}); err != nil {
			c.log().Debug("names not told", zap.String("member", name), zap.Error(err))
			all = false
		}
		cancel()
	}
	return all
}

func (c *Copies) log() *zap.Logger {
	if c.Log == nil {
		return zap.NewNop()
	}
	return c.Log
}
