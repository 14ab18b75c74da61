package cluster

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// chunk is how many things are looked at between two looks at what is held: enough that a look at a million costs little.
const chunk = 50_000

// tend repairs after each change of the ring, and once in a while, until ctx ends.
func (c *Copies) tend(ctx context.Context) {
	var done *View
	var before *Ring // by which everything was where it belongs
	again, soon := time.NewTimer(roundEvery), false
	defer again.Stop()
	for ctx.Err() == nil {
		changed := c.changed()
		v := c.Router.view()
		if v != nil && (done == nil || done.Ring != v.Ring) {
			if !c.quiet(ctx, v) {
				continue
			}
			done = v
			again.Reset(roundEvery)
			if soon = !c.round(ctx, v, before); soon {
				again.Reset(againAfter)
			} else if now := c.Router.view(); now != nil && now.Ring == v.Ring {
				before = v.Ring
			}
			continue
		}
		select {
		case <-changed:
		case <-c.missed:
			if !soon { // else what is missed without a pause would put it off for ever
				again.Reset(againAfter)
				soon = true
			}
		case <-again.C:
			done = nil
		case <-ctx.Done():
		}
	}
}

func (c *Copies) changed() <-chan struct{} {
	if c.Changed == nil {
		return nil
	}
	return c.Changed()
}

// quiet waits until nothing has changed for a while. False: something has.
func (c *Copies) quiet(ctx context.Context, v *View) bool {
	alarm := time.NewTimer(cmp.Or(c.Settle, settled))
	defer alarm.Stop()
	for {
		changed := c.changed()
		if now := c.Router.view(); now == nil || now.Ring != v.Ring {
			return false
		}
		select {
		case <-changed:
		case <-alarm.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// round looks through all that is held and has it be where it belongs by v, as it was by an earlier ring; nil: nobody knows.
// It reports whether all was taken, as far as it came.
func (c *Copies) round(ctx context.Context, v *View, before *Ring) bool {
	c.count.rounds.Add(1)
	whole := c.giveNames(ctx)
	for skip, more := 0, true; more; skip += chunk {
		var things []cache.Thing
		things, more = c.Store.Inventory(skip, chunk)
		for at := 0; at < len(things); at += mostThings {
			if now := c.Router.view(); ctx.Err() != nil || now == nil || now.Ring != v.Ring {
				return true // there is another round, or none
			}
			taken := c.offer(ctx, v, before, things[at:min(len(things), at+mostThings)], false)
			c.count.repaired.Add(uint64(taken.taken))
			whole = whole && taken.all
		}
	}
	return whole
}

// outcome is what came of an offer.
type outcome struct {
	taken int
	all   bool // everybody has what they are to have
}

// offer offers things to those who are to keep them by v; hot copies only to those who were not to by an earlier ring: else
// they have them, and one whose owner died is all there is of it. What all of them have, and this member is not to keep, is
// a hot copy from now on.
func (c *Copies) offer(ctx context.Context, v *View, before *Ring, things []cache.Thing, hurry bool) (sum outcome) {
	sum.all = true
	lists := map[string][]cache.Thing{}
	to := map[string]Member{}
	var foreign []cache.Thing
	for _, x := range things {
		keepers := c.keepers(v.Ring, x.Ref)
		mine := isAmong(keepers, v.Self)
		switch {
		case x.HotCopy && !mine && !c.Router.alone(x.Ref) && slices.EqualFunc(keepers, c.keepers(before, x.Ref), sameMember):
			continue
		case x.HotCopy && mine:
			c.Store.Rank(x.Ref.Digest, false)
		case !mine:
			foreign = append(foreign, x)
		}
		for _, m := range keepers {
			if m.Name != v.Self {
				to[m.Name], lists[m.Name] = m, append(lists[m.Name], x)
			}
		}
	}
	missed := map[cache.Digest]bool{}
	for name, list := range lists {
		taken := c.offerTo(ctx, to[name], list, hurry, missed)
		sum.taken += taken.taken
		sum.all = sum.all && taken.all
	}
	for _, x := range foreign {
		if !missed[x.Ref.Digest] && !hurry && ctx.Err() == nil {
			c.Store.Rank(x.Ref.Digest, true)
		}
	}
	return sum
}

// keepers are to keep a thing by a ring.
func (c *Copies) keepers(r *Ring, ref cache.Ref) []Member {
	if r == nil {
		return nil
	}
	return r.Owners(KeyOf(ref), max(1, c.Router.Replicas))
}

func sameMember(a, b Member) bool { return a.Name == b.Name }

// offerTo offers things to one member and has it take what it lacks. missed collects what it has not.
func (c *Copies) offerTo(ctx context.Context, m Member, list []cache.Thing, hurry bool, missed map[cache.Digest]bool) (sum outcome) {
	sum.all = true
	miss := func(x cache.Thing) {
		sum.all = false
		missed[x.Ref.Digest] = true
	}
	o := offer{Hurry: hurry, Things: make([]thing, len(list))}
	for i, x := range list {
		o.Things[i] = c.thing(x.Ref, x.Size)
	}
	var a lacking
	asking, cancel := context.WithTimeout(ctx, headTime)
	err := c.Router.Remotes.to(m).post(asking, offerPath, o, &a)
	cancel()
	if err != nil || a.Full {
		c.log().Debug("not all is taken", zap.String("member", m.Name), zap.Bool("full", a.Full), zap.Error(err))
		for _, x := range list {
			miss(x) // which of them, nobody knows
		}
	}
	var mu sync.Mutex
	var giving sync.WaitGroup
	slots := make(chan struct{}, writers)
	for _, i := range a.Lacks {
		if i < 0 || i >= len(list) || ctx.Err() != nil { // what else is lacking is not known, or not given
			mu.Lock()
			for _, x := range list {
				miss(x)
			}
			mu.Unlock()
			break
		}
		slots <- struct{}{}
		giving.Go(func() {
			defer func() { <-slots }()
			err := c.give(ctx, m, o.Things[i], hurry)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				miss(list[i])
				return
			}
			sum.taken++
		})
	}
	giving.Wait()
	return sum
}

// giveNames tells those who are to keep names what is known of them, and reports whether all have heard.
func (c *Copies) giveNames(ctx context.Context) (all bool) {
	var batch []named
	all = true
	tell := func() {
		if len(batch) > 0 && ctx.Err() == nil && !c.spread(ctx, batch) {
			all = false
		}
		batch = batch[:0]
	}
	c.Store.Names(func(ref cache.Ref, d cache.Desc, asOf time.Time) {
		if batch = append(batch, namedOf(ref, d, asOf)); len(batch) == mostThings {
			tell()
		}
	})
	tell()
	return all && ctx.Err() == nil
}

// HandOver gives away what only this member holds, most recently used first, before it leaves, until ctx ends. The ring
// must be without it already. It reports how many things and pins were taken, and whether that was all.
func (c *Copies) HandOver(ctx context.Context) (taken int, all bool) {
	v := c.Router.View()
	if v == nil || len(v.Ring.members) == 0 || isAmong(v.Ring.members, v.Self) {
		return 0, true
	}
	all = c.giveNames(ctx)
	taken = c.givePins(ctx, v, map[string]time.Time{})
	for skip, more := 0, true; more; skip += chunk {
		var things []cache.Thing
		things, more = c.Store.Inventory(skip, chunk)
		for at := 0; at < len(things); at += mostThings {
			sum := c.offer(ctx, v, v.Ring, things[at:min(len(things), at+mostThings)], true)
			taken += sum.taken
			c.count.handed.Add(uint64(sum.taken))
			if all = all && sum.all; ctx.Err() != nil {
				return taken, false
			}
		}
	}
	return taken, all
}
