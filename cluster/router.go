package cluster

import (
	"context"
	"errors"
	"fmt"
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
	// Alone reports whether each member asks a registry by itself and keeps what it has fetched, because what a client may
	// have there is known only to the member that it asks; nil: of none.
	Alone func(registry string) bool
	Log   *zap.Logger // nil: silence

	count counters
}

// RouterStats are a Router's counters since start.
type RouterStats struct {
	Asked  uint64 // questions to other members
	Told   uint64 // of these, answered: content, or a failure to have it
	Silent uint64 // not answered: another member was asked, or the registry
	Held   uint64 // content that a member had which is not, or not yet, its owner
	Hub    uint64 // questions to registries
}

type counters struct{ asked, told, silent, held, hub atomic.Uint64 }

// Stats reads the counters.
func (r *Router) Stats() RouterStats {
	return RouterStats{
		Asked: r.count.asked.Load(), Told: r.count.told.Load(), Silent: r.count.silent.Load(), Held: r.count.held.Load(),
		Hub: r.count.hub.Load(),
	}
}

const (
	// owners are asked in turn to fetch a thing; beyond the second the registry is asked rather than a third member that
	// nobody else would ask.
	owners = 2
)

// Resolve asks the owner of a name what it is.
func (r *Router) Resolve(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	return r.route(ctx, question{ref: ref, want: want, resolve: true})
}

// Open has the owner of a thing fetch it.
func (r *Router) Open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	return r.route(ctx, question{ref: ref, want: want})
}

// Owns reports whether this member is the one that keeps a thing: its owner, or the next one while that is silent.
func (r *Router) Owns(ref cache.Ref) bool {
	v := r.view()
	if v == nil || r.alone(ref) {
		return true
	}
	order := v.Ring.Owners(KeyOf(ref), owners)
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
	if v == nil || r.alone(q.ref) || cache.CallerOf(ctx) != "" {
		return r.hub(ctx, q)
	}
	q.urgency, q.doubts = cache.UrgencyOf(ctx), cache.DoubtsOf(ctx)
	order := v.Ring.Owners(KeyOf(q.ref), owners+1)
	if q.want.HeldOnly {
		return cache.Answer{}, cache.ErrNotHeld
	}
	for _, m := range order[:min(owners, len(order))] {
		// A member that has sent other bytes is not asked for them again.
		if m.Name == v.Self || q.doubts > 0 || !cache.MayWait(ctx, m.Name) {
			break
		}
		a, err := r.ask(ctx, m, q)
		if !errors.Is(err, errMember) {
			return a, err
		}
		r.log().Debug("passed over", zap.String("member", m.Name), zap.Stringer("ref", q.ref), zap.Error(err))
	}
	return r.own(ctx, v, order, q)
}

// own answers as the owner of a thing does: from the registry, unless the member has it that owned it before, or would
// own it if this one were not there.
func (r *Router) own(ctx context.Context, v *View, order []Member, q question) (cache.Answer, error) {
	cache.MayWait(ctx, "")
	if q.doubts == 0 && !q.resolve {
		held := q
		held.want.HeldOnly = true
		for _, m := range order[:min(owners, len(order))] {
			if m.Name == v.Self {
				continue
			}
			if a, err := r.ask(ctx, m, held); err == nil {
				r.count.held.Add(1)
				return a, nil
			}
			break
		}
	}
	return r.hub(ctx, q)
}

func (r *Router) hub(ctx context.Context, q question) (cache.Answer, error) {
	r.count.hub.Add(1)
	if q.resolve {
		return r.Next.Resolve(ctx, q.ref, q.want)
	}
	return r.Next.Open(ctx, q.ref, q.want)
}

// ask asks a member. An error that is no errMember is its answer.
func (r *Router) ask(ctx context.Context, m Member, q question) (cache.Answer, error) {
	r.count.asked.Add(1)
	a, err := r.Remotes.to(m).ask(ctx, q)
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
