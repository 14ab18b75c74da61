package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	// defaultFresh is how long a name needs no asking where nothing else is said.
	defaultFresh = 5 * time.Minute
	// hurry is how long a client waits for an answer about a name that is known, but has aged; then it gets what is
	// known, and the answer serves those who come later.
	hurry = 2 * time.Second
	// sulk is how long an upstream is not asked about aged names after it failed to answer for one.
	sulk = 5 * time.Second
)

// resolved is what asking about a name brought: what it is, and its content where that came along.
type resolved struct {
	name
	doc   *document
	stale bool
}

// resolve says what a mutable name is: what is known while that is fresh, else what the source says, else, when the
// source cannot be asked, what was known last. body says that the content is wanted too, so that for a name never
// seen one GET brings both.
func (c *Cache) resolve(ctx context.Context, ref Ref, body, heldOnly bool) (Found, *document, error) {
	n, known := decodeName(c.facts.get(nameKey(ref)))
	if known && c.fresh(ref, n) {
		return n.found(FromMemory, false), nil, nil
	}
	if heldOnly {
		return Found{}, nil, ErrNotHeld
	}
	if known && c.sulking(ref.Registry) {
		c.stats.stale.Add(1)
		return n.found(FromMemory, true), nil, nil
	}
	wait, cancel := ctx, context.CancelFunc(func() {})
	if known {
		wait, cancel = context.WithTimeout(ctx, hurry)
	}
	defer cancel()
	key := asked{ref, CallerOf(ctx)}
	r, joined, err := c.names.do(wait, key, func(ctx context.Context) (resolved, error) {
		return c.ask(ctx, ref, n, known, body)
	})
	if err != nil && known && ctx.Err() == nil && wait.Err() != nil {
		c.stats.stale.Add(1)
		return n.found(FromMemory, true), nil, nil
	}
	from := FromUpstream
	if joined {
		from = FromFlight
	}
	return r.found(from, r.stale), r.doc, err
}

func (n name) found(from Tier, stale bool) Found {
	return Found{Desc: n.Desc, From: from, AsOf: n.asOf, Stale: stale}
}

func (c *Cache) fresh(ref Ref, n name) bool {
	limit := defaultFresh
	if c.o.Fresh != nil {
		limit = c.o.Fresh(ref)
	}
	// A clock that was set back must not make a name fresh for longer than it would have been.
	age := c.now().Sub(n.asOf)
	return age >= 0 && age < limit
}

// sulking reports whether registry failed to answer a moment ago.
func (c *Cache) sulking(registry string) bool {
	at, ok := c.sulks.Load(registry)
	return ok && time.Since(at.(time.Time)) < sulk
}

// ask asks the source about a name.
func (c *Cache) ask(ctx context.Context, ref Ref, known name, have, body bool) (resolved, error) {
	a, err := c.question(ctx, ref, known, have, body)
	if have {
		c.stats.revalidated.Add(1)
	}
	switch {
	case errors.Is(err, ErrUnchanged) && have:
		known.asOf = c.since(a)
		c.remember(ref, known)
		return resolved{name: known}, nil
	case err != nil && have && (unreachable(err) || errors.Is(err, ErrCorrupt)):
		c.sulks.Store(ref.Registry, time.Now())
		c.stats.stale.Add(1)
		c.log.Warn("served as last known", zap.Stringer("ref", ref), zap.Time("as_of", known.asOf), zap.Error(err))
		return resolved{name: known, stale: true}, nil
	case errors.Is(err, ErrNotFound):
		c.facts.put(nameKey(ref), nil) // gone; what it was stays held by its digest
	}
	if err != nil {
		return resolved{}, err
	}
	return c.learn(ref, a)
}

// question asks in the cheapest way that answers: a HEAD where the content is not wanted or may be held.
func (c *Cache) question(ctx context.Context, ref Ref, known name, have, body bool) (Answer, error) {
	if body && !have {
		return c.src.Open(ctx, ref, Whole)
	}
	return c.src.Resolve(ctx, ref, Want{N: -1, Known: known.Digest})
}

// learn notes what the source said a name is.
func (c *Cache) learn(ref Ref, a Answer) (resolved, error) {
	n := name{Desc: a.Desc, asOf: c.since(a)}
	if a.Body != nil {
		doc, err := c.receive(ref, a)
		if err != nil {
			return resolved{}, err
		}
		n.Desc = doc.Desc
		c.remember(ref, n)
		return resolved{name: n, doc: doc}, nil
	}
	if n.Digest.IsZero() {
		return resolved{}, fmt.Errorf("%s: the upstream names no digest: %w", ref, ErrUnavailable)
	}
	if c.possesses(ref.Registry, n.Digest) {
		c.grant(ref.At(n.Digest), n.Size)
	}
	c.remember(ref, n)
	return resolved{name: n}, nil
}

// since is when the hub said what an answer says; never in the future.
func (c *Cache) since(a Answer) time.Time {
	now := c.now()
	if a.AsOf.IsZero() || a.AsOf.After(now) {
		return now
	}
	return a.AsOf
}

func (c *Cache) remember(ref Ref, n name) { c.facts.put(nameKey(ref), n.encode()) }
