package cache

import (
	"slices"
	"strings"
	"time"
)

// Thing is content that has landed, under one of the names that its registry has it by.
type Thing struct {
	Ref     Ref // by digest
	Size    int64
	HotCopy bool // another member keeps it
}

// Inventory lists up to n things that are held, most recently used first, from the skip-th on; of what is pinned see Pins.
// It leaves out what no registry has shown us by a permission of ours that still is good, so that a list of n may be
// shorter; more reports whether there are any after it.
func (c *Cache) Inventory(skip, n int) (things []Thing, more bool) {
	entries, more := c.disk.books.recent(skip, n)
	found := make(map[Digest]*Thing, len(entries))
	for _, e := range entries {
		found[e.slot.digest] = &Thing{Size: e.size, HotCopy: e.keeping == HotCopy}
	}
	c.facts.scan(linkFact, func(key string, value []byte) bool {
		if l, ok := decodeLink(value); ok {
			if ref, ours := linkRef(key); ours && c.trusts(ref.Registry, l.at) {
				if t := found[ref.Digest]; t != nil && t.Ref.Repo == "" && t.Size == l.size {
					t.Ref = ref
				}
			}
		}
		return true
	})
	for _, e := range entries {
		if t := found[e.slot.digest]; t.Ref.Repo != "" {
			things = append(things, *t)
		}
	}
	return things, more
}

// linkRef is what a linkKey is about, and whether that is of a repository, and not of one caller only.
func linkRef(key string) (ref Ref, ours bool) {
	parts := strings.SplitN(strings.TrimPrefix(key, linkFact), "\x00", 3)
	if len(parts) < 3 || parts[1] == "" || parts[2] == "" {
		return ref, false
	}
	ref = Ref{Registry: parts[0], Repo: parts[1], Kind: Kind(parts[2][0] - '0')}
	d, caller, ok := cutDigest(parts[2][1:])
	ref.Digest = d
	return ref, ok && (caller == "" || caller == string(anyone)) && (ref.Kind == KindBlob || ref.Kind == KindManifest)
}

// recent are what has landed, as it is now, most recently used first.
func (b *books) recent(skip, n int) (list []entry, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	order := b.policy.Order()
	for e := range b.away { // it landed just now, and the policy does not know of it yet
		if !b.isPinned(e) {
			order = append(order, e)
		}
	}
	for _, e := range slices.Backward(order) {
		if e.slot.partial != 0 || e.keeping == Passing {
			continue
		}
		if skip--; skip >= 0 {
			continue
		}
		if len(list) == n {
			return list, true
		}
		list = append(list, *e)
	}
	return list, false
}

// Room is the part of the disk's budget that is free, or has hot copies, which go first; 0 to 1.
func (c *Cache) Room() float64 {
	used, budget, _, _ := c.disk.books.sums()
	if budget <= 0 {
		return 0
	}
	return max(0, float64(budget-used+c.disk.books.copiedBytes())/float64(budget))
}

// Names calls fn for the tags that are known, with what they were when their registry last said so.
func (c *Cache) Names(fn func(ref Ref, d Desc, asOf time.Time)) {
	c.facts.scan(nameFact, func(key string, value []byte) bool {
		parts := strings.SplitN(key[len(nameFact):], "\x00", 3)
		if len(parts) < 3 || parts[2] == "" {
			return true
		}
		ref := Ref{Registry: parts[0], Repo: parts[1], Kind: Kind(parts[2][0] - '0'), Tag: parts[2][1:]}
		n, ok := decodeName(value)
		// What a caller was told has him in its key, which is no tag.
		if ok && ref.Kind == KindManifest && ref.Tag != "" && ref.Check() == nil && c.trusts(ref.Registry, n.asOf) {
			fn(ref, n.Desc, n.asOf)
		}
		return true
	})
}

// Learn notes what a tag was at a time, as somebody else was told by its registry, unless something later is known.
func (c *Cache) Learn(ref Ref, d Desc, asOf time.Time) {
	if ref.Kind != KindManifest || ref.Tag == "" || d.Digest.IsZero() || c.byCaller(ref.Registry) || asOf.After(c.now().Add(skew)) {
		return
	}
	who := asked{ref: ref}
	if !asOf.After(c.marks.of(ref).purged) {
		return // to be forgotten, which the other has not heard yet
	}
	if r, known := c.recall(who); !known || r.asOf.Before(asOf) {
		c.remember(who, name{d, asOf})
	}
}

// skew is how far ahead of ours another member's clock may be: with NTP it is a thousandth of that.
const skew = time.Minute

// named tells who wants to know what a registry has just said of a tag to this cache, and not to another.
func (c *Cache) named(who asked, r resolved) {
	if c.o.Named != nil && who.caller == "" && r.via == "" && who.ref.Kind == KindManifest {
		c.o.Named(who.ref, r.Desc, r.asOf)
	}
}
