package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// hearing is what the other members' events act upon.
type hearing struct {
	opened chan struct{} // closed once the store and what follows are there
	hubs   *upstream.Hubs

	mu    sync.Mutex // guards drops
	drops map[dropped][]cache.Digest
	wake  chan struct{} // full where there are drops
}

// dropped is where, and as of when, content is to be forgotten.
type dropped struct {
	repo cache.Ref
	upTo time.Time
}

const (
	// dropEvery gathers what is to be dropped, which comes a dozen to an event: each look for who else needs it is one
	// through all that is known.
	dropEvery = time.Second
	// mostDropped bounds what is told of a purge: beyond it, what other members hold goes as room is needed.
	mostDropped = 2000
)

func newHearing() *hearing {
	return &hearing{opened: make(chan struct{}), drops: map[dropped][]cache.Digest{}, wake: make(chan struct{}, 1)}
}

// hears has events act, and the other members know what there is to tell, until ctx ends.
func (c *clustering) hears(ctx context.Context, hubs *upstream.Hubs) {
	c.hearing.hubs = hubs
	close(c.hearing.opened)
	c.running.Go(func() { c.dropAll(ctx) })
	c.running.Go(func() {
		hubs.TellLimits(ctx, func(limit string, word []byte) {
			c.tell(cluster.Event{Kind: cluster.Limited, Of: limit, Body: word})
		})
	})
	c.running.Go(func() {
		for ctx.Err() == nil {
			changed := c.members.Changed()
			hubs.Among(len(c.members.View().Members))
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	})
}

// tell has all other members know something, where there are any.
func (c *clustering) tell(e cluster.Event) {
	if c != nil {
		c.members.Tell(e)
	}
}

// others is how many other members are alive.
func (c *clustering) others() int {
	if c == nil {
		return 0
	}
	return len(c.members.View().Members) - 1
}

// moved tells what became of a tag.
func (c *clustering) moved(ref cache.Ref, d cache.Digest, asOf time.Time) {
	e := cluster.Event{Kind: cluster.Moved, Ref: ref, AsOf: asOf}
	if !d.IsZero() {
		e.Digests = []cache.Digest{d}
	}
	c.tell(e)
}

// heard does what an event of another member asks for, once there is something to do it with.
func (c *clustering) heard(ctx context.Context, e cluster.Event) {
	select {
	case <-c.hearing.opened:
	case <-ctx.Done():
		return
	}
	switch e.Kind {
	case cluster.Moved:
		var d cache.Digest
		if len(e.Digests) > 0 {
			d = e.Digests[0]
		}
		c.store.Outdate(e.Ref, d, e.AsOf)
	case cluster.Purged:
		c.heardPurge(ctx, e)
	case cluster.Dropped:
		c.hearing.gather(e)
	case cluster.Unpinned:
		c.heardUnpin(ctx, e)
	case cluster.Limited:
		if err := c.hearing.hubs.HearLimit(e.Body); err != nil {
			c.log.Debug("passed over", zap.String("member", e.From), zap.Error(err))
		}
	}
}

// heardUnpin takes back what is pinned nowhere any more: by hand, or by a rule of another member, of which this one may
// keep a copy.
func (c *clustering) heardUnpin(ctx context.Context, e cluster.Event) {
	if e.Of != byHand {
		switch home, owner := cluster.HomeOf(cluster.PinnedAt{Pin: cache.Pin{Owner: e.Of}}); home {
		case "":
			return // no copy: what this member pins it takes back itself
		case c.self():
			c.renew(ctx, owner, e)
			return
		}
		if ok, err := c.store.UnpinOlder(e.Of, e.Ref, e.At); ok || err != nil {
			c.log.Info("a copy of a pin is unpinned, as the pin is", zap.Stringer("image", e.Ref), zap.String("member", e.From), zap.Error(err))
		}
		return
	}
	if n, err := unpinOlder(c.store, e.Ref, e.At); n > 0 || err != nil {
		c.log.Info("unpinned, as another member was told to", zap.Stringer("image", e.Ref), zap.String("member", e.From), zap.Error(err))
	}
}

// renew has a rule's pin be set anew where other members, which took this one for gone, have dropped their copies of it: the
// rule means it still, and copies that are younger than that are taken again.
func (c *clustering) renew(ctx context.Context, owner string, e cluster.Event) {
	for _, p := range c.store.PinsIn(e.Ref) {
		if p.Owner != owner || p.Ref != e.Ref || p.At.After(e.At) {
			continue
		}
		if p.At = time.Now(); !p.At.After(e.At) {
			p.At = e.At.Add(1)
		}
		if err := c.store.Pin(ctx, p); err != nil {
			c.log.Warn("other members have dropped their copies of what a rule pins here, and will not take them again", zap.Stringer("image", p.Ref), zap.Error(err))
		}
	}
}

// ruled is the store as rules have it: the members that keep copies of their pins hear what is pinned no longer.
type ruled struct {
	*cache.Cache
	cluster *clustering
}

// Unpin takes a pin back, and the copies of it.
func (s ruled) Unpin(owner string, ref cache.Ref) (bool, error) {
	ok, err := s.Cache.Unpin(owner, ref)
	if ok && err == nil && s.cluster != nil {
		s.cluster.tell(cluster.Event{Kind: cluster.Unpinned, Ref: ref, Of: cluster.HeldFor(s.cluster.members.View().Self, owner)})
	}
	return ok, err
}

// unpinOlder takes back the pins of an image that were set by hand up to a time, whether here or at another member of which
// this one keeps a copy, and returns how many there were.
func unpinOlder(store *cache.Cache, ref cache.Ref, at time.Time) (n int, err error) {
	owners := []string{byHand} // where it is not pinned here, that it was taken back is remembered all the same
	for _, p := range store.Pins() {
		if p.Ref == ref && p.Owner != byHand && cluster.OwnerOf(p) == byHand {
			owners = append(owners, p.Owner)
		}
	}
	for _, owner := range owners {
		ok, e := store.UnpinOlder(owner, ref, at)
		if err = errors.Join(err, e); ok && e == nil {
			n++
		}
	}
	return n, err
}

// unpinnedSince reports whether a pin that another member offers was taken back since it was set.
func unpinnedSince(store *cache.Cache) func(cache.Pin) bool {
	return func(p cache.Pin) bool {
		return cluster.OwnerOf(p) == byHand && !p.At.After(store.Unpinned(byHand, p.Ref)) || !p.At.After(store.Unpinned(p.Owner, p.Ref))
	}
}

// heardPurge forgets what another member was told to forget.
func (c *clustering) heardPurge(ctx context.Context, e cluster.Event) {
	p, err := c.store.Purge(ctx, e.Ref, e.At, false)
	switch {
	case errors.Is(err, cache.ErrPinned):
		c.log.Warn("another member was told to purge what is pinned here: it stays", zap.String("member", e.From), zap.Error(err))
	case err == nil:
		c.drop(c.store, e.Ref, p, e.At)
	}
}

// drop has the other members forget what content went with a purge. The one that keeps a repository's manifests tells,
// for it alone knows what belongs to them.
func (c *clustering) drop(store *cache.Cache, scope cache.Ref, p cache.Purged, upTo time.Time) {
	digests := p.Digests[:min(len(p.Digests), mostDropped)]
	if len(digests) > 0 && store.Keeps(scope) {
		scope.Tag, scope.Digest = "", cache.Digest{}
		c.tell(cluster.Event{Kind: cluster.Dropped, Ref: scope, Digests: digests, AsOf: upTo})
	}
}

// gather notes what is to be dropped.
func (h *hearing) gather(e cluster.Event) {
	upTo := e.At
	if !e.AsOf.IsZero() && e.AsOf.Before(upTo) {
		upTo = e.AsOf
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	at := dropped{e.Ref, upTo}
	h.drops[at] = append(h.drops[at], e.Digests...)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// dropAll drops what is gathered, until ctx ends.
func (c *clustering) dropAll(ctx context.Context) {
	h := c.hearing
	for {
		select {
		case <-h.wake:
			pause(ctx, dropEvery)
		case <-ctx.Done():
			return
		}
		h.mu.Lock()
		drops := h.drops
		h.drops = map[dropped][]cache.Digest{}
		h.mu.Unlock()
		for at, digests := range drops {
			if _, err := c.store.Drop(ctx, at.repo, digests, at.upTo); err != nil {
				return // ctx has ended
			}
		}
	}
}
