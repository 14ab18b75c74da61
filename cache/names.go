package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
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
	doc  *document
	aged Aged
	way  // that it came
}

func (r resolved) found(from Tier) Found {
	return Found{Desc: r.Desc, From: from, AsOf: r.asOf, Aged: r.aged}
}

// past is r as found in memory, past its freshness.
func (c *Cache) past(ref Ref, r resolved) Found {
	f := r.found(FromMemory) // whoever was asked, what goes out is what was known
	f.Over = max(0, c.now().Sub(r.asOf)-c.aging(ref).Fresh)
	return f
}

// as is r, dealt with in a way.
func (r resolved) as(a Aged) resolved {
	r.aged = a
	return r
}

// after is r, as one finds it who knew known before, if anything.
func (r resolved) after(known resolved, have bool) resolved {
	switch {
	case !have:
		return r
	case r.Digest == known.Digest:
		return r.as(Unchanged)
	}
	return r.as(Changed)
}

// resolve says what a mutable name is: what is known while that is fresh, else what the source says, else, when the
// source cannot be asked, what was known last. body says that the content is wanted too, so that for a name never
// seen one GET brings both. Of a list, the content is always returned.
func (c *Cache) resolve(ctx context.Context, ref Ref, body, heldOnly bool) (Found, *document, error) {
	who := asked{ref, CallerOf(ctx)}
	known, have := c.recall(who)
	is := unusable
	if have {
		is = c.conditionOf(who, known.asOf)
	}
	ahead := UrgencyOf(ctx) == Warming // who warms wants to know, and nobody waits for it
	switch {
	case is == fresh:
		return known.found(FromMemory), known.doc, nil
	case heldOnly:
		return Found{}, nil, ErrNotHeld
	case is == ripe && !ahead:
		c.refresh(ctx, who, known)
		return c.past(ref, known.as(ServedAged)), known.doc, nil
	}
	r, from, err := c.consult(ctx, who, known, have, is == outdated && !ahead, body)
	if r.aged == Unconfirmed {
		c.stats.stale.Add(1)
		return c.past(ref, r), r.doc, err
	}
	return r.found(from), r.doc, err
}

// refresh asks about a name behind the answer that has just been given of it.
func (c *Cache) refresh(ctx context.Context, who asked, known resolved) {
	if !c.sulking(who) {
		errand := c.errandOf(ctx, who)
		c.names.Start(errand.in(WithUrgency(ctx, Revalidation)), errand, func(ctx context.Context) (resolved, error) {
			return c.ask(ctx, who, known, true, false)
		})
	}
}

// consult waits for what the source says. last: what is known will do if it cannot be asked, or not soon.
func (c *Cache) consult(ctx context.Context, who asked, known resolved, have, last, body bool) (resolved, Tier, error) {
	if last && c.sulking(who) {
		return known.as(Unconfirmed), FromMemory, nil
	}
	patience := time.Duration(0)
	if last {
		patience = hurry
	}
	r, joined, err := insist(ctx, &c.names, c.errandOf(ctx, who), patience, func(ctx context.Context) (resolved, error) {
		return c.ask(ctx, who, known, have, body)
	})
	switch {
	case errors.Is(err, errSlow):
		return known.as(Unconfirmed), FromMemory, nil
	case joined:
		return r, FromFlight, err
	}
	return r, fromSource(r.way), err
}

// recall is what is known of a name. Of a list that is nothing if its content is not held.
func (c *Cache) recall(who asked) (r resolved, known bool) {
	r.name, known = decodeName(c.facts.get(nameKey(who)))
	if pinned, ok := c.pins.name(who); ok && (!known || pinned.asOf.After(r.asOf)) {
		r.name, known = pinned, true
	}
	if known && who.ref.Kind != KindManifest {
		r.doc, _ = c.heldDocument(who.ref, r.Digest)
		known = r.doc != nil
	}
	return r, known
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

// offend notes that the upstream failed to answer. A limit on pulls concerns what was to be pulled: other names are
// asked for by HEAD all the same, and this one is as good as confirmed, for as long as it would have been fresh.
func (c *Cache) offend(who asked, err error) {
	wait := sulk
	var limit *LimitedError
	switch {
	case !errors.As(err, &limit):
	case limit.Of == LimitOnPulls:
		wait = max(wait, c.aging(who.ref).Fresh)
		if !limit.Until.IsZero() {
			wait = max(sulk, min(wait, time.Until(limit.Until)))
		}
	default:
		who = who.any()
		wait = max(wait, time.Until(limit.Until))
	}
	c.sulks.Store(who, time.Now().Add(min(wait, longestSulk)))
}

// ask asks the source about a name. Where that fails, the answer is what is known, if it will do.
func (c *Cache) ask(ctx context.Context, who asked, known resolved, have, body bool) (resolved, error) {
	if r, ok := c.recall(who); ok && c.conditionOf(who, r.asOf) == fresh {
		return r.after(known, have), nil // another has asked since this one looked
	}
	if have {
		c.stats.revalidated.Add(1)
	}
	usable := have && c.conditionOf(who, known.asOf) != unusable
	if usable {
		ctx = WithSpare(ctx)
	}
	r, err := c.news(ctx, who, known, have, body)
	switch {
	case err == nil:
		c.sulks.Delete(who)
		c.sulks.Delete(who.any())
		c.remember(who, r.name)
		c.named(who, r)
		if have && r.Digest != known.Digest && r.via == "" {
			c.moved(who, r.Digest, r.asOf)
		}
		return r, nil
	case errors.Is(err, ErrNotFound) && have && c.aging(who.ref).Keep && c.trusts(who.ref.Registry, known.asOf):
		c.log.Info("gone upstream, and kept", zap.Stringer("ref", who.ref), zap.Time("as_of", known.asOf))
		return known.as(Unconfirmed), nil
	case errors.Is(err, ErrNotFound):
		c.setName(who, nil) // gone; what it was stays held by its digest
		if have {
			c.moved(who, Digest{}, c.now())
		}
	case errors.Is(err, ErrDenied):
		c.revoke(who)
	case errors.Is(err, ErrUnsupported) || errors.Is(err, ErrClosed):
	case usable:
		c.offend(who, err)
		level := zap.WarnLevel
		if errors.Is(err, ErrOffline) {
			level = zap.DebugLevel // as an operator wanted it
		}
		c.log.Log(level, "served as last known", zap.Stringer("ref", who.ref), zap.Time("as_of", known.asOf), zap.Error(err))
		return known.as(Unconfirmed), nil
	}
	return resolved{}, err
}

// news is what the source says of a name. A manifest's name that was held moves only together with its content: else
// a source that answers questions and hands nothing out, as a limit on pulls does, would take from clients what is held
// and give them nothing for it.
func (c *Cache) news(ctx context.Context, who asked, known resolved, have, body bool) (resolved, error) {
	a, err := c.question(ctx, who.ref, known, have, body)
	if errors.Is(err, ErrUnchanged) && have {
		known.asOf, known.way = c.since(a), wayOf(a)
		return known.as(confirmed(a, Unchanged)), nil
	}
	if err != nil {
		return resolved{}, err
	}
	r, err := c.learn(ctx, who, a)
	if errors.Is(err, ErrCorrupt) && a.Via != "" { // from the registry itself, then
		return c.news(WithDoubts(ctx, 1), who, known, have, body)
	}
	switch {
	case err != nil:
		return r, err
	case !have:
		return r.as(confirmed(a, NotAged)), nil
	case r.Digest == known.Digest:
		return r.as(confirmed(a, Unchanged)), nil
	}
	if r.doc == nil && c.disk.holds(known.Digest) {
		r.doc, _, err = c.content(ctx, who.ref.At(r.Digest), false)
	}
	return r.as(confirmed(a, Changed)), err
}

// confirmed is how a name was dealt with by who answered, where the registry could not be asked there.
func confirmed(a Answer, aged Aged) Aged {
	if a.Stale {
		return Unconfirmed
	}
	return aged
}

// question asks in the cheapest way that answers: a HEAD where the content is not wanted or may be held.
func (c *Cache) question(ctx context.Context, ref Ref, known resolved, have, body bool) (Answer, error) {
	if body && !have && !c.rumoured(ref) {
		return c.src.Open(ctx, ref, Whole)
	}
	a, err := c.src.Resolve(ctx, ref, Want{N: -1, Known: known.Digest})
	if err == nil && a.Body == nil && ref.Kind != KindManifest {
		return c.src.Open(ctx, ref, Whole) // of a list nothing but its content is of use
	}
	return a, err
}

// learn is what the source says a name is; its content, where that came along, is kept.
func (c *Cache) learn(ctx context.Context, who asked, a Answer) (resolved, error) {
	r := resolved{name: name{Desc: a.Desc, asOf: c.since(a)}, way: wayOf(a)}
	if a.Body != nil {
		doc, err := c.receive(ctx, who, a)
		if err != nil {
			return resolved{}, err
		}
		r.Desc, r.doc = doc.Desc, doc
	}
	if r.Digest.IsZero() {
		return resolved{}, fmt.Errorf("%s: the upstream names no digest: %w", who.ref, ErrUnavailable)
	}
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
	c.setName(who, n.encode())
	c.chronicle(who, n)
	if who.ref.Kind == KindManifest && c.possesses(who.ref.Registry, n.Digest) {
		c.grant(who.at(n.Digest), n.Size)
	}
}
