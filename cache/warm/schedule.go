package warm

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Rule is an order that is carried out again and again.
type Rule struct {
	Order
	// Next is when it is due after a time at which it was carried out, or after the start; the zero time: never again.
	// A zero last is the start.
	Next func(last time.Time) time.Time
	// Open reports whether it may be carried out at a time, and until when that is so; the zero time: for ever. nil:
	// always.
	Open func(now time.Time) (open bool, until time.Time)
}

// RulesOwner is who pins for rules.
const RulesOwner = "rules"

// errShut is why a rule stops at the end of its hours.
var errShut = errors.New("its hours are over")

// Keep carries the rules out when they are due, until ctx ends. What they do not mean any more is unpinned, once it is
// known what each of them means.
func (w *Warmer) Keep(ctx context.Context, rules []Rule) {
	k := &keeper{w: w, meant: make([][]cache.Ref, len(rules)), known: make([]bool, len(rules))}
	for n, r := range rules {
		k.known[n] = r.Owner == "" // it pins nothing
	}
	k.release()
	var all sync.WaitGroup
	for n, r := range rules {
		all.Go(func() { k.keep(ctx, n, r) })
	}
	all.Wait()
}

// keeper carries rules out.
type keeper struct {
	w *Warmer

	mu    sync.Mutex // guards what follows
	meant [][]cache.Ref
	known []bool // what the rule means
}

// keep carries one rule out when it is due.
func (k *keeper) keep(ctx context.Context, n int, r Rule) {
	var last time.Time
	for whole := true; ; {
		if whole { // else it was stopped, and goes on as soon as it may
			due := r.Next(last)
			if due.IsZero() || !wait(ctx, due) {
				return
			}
		}
		until, ok := admitted(ctx, r)
		if !ok {
			return
		}
		last = time.Now()
		whole = k.round(ctx, n, r, until)
	}
}

// admitted waits for the rule's hours, and says when they end.
func admitted(ctx context.Context, r Rule) (until time.Time, ok bool) {
	if r.Open == nil {
		return until, ctx.Err() == nil
	}
	for {
		open, until := r.Open(time.Now())
		if open {
			return until, ctx.Err() == nil
		}
		if until.IsZero() || !wait(ctx, until) {
			return until, false
		}
	}
}

// round carries a rule out once, and reports whether it came to its end.
func (k *keeper) round(ctx context.Context, n int, r Rule, until time.Time) bool {
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, until, errShut)
		defer cancel()
	}
	log, began := k.w.log(), time.Now()
	sum := k.w.Run(ctx, r.Order, func(e Event) {
		if e.State == Failed && ctx.Err() == nil {
			log.Warn("not warmed", zap.String("image", e.Image), zap.Error(e.Err))
		}
	})
	log.Info("warmed", zap.Strings("images", r.Images), zap.Int("fetched", sum.Fetched), zap.Int("unchanged", sum.Unchanged),
		zap.Int("failed", sum.Failed), zap.Int64("bytes", sum.Bytes), zap.Duration("took", time.Since(began)), zap.Error(stopped(ctx)))
	if ctx.Err() != nil {
		return false
	}
	if sum.Complete && r.Owner != "" {
		k.mu.Lock()
		k.meant[n], k.known[n] = sum.Refs, true
		k.mu.Unlock()
		k.release()
	}
	return true
}

// release unpins what no rule means any more, as a tag that newer ones have pushed out of a range.
func (k *keeper) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	keep := map[cache.Ref]bool{}
	for n, refs := range k.meant {
		if !k.known[n] {
			return
		}
		for _, ref := range refs {
			keep[ref] = true
		}
	}
	for _, p := range k.w.Store.Pins() {
		if p.Owner != RulesOwner || keep[p.Ref] {
			continue
		}
		if _, err := k.w.Store.Unpin(p.Owner, p.Ref); err != nil {
			k.w.log().Warn("not unpinned", zap.Stringer("ref", p.Ref), zap.Error(err))
		} else {
			k.w.log().Info("unpinned", zap.Stringer("ref", p.Ref))
		}
	}
}

// wait returns true at a time, or false when ctx ends before.
func wait(ctx context.Context, at time.Time) bool {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
