package cache

import "sync"

// books account for every byte of the disk tier: what is kept, what was removed but is still being read, and what is
// promised to downloads under way. The sum stays within the budget.
type books struct {
	wake func() // called, under mu, when there is something to sweep

	mu       sync.Mutex
	entries  map[mark]*entry
	away     map[*entry]string // where the bytes are while they wait to be committed, and those of partials
	policy   Policy
	wanted   int64 // the budget that was asked for, in bytes
	budget   int64 // what there is room for, of that
	kept     int64
	ghosts   int64 // removed, but held open by readers
	promised int64
	pinned   map[Digest]int // how many want it never to be evicted
	fixed    int64          // bytes that are kept and pinned
	copies   int64          // bytes of hot copies
	frozen   bool           // nothing is evicted: what is pinned is not known
	evicted  uint64
	trash    []gone            // removed from the books; their files still are to go
	buried   map[mark]struct{} // removed since the start; nil once the scan is over, which must not dig them up
}

// gone is what was removed: the file at path, or where path is empty at the slot's own place.
type gone struct {
	slot slot
	path string
}

func newBooks(budget int64, wake func()) *books {
	return &books{
		wake: wake, entries: map[mark]*entry{}, away: map[*entry]string{}, buried: map[mark]struct{}{}, policy: newRanks(),
		pinned: map[Digest]int{},
		wanted: budget, budget: budget,
	}
}

func (b *books) used() int64 { return b.kept + b.ghosts + b.promised }

func (b *books) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used()
}

// limit is the most that one thing may have.
func (b *books) limit() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.budget - b.fixed
}

// reserve promises n bytes to a download, making room where that is needed and can be done.
func (b *books) reserve(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.promised+b.ghosts+b.fixed+n > b.budget || !b.shrink(b.budget-n) {
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

// shrink makes room so that at most limit bytes are used, and a little beyond that, so that not every landing has to.
// b.mu is held.
func (b *books) shrink(limit int64) bool {
	if b.used() > limit {
		b.evict(limit - b.budget/64)
	}
	return b.used() <= limit
}

// evict removes what the policy names until at most limit bytes are used. b.mu is held.
func (b *books) evict(limit int64) {
	b.letGo(func(*entry) bool { return b.used() > limit })
}

// letGo removes what the policy names for as long as that is to go. What is being read is passed over: to remove it would
// give nothing back before its last reader is done. b.mu is held.
func (b *books) letGo(goes func(*entry) bool) {
	if b.frozen {
		return
	}
	var read []*entry
	for e := b.policy.Victim(); e != nil && goes(e); e = b.policy.Victim() {
		if e.readers > 0 {
			read = append(read, e)
			b.policy.Forget(e) // for now: what comes after it may have to go
			continue
		}
		b.remove(e)
		b.evicted++
	}
	for _, e := range read {
		b.policy.Touch(e)
	}
}

// trim applies what is wanted and what there is room for, and reports whether anything had to go for that.
func (b *books) trim(wanted, room int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.evicted
	b.wanted, b.budget = wanted, max(0, min(wanted, room))
	b.shrink(b.budget)
	short := b.evicted > before
	b.trimCopies() // their share is smaller, or they were being read when others came
	return short
}

// shed gives a little up because the disk says it is full, whatever the books say: inodes or a quota may have run out.
func (b *books) shed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.evict(b.used() - max(1, b.kept/64))
}

// find is what the books know of s; nil where it is not there. b.mu is held.
func (b *books) find(s slot) *entry {
	if e := b.entries[s.mark()]; e != nil && e.slot == s {
		return e
	}
	return nil
}

// enter puts e on the books, in the place of what is there. b.mu is held.
func (b *books) enter(e *entry, path string) {
	if old := b.entries[e.slot.mark()]; old != nil {
		b.remove(old)
	}
	b.entries[e.slot.mark()] = e
	b.kept += e.size
	b.copies += e.copied()
	if b.isPinned(e) {
		b.fixed += e.size
	}
	if path != "" {
		b.away[e] = path
	}
}

// remove takes e off the books; its file goes with the next sweep. b.mu is held.
func (b *books) remove(e *entry) {
	b.trash = append(b.trash, gone{e.slot, b.away[e]})
	b.policy.Forget(e)
	delete(b.entries, e.slot.mark())
	delete(b.away, e)
	b.kept -= e.size
	b.copies -= e.copied()
	if b.isPinned(e) {
		b.fixed -= e.size
	}
	if e.readers > 0 {
		b.ghosts += e.size
	}
	if b.buried != nil {
		b.buried[e.slot.mark()] = struct{}{}
	}
	b.wake()
}

// sweep returns the files that are to go. A name that content has taken again meanwhile is not among them.
func (b *books) sweep() []gone {
	b.mu.Lock()
	defer b.mu.Unlock()
	var files []gone
	for _, g := range b.trash {
		if e := b.find(g.slot); g.path != "" || e == nil || b.away[e] != "" {
			files = append(files, g)
		}
	}
	b.trash = nil
	return files
}

// scrap has something removed that is not on the books (any more).
func (b *books) scrap(g gone) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trash = append(b.trash, g)
}

// add enters proven content, with the readers it has already; what was promised to it becomes part of it. Its bytes
// are at path, and it is not evicted, until settle.
func (b *books) add(s slot, size, promised int64, path string, readers int, k Keeping) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.promised -= promised
	if old := b.find(s); old != nil {
		k = min(k, old.keeping) // two registries may have sent it, and who wanted it to stay still does
	}
	e := &entry{slot: s, size: size, proven: true, readers: int32(readers)}
	b.enter(e, path)
	b.setKeeping(e, k)
	return e
}

// waits reports whether e still waits to be committed, and whether it is passing.
func (b *books) waits(e *entry) (waits, passes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.away[e] != "", e.keeping == Passing
}

// settle says that e now is in its own place, from which it may be evicted. False: it was removed meanwhile.
func (b *books) settle(e *entry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away[e] == "" {
		return false
	}
	delete(b.away, e)
	b.prefer(e)
	return true
}

// has reports whether s is on the books.
func (b *books) has(s slot) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.find(s) != nil
}

// touch tells the policy that these were used, where they are held and may be evicted at all.
func (b *books) touch(slots ...slot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range slots {
		if e := b.find(s); e != nil && b.away[e] == "" {
			b.prefer(e)
		}
	}
}

// open registers a reader of s and returns what is known of it; nil where it is not on the books.
func (b *books) open(s slot) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.find(s)
	if e != nil && b.away[e] == "" {
		b.prefer(e)
	}
	if e != nil {
		e.readers++
	}
	return e
}

// peek registers a reader without telling the policy.
func (b *books) peek(s slot) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.find(s)
	if e != nil {
		e.readers++
	}
	return e
}

// closed ends what open began.
func (b *books) closed(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.readers--
	switch held := b.entries[e.slot.mark()] == e; {
	case e.readers > 0:
	case !held:
		b.ghosts -= e.size
	case e.keeping == Passing:
		b.remove(e)
	}
}

// look is where e's bytes are, "" being their own place, and what else is known of it, now.
func (b *books) look(e *entry) (path string, now entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.away[e], *e
}

// proved notes that e's bytes were hashed and are right.
func (b *books) proved(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.proven = true
}

// proven reports whether everything is.
func (b *books) proven() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if !e.proven {
			return false
		}
	}
	return true
}

// drop removes e, if it still is there: what one reader found to be wrong may have been replaced meanwhile.
func (b *books) drop(e *entry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries[e.slot.mark()] != e {
		return false
	}
	b.remove(e)
	return true
}

// park enters a download that broke off: what it holds may be continued, or evicted like anything else.
func (b *books) park(s slot, size, promised int64, path string, proven bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.promised -= promised
	e := &entry{slot: s, size: size, proven: proven}
	b.enter(e, path)
	b.policy.Touch(e)
}

// take moves a partial from the books into the hands of a download: its bytes become a promise.
func (b *books) take(s slot) (path string, size int64, proven bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.find(s)
	if e == nil {
		return "", 0, false
	}
	path = b.away[e]
	b.policy.Forget(e)
	delete(b.entries, s.mark())
	delete(b.away, e)
	b.kept -= e.size
	b.promised += e.size
	return path, e.size, e.proven
}

func (b *books) sums() (used, budget int64, entries int, evicted uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used(), b.budget, len(b.entries), b.evicted
}
