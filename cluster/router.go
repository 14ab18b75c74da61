package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Router is the Source of a member: it has each thing fetched by the member that owns it, so that it crosses the uplink
// once for all of them, and asks the registry itself for what it owns, and for what nobody else answers for.
type Router struct {
	View    func() *View // of the members, now; nil: there are no others
	Remotes *Remotes
	Next    cache.Source // the world
	// Alone reports whether each member asks a registry by itself, because what a client may have there is known only to
	// the member that it asks; nil: of none. What has been fetched is kept by its owner all the same.
	Alone      func(registry string) bool
	Replicas   int         // how many members keep a thing; 0: one
	RepairRate int64       // bytes a second that a member takes of what is in no hurry; 0: without bound
	Log        *zap.Logger // nil: silence

	count counters
}

// RouterStats are a Router's counters since start.
type RouterStats struct {
	Asked  uint64 // questions to other members
	Told   uint64 // of these, answered: content, or a failure to have it
	Silent uint64 // not answered: another member was asked, or the registry
	Held   uint64 // content that a member had which is not, or not yet, its owner
	Spilt  uint64 // of these, because its owner had too much to do
	Hub    uint64 // questions to registries
}

type counters struct{ asked, told, silent, held, spilt, hub atomic.Uint64 }

// Stats reads the counters.
func (r *Router) Stats() RouterStats {
	return RouterStats{
		Asked: r.count.asked.Load(), Told: r.count.told.Load(), Silent: r.count.silent.Load(), Held: r.count.held.Load(),
		Spilt: r.count.spilt.Load(), Hub: r.count.hub.Load(),
	}
}

const (
	// former is how many members are asked whether they hold what is about to be fetched: the one that owned it before
	// this one, and the one before that, should two have joined since it was last asked for.
	former = 2
	// near is how many members may well have a thing: its owner, the next one, and who was the owner before.
	near = 2 + former
)

// Resolve asks the owner of a name what it is.
func (r *Router) Resolve(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	return r.route(ctx, question{ref: ref, want: want, resolve: true})
}

// Open has the owner of a thing fetch it.
func (r *Router) Open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	return r.route(ctx, question{ref: ref, want: want})
}

// Owns reports whether other members have a thing fetched by this one: it is the owner, or the next one while that is
// silent.
func (r *Router) Owns(ref cache.Ref) bool {
	v := r.view()
	return v == nil || r.alone(ref) || v.first(r.order(v, ref))
}

// Keep says what becomes of a thing here once it was fetched. Of half a cluster that is cut off from the rest, and has not
// seen so yet, the first member keeps it that is not known to be silent.
func (r *Router) Keep(ref cache.Ref) cache.Keeping {
	v := r.view()
	if v == nil {
		return cache.Kept
	}
	key, now := KeyOf(ref), time.Now()
	instead := func(m Member) bool { return m.Name == v.Self || !r.Remotes.to(m).temper.silent(now) }
	switch {
	case isAmong(v.Ring.Owners(key, max(1, r.Replicas)), v.Self), v.first(v.Ring.Among(key, 1, instead)):
		return cache.Kept
	case ref.Kind == cache.KindBlob && r.Remotes.Heat.wants(ref.Digest), r.alone(ref): // of these until its owner has taken it
		return cache.HotCopy
	}
	return cache.Passing
}

// order are the members to ask for a thing, the owner first, by a ring without those that were silent when they were asked
// last. passed are passed over, too. So all who do not reach the owner come to the same next one, as they do when gossip has
// seen that it is gone.
func (r *Router) order(v *View, ref cache.Ref, passed ...string) []Member {
	now := time.Now()
	return v.Ring.Among(KeyOf(ref), reach+1, func(m Member) bool {
		return m.Name == v.Self || !slices.Contains(passed, m.Name) && r.Remotes.to(m).temper.asked(now)
	})
}

// first reports whether v's member is the first of order, or nobody is.
func (v *View) first(order []Member) bool { return len(order) == 0 || order[0].Name == v.Self }

func isAmong(members []Member, name string) bool {
	return slices.ContainsFunc(members, func(m Member) bool { return m.Name == name })
}

func (r *Router) alone(ref cache.Ref) bool { return r.Alone != nil && r.Alone(ref.Registry) }

func (r *Router) view() *View {
	if r.View == nil {
		return nil
	}
	if v := r.View(); v != nil && len(v.Members) > 1 {
		return v
	}
	return nil
}

func (r *Router) route(ctx context.Context, q question) (cache.Answer, error) {
	v := r.view()
	if v == nil {
		return r.hub(ctx, q)
	}
	q.urgency, q.doubts = cache.UrgencyOf(ctx), cache.DoubtsOf(ctx)
	if q.want.HeldOnly {
		return cache.Answer{}, cache.ErrNotHeld
	}
	if a, done, err := r.offered(ctx, v, q); done {
		return a, err
	}
	if r.alone(q.ref) || cache.CallerOf(ctx) != "" {
		return r.forCaller(ctx, v, q)
	}
	order := r.order(v, q.ref)
	if a, ok := r.spill(ctx, v, order, q); ok {
		return a, nil
	}
	a, err := r.atOwner(ctx, v, q)
	told := cutOff(err) // by who was asked, and cannot reach the registry
	if !told && !errors.Is(err, errMember) {
		return a, err
	}
	a, err = r.own(ctx, v, q, told)
	if q.ref.Kind == cache.KindBlob && cutOff(err) && (q.doubts > 0 || r.accused(v, q.ref)) {
		return r.doubted(ctx, v, q, err)
	}
	if told && cutOff(err) {
		err = outage(q.ref.Registry, err)
	}
	return a, err
}

func (r *Router) hub(ctx context.Context, q question) (cache.Answer, error) {
	if cache.CallerOf(ctx) == cache.Member {
		return cache.Answer{}, fmt.Errorf("%s: only a caller's own login opens it: %w", q.ref, cache.ErrDenied)
	}
	ask := r.Next.Open
	if q.resolve {
		ask = r.Next.Resolve
	}
	a, err := ask(ctx, q.ref, q.want)
	if !errors.Is(err, cache.ErrOffline) { // else no registry was asked
		r.count.hub.Add(1)
	}
	return a, err
}

func (r *Router) log() *zap.Logger {
	if r.Log == nil {
		return zap.NewNop()
	}
	return r.Log
}
