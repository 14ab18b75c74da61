package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// atOwner has the owner of a thing fetch it or, where that is silent, the next one on the ring, and so on. An errMember
// says that there is nobody but this member. Once one was waited for in vain the others are not, one after the other.
func (r *Router) atOwner(ctx context.Context, v *View, q question) (cache.Answer, error) {
	var passed []string
	roused := false
	for q.doubts == 0 { // a member that has sent other bytes is not asked for them again
		order := r.order(v, q.ref, passed...)
		if v.first(order) || !cache.MayWait(ctx, order[0].Name) {
			break
		}
		m := order[0]
		a, err := r.ask(ctx, m, q)
		if !errors.Is(err, errMember) {
			return a, err
		}
		r.log().Debug("passed over", zap.String("member", m.Name), zap.Stringer("ref", q.ref), zap.Error(err))
		passed = append(passed, m.Name)
		if !roused && !r.Remotes.to(m).temper.asked(time.Now()) { // one that has sent something else was not waited for
			r.Remotes.rouse(ctx, v.before(order[1:]))
			roused = true
		}
		if ctx.Err() != nil {
			return cache.Answer{}, context.Cause(ctx)
		}
	}
	return cache.Answer{}, errMember
}

// own answers as the owner of a thing does: from the registry, unless a member has it that owned it before, or would
// own it if this one were not there. told: its owner has said that it has not got it, and cannot.
func (r *Router) own(ctx context.Context, v *View, q question, told bool) (cache.Answer, error) {
	cache.MayWait(ctx, "")
	if q.doubts == 0 && !q.resolve {
		if a, err := r.held(ctx, r.former(v, q.ref, told), q); err == nil {
			return a, nil
		}
	}
	return r.hub(ctx, q)
}

// former are the members that may hold a thing which is not held here: who comes next, or came before; and all before this
// one, where it is asked in their stead: who asked has found them silent, and they may not be.
func (r *Router) former(v *View, ref cache.Ref, told bool) []Member {
	order := r.order(v, ref)
	if told && len(order) > 0 {
		order = without(order[1:], v.Self)
		return order[:min(len(order), former)]
	}
	before := v.before(order)
	if len(before) == len(order) { // this member is far from there
		return order[:min(len(order), former)]
	}
	after := order[len(before)+1:]
	return slices.Concat(before, after[:min(len(after), former)])
}

// before are those of order that come before this member.
func (v *View) before(order []Member) []Member {
	if i := slices.IndexFunc(order, func(m Member) bool { return m.Name == v.Self }); i >= 0 {
		return order[:i]
	}
	return order
}

// held asks members for what they hold, all at once, and has the first answer be the one. It fails where none holds it.
func (r *Router) held(ctx context.Context, members []Member, q question) (cache.Answer, error) {
	type said struct {
		who int
		cache.Answer
		error
	}
	all := make(chan said, len(members))
	enough := make([]context.CancelFunc, len(members))
	for i, m := range members {
		var one context.Context
		one, enough[i] = context.WithCancel(ctx)
		go func() {
			a, err := r.askHeld(one, m, q)
			all <- said{i, a, err}
		}()
	}
	found, err := cache.Answer{}, error(cache.ErrNotHeld)
	for range members {
		s := <-all
		switch {
		case s.error != nil:
		case err != nil:
			found, err = s.Answer, nil
			r.count.held.Add(1)
			for i, stop := range enough {
				if i != s.who {
					stop()
				}
			}
		default:
			_ = s.Body.Close() // it was as quick
		}
	}
	return found, err
}

// askHeld asks a member for what it holds.
func (r *Router) askHeld(ctx context.Context, m Member, q question) (cache.Answer, error) {
	q.want.HeldOnly = true
	return r.ask(ctx, m, q)
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
