package cache

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Some registries are asked with the logins of those who come (Options.Callers). What such a registry says to one caller
// of a repository is no word to the next; that a digest is in the repository is the same for all of them. So the first
// is remembered for each caller, in memory and for minutes; the second is a link, of anyone's; and what is held goes out
// where both are there.

// anyone stands, in facts, for every caller of a registry. No Caller is called so: they are long.
const anyone Caller = "*"

// Member is the caller of a registry whose callers' logins count who is another member of the cluster: it has asked, or
// will ask, the registry in the name of whoever wants what it is given. Nobody who comes by the door is called so.
const Member Caller = "*member"

// permits remember to whom a registry has said yes. They listen to every answer, so that nobody need tell them.
type permits struct {
	Source
	last func(registry string) time.Duration // how long a yes is good for; 0: the registry's callers are all alike

	mu   sync.Mutex
	said *simplelru.LRU[tenant, said]
}

// tenant is a caller of a repository.
type tenant struct {
	caller         Caller
	registry, repo string
}

// said is what a registry has said to a tenant.
type said struct {
	yes [KindReferrers + 1]time.Time // when what it said yes to was asked; lists may be another permission than content
	no  time.Time                    // when it last said no
}

// mostTenants bounds what strangers can make us remember; who is forgotten is asked for again.
const mostTenants = 1 << 16

func witnessed(src Source, last func(registry string) time.Duration) *permits {
	if last == nil {
		last = func(string) time.Duration { return 0 }
	}
	all, _ := simplelru.NewLRU[tenant, said](mostTenants, nil) // fails for a size below 1 only
	return &permits{Source: src, last: last, said: all}
}

// Resolve asks the source, and remembers what it said to whom.
func (p *permits) Resolve(ctx context.Context, ref Ref, want Want) (Answer, error) {
	began := time.Now()
	a, err := p.Source.Resolve(ctx, ref, want)
	p.hear(asked{ref, CallerOf(ctx)}, began, err)
	return a, err
}

// Open asks the source, and remembers what it said to whom.
func (p *permits) Open(ctx context.Context, ref Ref, want Want) (Answer, error) {
	began := time.Now()
	a, err := p.Source.Open(ctx, ref, want)
	p.hear(asked{ref, CallerOf(ctx)}, began, err)
	return a, err
}

// hear notes the answer to a question that was asked at a time. That one thing is not there is no word on the others,
// even where those who may not look are told so: the yes ends soon enough.
func (p *permits) hear(who asked, began time.Time, err error) {
	yes := err == nil || errors.Is(err, ErrUnchanged)
	if p.last(who.ref.Registry) == 0 || !yes && !errors.Is(err, ErrDenied) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s, _ := p.said.Get(who.tenant())
	if yes {
		s.yes[who.ref.Kind] = later(s.yes[who.ref.Kind], began)
	} else {
		s.no = time.Now() // whatever was asked before, and is answered after
	}
	p.said.Add(who.tenant(), s)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (a asked) tenant() tenant { return tenant{a.caller, a.ref.Registry, a.ref.Repo} }

// allow reports whether a yes to who is good for what it asks. Who may have manifests may have what they are made of;
// the reverse does not hold everywhere.
func (p *permits) allow(who asked) bool {
	last := p.last(who.ref.Registry)
	if last == 0 || who.caller == Member {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s, _ := p.said.Get(who.tenant())
	at := s.yes[who.ref.Kind]
	if who.ref.Kind == KindBlob {
		at = later(at, s.yes[KindManifest])
	}
	return at.After(s.no) && time.Since(at) < last
}

// byCaller reports whether a registry is asked with its callers' own logins.
func (c *Cache) byCaller(registry string) bool { return c.permits.last(registry) > 0 }

// keeper is the one under whom who's links are kept.
func (c *Cache) keeper(who asked) asked {
	if c.byCaller(who.ref.Registry) {
		who.caller = anyone
	}
	return who
}

// within reports whether who's digest is known to be in the repository, whoever may have it.
func (c *Cache) within(who asked) bool {
	l, ok := decodeLink(c.facts.get(linkKey(c.keeper(who))))
	return ok && c.trusts(who.ref.Registry, l.at)
}

// renew asks whether who still may have what is known to be in the repository: once for all that he wants of it at a
// time.
func (c *Cache) renew(ctx context.Context, who asked) error {
	whole := asked{Ref{Registry: who.ref.Registry, Repo: who.ref.Repo, Kind: who.ref.Kind}, who.caller}
	for {
		_, joined, err := c.renewals.Do(ctx, whole, 0, func(ctx context.Context) (struct{}, error) {
			_, err := c.inquire(ctx, who)
			return struct{}{}, err
		})
		switch {
		case !joined, err != nil && !errors.Is(err, ErrNotFound): // that is said of one digest only
			return err
		case c.linked(who):
			return nil
		}
	}
}

// setName notes what a name is to who; nil: nothing. Of a caller that another process could not tell from others it is
// not written down: only that somebody was told so of the name, for nobody to be answered with.
func (c *Cache) setName(who asked, value []byte) {
	if !c.byCaller(who.ref.Registry) {
		c.facts.put(nameKey(who), value)
		return
	}
	c.facts.hold(nameKey(who), value)
	if who.ref.Kind == KindManifest {
		c.facts.put(nameKey(asked{who.ref, anyone}), value)
	}
}

// rumoured reports whether somebody was told what a name is, and that is held: then to be told by a HEAD will do.
func (c *Cache) rumoured(ref Ref) bool {
	if !c.byCaller(ref.Registry) || ref.Kind != KindManifest {
		return false
	}
	n, ok := decodeName(c.facts.get(nameKey(asked{ref, anyone})))
	return ok && c.disk.holds(n.Digest)
}
