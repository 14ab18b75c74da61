package cache

// Keeping says what becomes of content once nobody reads it any more.
type Keeping uint8

// Kept stays for as long as there is room. A HotCopy is here beside what another member of the cluster keeps: all of them
// together have a bounded part of the disk, where they go first, and of the memory. What is Passing goes with its last
// reader. What stays longer is less.
const (
	Kept Keeping = iota
	HotCopy
	Passing
)

// keeping decides what becomes of ref's content. wanted: somebody wants it kept, whoever owns it.
func (c *Cache) keeping(ref Ref, wanted bool) Keeping {
	if wanted || c.o.Keep == nil {
		return Kept
	}
	return c.o.Keep(ref)
}

// Keeps reports whether content of this kind and name stays here once it was fetched.
func (c *Cache) Keeps(ref Ref) bool { return c.keeping(ref, false) == Kept }

// owns reports whether other members have a thing fetched by this one.
func (c *Cache) owns(ref Ref) bool { return c.o.Owns != nil && c.o.Owns(ref) }

// copyShare is the part of a budget, of the disk and of memory, that hot copies may have. In a registry's trace a tenth of
// the bytes gets four fifths of the requests; what is kept beyond that takes room from what nobody else has.
const copyShare = 10 // percent

// ranks is the Policy of a member: hot copies go first, and then what was not touched for longest.
type ranks struct{ copies, rest lru }

func newRanks() ranks { return ranks{newLRU(), newLRU()} }

func (r ranks) Touch(e *entry) {
	if e.keeping == HotCopy {
		r.copies.Touch(e)
		return
	}
	r.rest.Touch(e)
}

func (r ranks) Forget(e *entry) {
	r.copies.Forget(e)
	r.rest.Forget(e)
}

func (r ranks) Victim() *entry {
	if e := r.copies.Victim(); e != nil {
		return e
	}
	return r.rest.Victim()
}

func (r ranks) Order() []*entry { return append(r.copies.Order(), r.rest.Order()...) }

// announce tells who wants to know of content that has come to stay.
func (c *Cache) announce(ref Ref, d Desc, k Keeping) {
	if k != Passing && c.o.Landed != nil && (ref.Kind == KindBlob || ref.Kind == KindManifest) {
		c.o.Landed(ref, d, k)
	}
}

// retain has what is held stay here, whoever owns it, because its reader wants that (see WithKeep): what lies in memory
// alone is put on disk. What is arriving knows of its readers by itself.
func (c *Cache) retain(ref Ref, b *Blob) {
	switch {
	case b.data == nil || c.disk.holds(b.Digest):
		c.Rank(b.Digest, false)
	default:
		c.shelve(ref, b.Desc, b.data, Kept)
		c.memory.rank(b.Digest, Kept)
	}
}

// Rank has content that is held be a hot copy, or this member's own.
func (c *Cache) Rank(d Digest, hotCopy bool) {
	k := Kept
	if hotCopy {
		k = HotCopy
	}
	if c.disk.books.rank(d, k) {
		c.memory.rank(d, k)
	}
}

// rank has landed content be kept as k says, and reports whether it was not before.
func (b *books) rank(d Digest, k Keeping) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.find(slot{digest: d})
	return e != nil && b.setKeeping(e, k)
}

// setKeeping has e be kept as k says, and reports whether it was not before. What is pinned stays Kept. b.mu is held.
func (b *books) setKeeping(e *entry, k Keeping) bool {
	if e.keeping == k || k != Kept && b.isPinned(e) {
		return false
	}
	b.policy.Forget(e)
	b.copies -= e.copied()
	if e.keeping == Passing && b.away[e] != "" {
		b.wake() // it is to be committed after all
	}
	e.keeping = k
	b.copies += e.copied()
	switch {
	case k == Passing && e.readers == 0:
		b.remove(e)
	case b.away[e] == "": // else once it is settled
		b.prefer(e)
	}
	b.trimCopies()
	return true
}

// copied is how many of e's bytes are a hot copy.
func (e *entry) copied() int64 {
	if e.keeping != HotCopy {
		return 0
	}
	return e.size
}

// trimCopies has hot copies go that are more than their share. b.mu is held.
func (b *books) trimCopies() {
	b.letGo(func(e *entry) bool { return e.keeping == HotCopy && b.copies > b.budget/100*copyShare })
}

// copiedBytes is how many bytes are hot copies.
func (b *books) copiedBytes() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.copies
}
