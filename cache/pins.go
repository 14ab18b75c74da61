package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Pin is an image, or another thing that has a manifest, which is kept whatever comes: it is never evicted, its names
// are known although all else that is known was lost, and it needs no registry's permission to be served, because
// whoever pinned it has decided that.
type Pin struct {
	Ref   Ref       // the name that it is pinned by: a manifest's, a tag or a digest
	Owner string    // who wants it; another who wants it too has a pin of its own
	At    time.Time // when it was pinned; zero: now
	Parts []Part    // all that is kept for it, the manifest itself included; of one repository
}

// Part is one thing that a Pin keeps: content by its digest, or a name and what it stood for.
type Part struct {
	Ref Ref
	Desc
	AsOf time.Time // of a name: when the registry said so
}

// Content is what x keeps, by its digest: of a list, which is known by a name alone, as a blob.
func (x Part) Content() Ref {
	ref := x.Ref.At(x.Digest)
	if ref.Kind != KindManifest {
		ref.Kind = KindBlob
	}
	return ref
}

// Bytes is the size of all that p keeps.
func (p Pin) Bytes() (n int64) {
	for _, x := range p.Parts {
		n += max(0, x.Size)
	}
	return n
}

// digests are those of p's content, each once.
func (p Pin) digests() []Digest {
	all := make([]Digest, 0, len(p.Parts))
	for _, x := range p.Parts {
		all = append(all, x.Digest)
	}
	slices.SortFunc(all, func(a, b Digest) int { return cmp.Compare(a.key(), b.key()) })
	return slices.Compact(all)
}

// check refuses what cannot be a pin, wherever it comes from.
func (p Pin) check() error {
	if err := p.Ref.Check(); err != nil || p.Ref.Kind != KindManifest {
		return errors.Join(fmt.Errorf("%q names no image", p.Ref), err)
	}
	for _, x := range p.Parts {
		if x.Ref.Registry != p.Ref.Registry || x.Ref.Repo != p.Ref.Repo {
			return fmt.Errorf("%s is no part of %s: it is in another repository", x.Ref, p.Ref)
		}
		if x.Digest.IsZero() || x.Size < 0 || !x.Ref.Mutable() && x.Ref.Digest != x.Digest {
			return fmt.Errorf("%s, a part of %s, has no digest or no size", x.Ref, p.Ref)
		}
	}
	return nil
}

// pinKey is what a Pin is known by.
type pinKey struct {
	owner string
	ref   Ref
}

// pins are what is pinned: on disk one small file each, all of it in memory.
type pins struct {
	disk *disk
	log  *zap.Logger

	turn chan struct{} // holds one while somebody changes them
	some atomic.Bool   // there are any: each hit asks, and mostly there are none

	mu    sync.Mutex // guards what follows, for a moment
	all   map[pinKey]Pin
	names map[Ref][]Part // what a name stood for, by each pin
	held  map[Ref]int    // how many pins keep content by its digest
	bad   error          // what could not be read
}

// Pin makes p durable, in the place of what its owner had pinned by that name. All parts must be held: ErrNotHeld names
// the first that is not. When it returns nil, no crash and no loss of power loses any of it.
func (c *Cache) Pin(ctx context.Context, p Pin) error {
	if err := p.check(); err != nil {
		return err
	}
	if p.At.IsZero() {
		p.At = c.now()
	}
	digests := p.digests()
	c.disk.books.pin(digests) // first: what is looked at must not go meanwhile
	left, err := false, c.secure(ctx, p)
	if err == nil {
		left, err = c.pins.put(ctx, p)
	}
	if err != nil {
		if !left { // else the next start finds it pinned
			c.disk.books.unpin(digests)
		}
		return fmt.Errorf("%s is not pinned: %w", p.Ref, err)
	}
	return nil
}

// put makes p durable, in the place of an older one. left: it failed, and the file may be there all the same.
func (s *pins) put(ctx context.Context, p Pin) (left bool, err error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if left, err = s.write(p); err != nil {
		return left, err
	}
	old, was := s.swap(p)
	if was && !old.At.Equal(p.At) {
		err = s.erase(old)
	}
	if was && err == nil {
		s.disk.books.unpin(old.digests())
	}
	return false, nil // what is left of the old one costs room, until the next start
}

// secure makes p's content durable: all of it is there, is what its digest names, and has reached the disk.
func (c *Cache) secure(ctx context.Context, p Pin) error {
	for _, x := range p.Parts {
		if doc, ok := c.memory.get(x.Digest); ok && !c.disk.holds(x.Digest) { // what another member keeps
			if err := c.disk.keep(x.Digest, doc.data, Kept); err != nil {
				return fmt.Errorf("%s: %w", x.Ref, err)
			}
		}
		if err := c.disk.secure(ctx, x.Digest); err != nil {
			return fmt.Errorf("%s: %w", x.Ref, err)
		}
	}
	return c.disk.sync()
}

// secure waits until content has its name on disk, and proves it.
func (d *disk) secure(ctx context.Context, g Digest) error {
	h, err := d.settled(ctx, g)
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }()
	err = h.prove(ctx)
	if rot := (*rotten)(nil); errors.As(err, &rot) {
		d.bad(h.entry, err)
		return ErrNotHeld
	}
	return err
}

// settled opens content once it is where it belongs.
func (d *disk) settled(ctx context.Context, g Digest) (*held, error) {
	for {
		d.mu.Lock()
		next := d.rounds.wait()
		d.mu.Unlock()
		h, ok := d.open(g)
		if !ok {
			return nil, ErrNotHeld
		}
		if waits, _ := d.books.waits(h.entry); !waits {
			return h, nil
		}
		_ = h.Close()
		select {
		case <-next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Unpin takes a pin back, and reports whether there was one. What it kept is cached content from now on.
func (c *Cache) Unpin(owner string, ref Ref) (bool, error) {
	old, _ := c.pins.find(owner, ref)
	return c.UnpinOlder(owner, ref, later(c.now(), old.At)) // the clock may have been set back since
}

// UnpinOlder is Unpin as of a time: a pin that was set later stays.
func (c *Cache) UnpinOlder(owner string, ref Ref, at time.Time) (bool, error) {
	c.pins.turn <- struct{}{}
	defer func() { <-c.pins.turn }()
	if at.After(c.Unpinned(owner, ref)) {
		c.LeaveHint(unpinHint+owner+"\x00"+ref.String(), at.UTC().Format(time.RFC3339Nano))
	}
	old, ok := c.pins.find(owner, ref)
	if !ok || old.At.After(at) {
		return false, nil
	}
	if err := c.pins.erase(old); err != nil {
		return true, fmt.Errorf("%s stays pinned: %w", ref, err)
	}
	c.pins.forget(old)
	c.disk.books.unpin(old.digests())
	return true, nil
}

// unpinHint begins the keys under which it is remembered when a pin was taken back.
const unpinHint = "unpinned\x00"

// Unpinned is when a pin of that name was last taken back; zero where that is not known. A copy of a pin that is older
// than that is one that was overlooked.
func (c *Cache) Unpinned(owner string, ref Ref) time.Time {
	at, _ := time.Parse(time.RFC3339Nano, c.Hint(unpinHint+owner+"\x00"+ref.String()))
	return at
}

// Pins are all pins, by name and owner.
func (c *Cache) Pins() []Pin { return c.pins.sorted(func(Pin) bool { return true }) }

// sorted are those among them that are in, by name and owner. That is said before they are put in order: who asks about five
// hundred images at a time cannot wait until all pins are, for each.
func (s *pins) sorted(in func(Pin) bool) []Pin {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []Pin{}
	for _, p := range s.all {
		if in(p) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b Pin) int {
		return cmp.Or(cmp.Compare(a.Ref.String(), b.Ref.String()), cmp.Compare(a.Owner, b.Owner))
	})
	return list
}

func (s *pins) find(owner string, ref Ref) (Pin, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.all[pinKey{owner, ref}]
	return p, ok
}

// swap enters p and returns what was in its place.
func (s *pins) swap(p Pin) (old Pin, was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := pinKey{p.Owner, p.Ref}
	if old, was = s.all[key]; was {
		s.drop(old)
	}
	s.all[key] = p
	s.some.Store(true)
	for _, x := range p.Parts {
		if x.Ref.Mutable() {
			s.names[x.Ref] = append(s.names[x.Ref], x)
		}
		s.held[x.Content()]++
	}
	return old, was
}

func (s *pins) forget(p Pin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(p)
	s.some.Store(len(s.all) > 0)
}

// drop takes p out. s.mu is held.
func (s *pins) drop(p Pin) {
	delete(s.all, pinKey{p.Owner, p.Ref})
	for _, x := range p.Parts {
		content := x.Content()
		if s.held[content]--; s.held[content] <= 0 {
			delete(s.held, content)
		}
		if !x.Ref.Mutable() {
			continue
		}
		rest := s.names[x.Ref]
		if i := slices.Index(rest, x); i >= 0 {
			rest = slices.Delete(slices.Clone(rest), i, i+1)
		}
		if s.names[x.Ref] = rest; len(rest) == 0 {
			delete(s.names, x.Ref)
		}
	}
}

// has reports whether who may have what it asks for because it is pinned: pins are ours, and so for those whom we serve
// as we please.
func (s *pins) has(who asked) bool {
	if who.caller != "" || !s.some.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[who.ref] > 0
}

// tags are the pinned ones of a repository.
func (s *pins) tags(who asked) (tags []string) {
	if who.caller != "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref := range s.names {
		if ref.Registry == who.ref.Registry && ref.Repo == who.ref.Repo && ref.Kind == KindManifest {
			tags = append(tags, ref.Tag)
		}
	}
	return tags
}

// named reports whether who asks for a pinned name.
func (s *pins) named(who asked) bool {
	_, ok := s.name(who)
	return ok
}

// name is what a pinned name stood for when it was last asked for.
func (s *pins) name(who asked) (n name, ok bool) {
	if who.caller != "" || !s.some.Load() {
		return n, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.names[who.ref] {
		if !ok || x.AsOf.After(n.asOf) {
			n, ok = name{x.Desc, x.AsOf}, true
		}
	}
	return n, ok
}

// health says what of the pins could not be read.
func (s *pins) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bad
}
