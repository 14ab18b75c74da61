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
	// hurry is how long an asking for a name that is known, but has aged, may keep clients waiting; then they get what
	// is known, and the answer serves those who come later.
	hurry = 2 * time.Second
	// sulk is how long a name is not asked for again after the upstream failed to answer; longestSulk is the most that
	// it may ask for itself.
	sulk, longestSulk = 5 * time.Second, 5 * time.Minute
)

// resolved is what asking about a name brought: what it is, and its content where that came along.
type resolved struct {
	name
	doc   *document
	stale bool
}

func (r resolved) found(from Tier) Found {
	return Found{Desc: r.Desc, From: from, AsOf: r.asOf, Stale: r.stale}
}

// resolve says what a mutable name is: what is known while that is fresh, else what the source says, else, when the
// source cannot be asked, what was known last. body says that the content is wanted too, so that for a name never
// seen one GET brings both. Of a list, the content is always returned.
func (c *Cache) resolve(ctx context.Context, ref Ref, body, heldOnly bool) (Found, *document, error) {
	who := asked{ref, CallerOf(ctx)}
	known, have := c.recall(who)
	switch {
	case have && c.fresh(ref, known.asOf):
		return known.found(FromMemory), known.doc, nil
	case heldOnly:
		return Found{}, nil, ErrNotHeld
	}
	last := have && c.trusts(ref.Registry, known.asOf) // it will do if the source cannot be asked
	patience := time.Duration(0)
	if last {
		patience = hurry
	}
	r, from, err := known, FromMemory, errSlow
	if !last || !c.sulking(who) {
		var joined bool
		r, joined, err = c.names.Do(ctx, who, patience, func(ctx context.Context) (resolved, error) {
			return c.ask(ctx, who, known, have, body)
		})
		if from = FromUpstream; joined {
			from = FromFlight
		}
	}
	if errors.Is(err, errSlow) {
		r, from, err = known, FromMemory, nil
		r.stale = true
	}
	if r.stale {
		c.stats.stale.Add(1)
		from = FromMemory // whoever was asked, what goes out is what was known
	}
	return r.found(from), r.doc, err
}

// recall is what is known of a name. Of a list that is nothing if its content is not held.
func (c *Cache) recall(who asked) (r resolved, known bool) {
	r.name, known = decodeName(c.facts.get(nameKey(who)))
	if known && who.ref.Kind != KindManifest {
		r.doc, _ = c.heldDocument(who.ref, r.Digest)
		known = r.doc != nil
	}
	return r, known
}

// fresh reports whether what was said of ref at a time needs no asking.
func (c *Cache) fresh(ref Ref, at time.Time) bool {
	limit := defaultFresh
	if c.o.Fresh != nil {
		limit = c.o.Fresh(ref)
	}
	// A clock that was set back must not make a name fresh for longer than it would have been.
	age := c.now().Sub(at)
	return age >= 0 && age < limit && c.trusts(ref.Registry, at)
}

// sulking reports whether the upstream failed to answer a moment ago: to this question, or, by a limit, to any.
func (c *Cache) sulking(who asked) bool {
	for _, key := range []asked{who, who.any()} {
		if until, ok := c.sulks.Load(key); ok && time.Now().Before(until.(time.Time)) {
			return true
		}
	}
	return false
}

// any stands for everything that a caller may ask a registry.
func (a asked) any() asked { return asked{Ref{Registry: a.ref.Registry}, a.caller} }

// offend notes that the upstream failed to answer.
func (c *Cache) offend(who asked, err error) {
	wait := sulk
	var limit *LimitedError
	if errors.As(err, &limit) {
		who = who.any()
		wait = min(max(wait, time.Until(limit.Until)), longestSulk)
	}
	c.sulks.Store(who, time.Now().Add(wait))
}

// ask asks the source about a name.
func (c *Cache) ask(ctx context.Context, who asked, known resolved, have, body bool) (resolved, error) {
	a, err := c.question(ctx, who.ref, known, have, body)
	if have {
		c.stats.revalidated.Add(1)
	}
	r := known
	switch {
	case err == nil:
		r, err = c.learn(who, a)
	case errors.Is(err, ErrUnchanged) && have:
		r.asOf, err = c.since(a), nil
		c.remember(who, r.name)
	}
	switch {
	case err == nil:
		c.sulks.Delete(who)
		c.sulks.Delete(who.any())
		return r, nil
	case errors.Is(err, ErrNotFound):
		c.facts.put(nameKey(who), nil) // gone; what it was stays held by its digest
	case errors.Is(err, ErrDenied):
		c.revoke(who)
	case errors.Is(err, ErrUnsupported) || errors.Is(err, ErrClosed):
	case have && c.trusts(who.ref.Registry, known.asOf):
		c.offend(who, err)
		c.log.Warn("served as last known", zap.Stringer("ref", who.ref), zap.Time("as_of", known.asOf), zap.Error(err))
		known.stale = true
		return known, nil
	}
	return resolved{}, err
}

// question asks in the cheapest way that answers: a HEAD where the content is not wanted or may be held.
func (c *Cache) question(ctx context.Context, ref Ref, known resolved, have, body bool) (Answer, error) {
	if body && !have {
		return c.src.Open(ctx, ref, Whole)
	}
	a, err := c.src.Resolve(ctx, ref, Want{N: -1, Known: known.Digest})
	if err == nil && a.Body == nil && ref.Kind != KindManifest {
		return c.src.Open(ctx, ref, Whole) // of a list nothing but its content is of use
	}
	return a, err
}

// learn notes what the source said a name is.
func (c *Cache) learn(who asked, a Answer) (resolved, error) {
	r := resolved{name: name{Desc: a.Desc, asOf: c.since(a)}}
	if a.Body != nil {
		doc, err := c.receive(who, a)
		if err != nil {
			return resolved{}, err
		}
		r.Desc, r.doc = doc.Desc, doc
	}
	if r.Digest.IsZero() {
		return resolved{}, fmt.Errorf("%s: the upstream names no digest: %w", who.ref, ErrUnavailable)
	}
	c.remember(who, r.name)
	return r, nil
}

// since is when the hub last said what an answer says; never in the future.
func (c *Cache) since(a Answer) time.Time {
	now := c.now()
	if a.AsOf.IsZero() || a.AsOf.After(now) {
		return now
	}
	return a.AsOf
}

// remember notes what a name is; and the yes that lies in it, for content that its registry has shown to have.
func (c *Cache) remember(who asked, n name) {
	c.facts.put(nameKey(who), n.encode())
	if who.ref.Kind == KindManifest && c.possesses(who.ref.Registry, n.Digest) {
		c.grant(who.at(n.Digest), n.Size)
	}
}
