package cache

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// slot is one thing on the books: content that has landed, or a partial download of it from one registry.
type slot struct {
	digest  Digest
	partial uint64 // 0: landed; else the registry's mark, see partialMark
}

// Policy orders what goes first when room is needed. It is called under the books' lock and never blocks.
type Policy interface {
	Touch(s slot, size int64) // landed, or read again
	Forget(s slot)
	Victim() (slot, bool) // what should go next; it stays until Forget
	Keys() []slot         // all, first to go first
}

// lru is the Policy that lets go what was not touched for longest. Touching a manifest touches its children too (see
// Cache.touch), so layers of images in use go after all others.
type lru struct {
	order *simplelru.LRU[slot, struct{}]
}

func newLRU() lru {
	// The list counts entries and we count bytes, so its own limit must never be what evicts.
	const unlimited = 1 << 40
	order, _ := simplelru.NewLRU[slot, struct{}](unlimited, nil) // fails for a size below 1 only
	return lru{order}
}

func (l lru) Touch(s slot, _ int64) { l.order.Add(s, struct{}{}) }
func (l lru) Forget(s slot)         { l.order.Remove(s) }
func (l lru) Keys() []slot          { return l.order.Keys() }
func (l lru) Victim() (slot, bool) {
	s, _, ok := l.order.GetOldest()
	return s, ok
}

// entry is what the books know of a slot.
type entry struct {
	size    int64
	readers int
	proven  bool   // hashed by this process, or by one that ended in good order
	path    string // where the bytes are while they wait to be committed, and of a partial; "" for their own place
}

// books account for every byte of the disk tier: what is kept, what was removed but is still being read, and what is
// promised to downloads under way. The sum stays within the budget.
type books struct {
	mu       sync.Mutex
	entries  map[slot]*entry
	policy   Policy
	budget   int64 // bytes
	kept     int64
	ghosts   int64 // removed, but held open by readers
	promised int64
	evicted  uint64
	trash    []gone // removed from the books; their files still are to go
}

// gone is what was removed: the file at path, or where path is empty at the slot's own place.
type gone struct {
	slot slot
	path string
}

func newBooks(budget int64) *books {
	return &books{entries: map[slot]*entry{}, policy: newLRU(), budget: budget}
}

// reserve promises n bytes to a download, making room where that is needed and can be done.
func (b *books) reserve(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.budget || !b.shrink(b.budget-n) {
		return false
	}
	b.promised += n
	return true
}

// release takes a promise back.
func (b *books) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.promised -= n
}

// shrink removes what the policy names until at most limit bytes are used. b.mu is held.
func (b *books) shrink(limit int64) bool {
	if b.used() <= limit {
		return true
	}
	// Room is made a little beyond what is asked, so that not every landing has to.
	low := max(0, limit-b.budget/64)
	for b.used() > low {
		s, ok := b.policy.Victim()
		if !ok {
			break
		}
		b.remove(s)
		b.evicted++
	}
	return b.used() <= limit
}

// trim applies a budget that changed, because the file system has less room than was thought.
func (b *books) trim(budget int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.budget = budget
	b.shrink(budget)
}

func (b *books) used() int64 { return b.kept + b.ghosts + b.promised }

// add enters proven content, with the readers it has already; what was promised to it becomes part of it. Its bytes
// are at path, and it is not evicted, until settle.
func (b *books) add(s slot, size, promised int64, path string, readers int) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.promised -= promised
	if old := b.entries[s]; old != nil { // landed twice, for two registries: the second file takes the name
		b.policy.Forget(s)
		b.kept -= old.size
		if old.readers > 0 {
			b.ghosts += old.size
		}
	}
	e := &entry{size: size, path: path, proven: true, readers: readers}
	b.entries[s] = e
	b.kept += size
	return e
}

// limit is the most that one thing may have.
func (b *books) limit() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.budget
}

// settle says that s now is in its own place, from which it may be evicted. False: it was removed meanwhile.
func (b *books) settle(s slot, path string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[s]
	if e == nil || e.path != path {
		return false
	}
	e.path = ""
	b.policy.Touch(s, e.size)
	return true
}

// note enters what the start-up scan or a look at the disk found, unless it is known.
func (b *books) note(s slot, size int64, proven bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries[s] == nil {
		b.entries[s] = &entry{size: size, proven: proven}
		b.kept += size
		b.policy.Touch(s, size)
	}
}

// has reports whether s is on the books.
func (b *books) has(s slot) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[s] != nil
}

// touch tells the policy that these were used, where they are held and may be evicted at all.
func (b *books) touch(slots ...slot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range slots {
		if e := b.entries[s]; e != nil && e.path == "" {
			b.policy.Touch(s, e.size)
		}
	}
}

// open registers a reader of s and returns what is known of it; nil where it is not on the books.
func (b *books) open(s slot) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[s]
	if e == nil {
		return nil
	}
	e.readers++
	if e.path == "" {
		b.policy.Touch(s, e.size)
	}
	return e
}

// look is where e's bytes are and whether they are proven, now.
func (b *books) look(e *entry) (path string, size int64, proven bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return e.path, e.size, e.proven
}

// proved notes that e's bytes were hashed and are right.
func (b *books) proved(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.proven = true
}

// closed ends what open began.
func (b *books) closed(s slot, e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.readers--
	if e.readers == 0 && b.entries[s] != e {
		b.ghosts -= e.size
	}
}

// drop removes s; its file goes with the next round of the committer.
func (b *books) drop(s slot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.remove(s)
}

// dropEntry removes s if it still is e: what one reader found to be wrong may have been replaced meanwhile.
func (b *books) dropEntry(s slot, e *entry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries[s] != e {
		return false
	}
	b.remove(s)
	return true
}

func (b *books) remove(s slot) {
	e := b.entries[s]
	b.policy.Forget(s)
	if e == nil {
		return
	}
	delete(b.entries, s)
	b.kept -= e.size
	if e.readers > 0 {
		b.ghosts += e.size
	}
	b.trash = append(b.trash, gone{s, e.path})
}

// waits reports whether s still waits to be committed from path.
func (b *books) waits(s slot, path string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[s]
	return e != nil && e.path == path
}

// park enters a download that broke off: what it holds may be continued, or evicted like anything else.
func (b *books) park(s slot, size, promised int64, path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.promised -= promised
	if old := b.entries[s]; old != nil {
		b.remove(s)
	}
	b.entries[s] = &entry{size: size, path: path}
	b.kept += size
	b.policy.Touch(s, size)
}

// take moves a partial from the books into the hands of a download: its bytes become a promise.
func (b *books) take(s slot) (path string, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[s]
	if e == nil {
		return "", 0
	}
	b.policy.Forget(s)
	delete(b.entries, s)
	b.kept -= e.size
	b.promised += e.size
	return e.path, e.size
}

// sweep returns what was removed since the last call.
func (b *books) sweep() []gone {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.trash
	b.trash = nil
	return t
}

// merge puts what the scan found behind what was used since the start.
func (b *books) merge(found []scanned, proven bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	used := b.policy.Keys()
	for _, f := range found {
		if b.entries[f.slot] == nil {
			b.entries[f.slot] = &entry{size: f.size, proven: proven}
			b.kept += f.size
			b.policy.Touch(f.slot, f.size)
		}
	}
	for _, s := range used {
		b.policy.Touch(s, b.entries[s].size)
	}
	b.shrink(b.budget)
}

// all lists what has landed, first to go first.
func (b *books) all() []slot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.policy.Keys()
}

func (b *books) sums() (used, budget int64, entries int, evicted uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used(), b.budget, len(b.entries), b.evicted
}

// peek registers a reader without telling the policy.
func (b *books) peek(s slot) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[s]
	if e != nil {
		e.readers++
	}
	return e
}
