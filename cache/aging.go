package cache

import (
	"math"
	"time"
)

// Forever is longer than any process runs.
const Forever = time.Duration(math.MaxInt64)

// Aging says how a name ages. The zero value: it is asked for each time, and nothing but the answer will do.
type Aging struct {
	Fresh time.Duration // how long it needs no asking
	Grace time.Duration // how much longer it is served at once, while the source is asked behind the answer
	Stale time.Duration // how long after Fresh it will do while the source cannot be asked
	Keep  bool          // what it was will do as well when the source says that it is gone
}

// defaultFresh is how long a name needs no asking where nothing else is said.
const defaultFresh = 5 * time.Minute

func (c *Cache) aging(ref Ref) Aging {
	if c.o.Aging == nil {
		return Aging{Fresh: defaultFresh, Stale: Forever}
	}
	a := c.o.Aging(ref)
	if c.byCaller(ref.Registry) {
		a.Keep = false // what is gone may be what may not be seen any more
	}
	return a
}

// condition is what may be done with something known of a name.
type condition uint8

const (
	unusable condition = iota // nothing is known, or nothing that may be served
	outdated                  // only while the source cannot be asked
	ripe                      // it is served, and the source asked behind the answer
	fresh                     // it is served
)

// conditionOf judges what who knew at a time. A clock that was set back must not make a name fresh for longer than it
// would have been.
func (c *Cache) conditionOf(who asked, at time.Time) condition {
	rule, age := c.aging(who.ref), c.now().Sub(at)
	over := age - rule.Fresh // how long it has not been fresh
	heard, pinned := c.marks.of(who.ref), c.pins.named(who)
	switch {
	case !heard.purged.IsZero() && !at.After(heard.purged) && !pinned:
		return unusable
	case !c.trusts(who.ref.Registry, at) && !pinned, !c.permits.allow(who):
		return unusable
	case at.Before(heard.moved) && age >= 0 && over < rule.Stale:
		return outdated
	case age >= 0 && over < 0:
		return fresh
	case age >= 0 && over < rule.Grace:
		return ripe
	case age < 0 || over < rule.Stale:
		return outdated
	default:
		return unusable
	}
}
