package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// What is purged is forgotten: a name at once; what it stood for, and all that was kept for that, unless something else
// that is held needs it. Those who read it finish, for they have their files open, and who asks next has it fetched.

// ErrPinned says that what is to be purged is pinned.
var ErrPinned = errors.New("it is pinned")

// Purged says what was forgotten, or would be.
type Purged struct {
	Names   int      // tags and lists
	Things  int      // content that was held: manifests, lists and blobs
	Bytes   int64    // of it
	Digests []Digest // of all that was to go, whether it was held here or elsewhere
}

// Purge forgets a tag, a digest, or, where scope has neither, all of a repository, as it was known up to a time: what was
// learned later stays. Content goes with it that no other name, no other repository and no other manifest that is held
// needs; but a digest that is named itself always goes. Where the manifests of the repository are another's to keep (see
// Options.Keep), only that one knows what needs what, and has the rest dropped. dry only says what would go. ErrPinned:
// nothing was forgotten.
func (c *Cache) Purge(ctx context.Context, scope Ref, upTo time.Time, dry bool) (Purged, error) {
	if pins := c.PinsIn(scope); len(pins) > 0 {
		return Purged{}, fmt.Errorf("%w, as %s by %s: unpin it first", ErrPinned, pins[0].Ref, pins[0].Owner)
	}
	p := c.plan(scope, upTo)
	if !scope.Digest.IsZero() {
		p.add(scope.Digest, true)
	}
	c.namesIn(p)
	c.linksIn(p)
	return c.carryOut(ctx, p, dry)
}

// Drop forgets content of a repository, as Purge does what a name of it stood for: another who has forgotten the name
// knew what belongs to it.
func (c *Cache) Drop(ctx context.Context, repo Ref, digests []Digest, upTo time.Time) (Purged, error) {
	p := c.plan(repository(repo), upTo)
	p.part = true
	for _, d := range digests {
		p.add(d, false)
	}
	return c.carryOut(ctx, p, false)
}

// PinsIn are the pins that a purge of scope would take something from, by name and owner.
func (c *Cache) PinsIn(scope Ref) []Pin {
	return c.pins.sorted(func(p Pin) bool { return p.within(scope) })
}

// within reports whether a purge of scope would take something from p.
func (p Pin) within(scope Ref) bool {
	switch {
	case p.Ref.Registry != scope.Registry || p.Ref.Repo != scope.Repo:
		return false
	case scope == repository(scope) || p.Ref == scope:
		return true
	}
	return slices.ContainsFunc(p.Parts, func(x Part) bool {
		return x.Ref == scope || !scope.Digest.IsZero() && x.Digest == scope.Digest
	})
}

// purge is one that is being planned.
type purge struct {
	scope Ref
	part  bool // scope says only where what is to go belongs
	upTo  time.Time

	names []string         // keys of facts
	links []string         // keys of facts
	doom  map[Digest]*fate // all that may go
	order []Digest         // as they were found: what contains something before that
}

// fate is what becomes of content.
type fate struct {
	named bool // it was asked for by its digest
	stays bool
}

func (c *Cache) plan(scope Ref, upTo time.Time) *purge {
	return &purge{scope: scope, upTo: upTo, doom: map[Digest]*fate{}}
}

func (p *purge) add(d Digest, named bool) {
	if p.doom[d] == nil {
		p.doom[d] = &fate{named: named}
		p.order = append(p.order, d)
	}
}

// whole reports whether all of the repository is to go.
func (p *purge) whole() bool { return !p.part && p.scope == repository(p.scope) }

// namesIn finds the names that go, and what they stand for.
func (c *Cache) namesIn(p *purge) {
	prefix := nameFact + p.scope.Registry + "\x00" + p.scope.Repo + "\x00"
	switch {
	case p.whole():
	case p.scope.Tag == "":
		return
	default:
		prefix = nameKey(asked{ref: p.scope})
	}
	c.facts.each(prefix, func(key string, value []byte) {
		n, ok := decodeName(value)
		if rest := key[len(prefix):]; !ok || n.asOf.After(p.upTo) || !p.whole() && rest != "" && rest[0] != 0xff {
			return // learned later, or another tag that begins alike
		}
		p.names = append(p.names, key)
		p.add(n.Digest, false)
	})
}

// linksIn finds what else is known to be in a repository that goes as a whole.
func (c *Cache) linksIn(p *purge) {
	if !p.whole() {
		return
	}
	prefix := linkPrefix(p.scope.Registry, p.scope.Repo)
	c.facts.each(prefix, func(key string, value []byte) {
		if d, _, ok := cutDigest(key[min(len(key), len(prefix)+1):]); ok {
			p.add(d, false)
		}
	})
}

// carryOut decides what goes, and forgets it.
func (c *Cache) carryOut(ctx context.Context, p *purge, dry bool) (done Purged, err error) {
	if !p.part && c.Keeps(p.scope) {
		c.descend(p)
	}
	c.spareNamed(p)
	c.spareLinked(p)
	c.spareContained(p)
	if err := ctx.Err(); err != nil {
		return done, err
	}
	if !dry {
		c.forgetNames(p)
	}
	done.Names = len(p.names)
	for _, d := range p.order {
		if p.doom[d].stays {
			continue
		}
		done.Digests = append(done.Digests, d)
		if n, held := c.discard(p, d, dry); held {
			done.Things++
			done.Bytes += n
		}
	}
	if !dry {
		c.log.Info("purged", zap.Stringer("what", p.scope), zap.Int("names", done.Names), zap.Int("things", done.Things),
			zap.Int64("bytes", done.Bytes))
	}
	return done, nil
}

// descend adds what is contained in what may go.
func (c *Cache) descend(p *purge) {
	for i := 0; i < len(p.order); i++ {
		for _, child := range c.children(p.order[i]) {
			p.add(child, false)
		}
	}
}

// children are what a manifest is known to contain.
func (c *Cache) children(d Digest) (all []Digest) {
	prefix := childFact + d.key()
	c.facts.scan(prefix, func(key string, _ []byte) bool {
		if child, _, ok := cutDigest(key[len(prefix):]); ok {
			all = append(all, child)
		}
		return true
	})
	return all
}

// spareNamed keeps what other names stand for.
func (c *Cache) spareNamed(p *purge) {
	going := map[string]bool{}
	for _, key := range p.names {
		going[key] = true
	}
	c.facts.each(nameFact, func(key string, value []byte) {
		if n, ok := decodeName(value); ok && !going[key] {
			p.spare(n.Digest)
		}
	})
	for d := range p.doom {
		if c.disk.books.pins(d) {
			p.doom[d].stays, p.doom[d].named = true, false
		}
	}
}

// spare keeps d, unless it was asked for by its digest.
func (p *purge) spare(d Digest) {
	if f := p.doom[d]; f != nil && !f.named {
		f.stays = true
	}
}

// spareLinked keeps what other repositories have, and what this one has shown to have since; and finds the permissions
// that go with the rest.
func (c *Cache) spareLinked(p *purge) {
	own := linkPrefix(p.scope.Registry, p.scope.Repo)
	c.facts.each(linkFact, func(key string, value []byte) {
		place, d, ok := splitLink(key)
		l, sound := decodeLink(value)
		if f := p.doom[d]; !ok || !sound || f == nil {
			return
		}
		switch {
		case place == own && !l.at.After(p.upTo):
			p.links = append(p.links, key)
		case place == own:
			p.doom[d].stays = true
		case !strings.HasSuffix(place, "\x00\x00"): // of a repository, and not a proof of possession
			p.spare(d)
		}
	})
}

// splitLink reads a link's key: the prefix of its repository, and the digest.
func splitLink(key string) (prefix string, d Digest, ok bool) {
	registry, rest, ok := strings.Cut(key, "\x00")
	repo, rest, more := strings.Cut(rest, "\x00")
	if !ok || !more || rest == "" {
		return "", d, false
	}
	d, _, ok = cutDigest(rest[1:])
	return registry + "\x00" + repo + "\x00", d, ok
}

// spareContained keeps what is contained in something that is held and stays.
func (c *Cache) spareContained(p *purge) {
	for _, d := range p.order {
		prefix := parentFact + d.key()
		c.facts.scan(prefix, func(key string, _ []byte) bool {
			parent, _, ok := cutDigest(key[len(prefix):])
			if ok && p.doom[parent] == nil && c.holds(parent) {
				p.spare(d)
			}
			return true
		})
	}
	for again := true; again; { // an index may contain another, which was found before
		again = false
		for _, d := range p.order {
			if !p.doom[d].stays {
				continue
			}
			for _, child := range c.children(d) {
				if f := p.doom[child]; f != nil && !f.stays && !f.named {
					f.stays, again = true, true
				}
			}
		}
	}
}

// forgetNames forgets names, the permissions for what goes, and what goes contains.
func (c *Cache) forgetNames(p *purge) {
	if p.scope.Digest.IsZero() && !p.part {
		c.marks.note(p.scope, heardOf{purged: p.upTo})
	}
	for _, key := range p.names {
		c.facts.put(key, nil)
	}
	for _, key := range p.links {
		if _, d, ok := splitLink(key); ok && !p.doom[d].stays || p.whole() {
			c.facts.put(key, nil)
		}
	}
}

// discard takes content out of the tiers, and returns how much there was.
func (c *Cache) discard(p *purge, d Digest, dry bool) (bytes int64, held bool) {
	doc, inMemory := c.memory.get(d)
	if inMemory {
		bytes = doc.Size
	}
	onDisk := c.disk.holds(d)
	if size := c.disk.books.size(slot{digest: d}); onDisk {
		bytes = size
	}
	if dry {
		return bytes, inMemory || onDisk
	}
	for _, child := range c.children(d) {
		c.facts.put(childFact+d.key()+child.key(), nil)
		c.facts.put(parentFact+child.key()+d.key(), nil)
	}
	c.facts.put(proofKey(p.scope.Registry, d), nil)
	c.memory.drop(d)
	c.disk.books.discard(slot{digest: d})
	c.disk.books.discard(slot{digest: d, partial: partialMark(p.scope.Registry)})
	return bytes, inMemory || onDisk
}

// each calls fn for all facts under prefix that are known, those included that are never written down.
func (t *table) each(prefix string, fn func(key string, value []byte)) {
	held := map[string][]byte{}
	t.mu.Lock()
	for _, key := range t.recent.Keys() {
		if v, _ := t.recent.Peek(key); v != nil && strings.HasPrefix(key, prefix) {
			held[key] = v
		}
	}
	t.mu.Unlock()
	t.scan(prefix, func(key string, value []byte) bool {
		if _, twice := held[key]; !twice {
			fn(key, value)
		}
		return true
	})
	for key, value := range held {
		fn(key, value)
	}
}
