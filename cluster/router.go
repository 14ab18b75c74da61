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
	// owners are asked in turn to fetch a thing; beyond the second the registry is asked rather than a third member that
	// nobody else would ask.
	owners = 2
	// former is how many members are asked whether they hold what is about to be fetched: the one that owned it before
	// this one, and the one before that, should two have joined since it was last asked for.
	former = 2
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
	return v == nil || r.alone(ref) || r.stands(v, v.Ring.Owners(KeyOf(ref), owners))
}

// Keep says what becomes of a thing here once it was fetched.
func (r *Router) Keep(ref cache.Ref) cache.Keeping {
	v := r.view()
	if v == nil {
		return cache.Kept
	}
	order := v.Ring.Owners(KeyOf(ref), max(owners, r.Replicas))
	switch {
	case isAmong(order[:min(len(order), max(1, r.Replicas))], v.Self), r.stands(v, order[:min(len(order), owners)]), !r.alive(order[:min(len(order), owners)]):
		return cache.Kept
	case ref.Kind == cache.KindBlob && r.Remotes.Heat.wants(ref.Digest), r.alone(ref): // of these until its owner has taken it
		return cache.HotCopy
	}
	return cache.Passing
}

// stands reports whether this member is the first of order that may be asked.
func (r *Router) stands(v *View, order []Member) bool {
	for _, m := range order {
		if m.Name == v.Self {
			return true
		}
		if r.Remotes.to(m).temper.asked(time.Now()) {
			return false
		}
	}
	return len(order) == 0
}

// alive reports whether any of order has answered when it was asked last. Of half a cluster that is cut off from the rest,
// and has not seen so yet, whoever fetched a thing keeps it.
func (r *Router) alive(order []Member) bool {
	return slices.ContainsFunc(order, func(m Member) bool { return !r.Remotes.to(m).temper.silent(time.Now()) })
}

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
	order := v.Ring.Owners(KeyOf(q.ref), owners+former)
	if a, ok := r.spill(ctx, v, order, q); ok {
		return a, nil
	}
	var told error // by who was asked, and cannot reach the registry
	for _, m := range order[:min(owners, len(order))] {
		// A member that has sent other bytes is not asked for them again.
		if m.Name == v.Self || q.doubts > 0 || !cache.MayWait(ctx, m.Name) {
			break
		}
		a, err := r.ask(ctx, m, q)
		if cutOff(err) {
			told = err
			break
		}
		if !errors.Is(err, errMember) {
			return a, err
		}
		r.log().Debug("passed over", zap.String("member", m.Name), zap.Stringer("ref", q.ref), zap.Error(err))
	}
	a, err := r.own(ctx, v, order, q)
	if q.ref.Kind == cache.KindBlob && cutOff(err) && (q.doubts > 0 || r.accused(order, q.ref.Digest)) {
		return r.doubted(ctx, v, order, q, err)
	}
	if told != nil && cutOff(err) {
		err = outage(q.ref.Registry, err)
	}
	return a, err
}

// own answers as the owner of a thing does: from the registry, unless a member has it that owned it before, or would
// own it if this one were not there.
func (r *Router) own(ctx context.Context, v *View, order []Member, q question) (cache.Answer, error) {
	cache.MayWait(ctx, "")
	if q.doubts == 0 && !q.resolve {
		left := former
		for _, m := range order {
			if m.Name == v.Self || left == 0 {
				continue
			}
			left--
			if a, err := r.askHeld(ctx, m, q); err == nil {
				return a, nil
			}
		}
	}
	return r.hub(ctx, q)
}

// askHeld asks a member for what it holds.
func (r *Router) askHeld(ctx context.Context, m Member, q question) (cache.Answer, error) {
	q.want.HeldOnly = true
	a, err := r.ask(ctx, m, q)
	if err == nil {
		r.count.held.Add(1)
	}
	return a, err
}

func (r *Router) hub(ctx context.Context, q question) (cache.Answer, error) {
	if cache.CallerOf(ctx) == cache.Member {
		return cache.Answer{}, fmt.Errorf("%s: only a caller's own login opens it: %w", q.ref, cache.ErrDenied)
	}
	r.count.hub.Add(1)
	if q.resolve {
		return r.Next.Resolve(ctx, q.ref, q.want)
	}
	return r.Next.Open(ctx, q.ref, q.want)
}

// ask asks a member. An error that is no errMember is its answer.
func (r *Router) ask(ctx context.Context, m Member, q question) (cache.Answer, error) {
	x := r.Remotes.to(m)
	if !q.anyhow && x.temper.liedAbout(q.ref.Digest, time.Now()) {
		return cache.Answer{}, fmt.Errorf("%w: %s has sent something else in its place", errMember, m.Name)
	}
	r.count.asked.Add(1)
	a, err := x.ask(ctx, q)
	if errors.Is(err, cache.ErrClosed) {
		err = fmt.Errorf("%w: %s is closing", errMember, m.Name)
	}
	if errors.Is(err, errMember) {
		r.count.silent.Add(1)
	} else {
		r.count.told.Add(1)
	}
	return a, err
}

func (r *Router) log() *zap.Logger {
	if r.Log == nil {
		return zap.NewNop()
	}
	return r.Log
}
