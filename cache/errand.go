package cache

import (
	"context"
	"errors"
	"time"
)

// errand is what is asked for once at a time. Who must not wait for another member does not wait for one who may.
type errand struct {
	asked
	direct bool
}

func (c *Cache) errandOf(ctx context.Context, who asked) errand {
	return errand{who, DirectOf(ctx) || c.owns(who.ref)}
}

// in is ctx for e.
func (e errand) in(ctx context.Context) context.Context {
	if e.direct {
		return WithDirect(ctx)
	}
	return ctx
}

// way is how an answer came: by a member, or by none; fetched: which had to ask the registry for it.
type way struct {
	via     string
	fetched bool
}

func wayOf(a Answer) way { return way{a.Via, a.Fetched} }

// fromSource is the tier of what the source has answered.
func fromSource(w way) Tier {
	if w.via != "" && !w.fetched {
		return FromPeer
	}
	return FromUpstream
}

// insist has fn called for e, or waits for another's call; and calls it once more where another's came to an end that is
// not ours: see Group.Do.
func insist[V any](ctx context.Context, g *Group[errand, V], e errand, patience time.Duration,
	fn func(context.Context) (V, error)) (v V, joined bool, err error) {
	v, joined, err = g.Do(e.in(ctx), e, patience, fn)
	if joined && grudged(ctx, err) {
		v, joined, err = g.Do(e.in(ctx), e, patience, fn)
	}
	return v, joined, err
}

// grudged reports whether err is a limit that may be one for another only: who joins somebody for whom nothing scarce is
// spent may have more spent on it.
func grudged(ctx context.Context, err error) bool { return errors.Is(err, ErrLimited) && !SpareOf(ctx) }
