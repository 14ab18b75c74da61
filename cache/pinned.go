package cache

// What is pinned is on the books like anything else, but never before the policy, so that it is nobody's victim.

// isPinned reports whether e is never to be evicted. A partial download is. b.mu is held.
func (b *books) isPinned(e *entry) bool { return e.slot.partial == 0 && b.pinned[e.slot.digest] > 0 }

// prefer tells the policy that e was used, unless the policy has no say in it. b.mu is held.
func (b *books) prefer(e *entry) {
	if !b.isPinned(e) {
		b.policy.Touch(e)
	}
}

// pin keeps content from being evicted, whether it is held already or comes later; once more for each time.
func (b *books) pin(digests []Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range digests {
		e := b.find(slot{digest: d})
		if e != nil {
			b.setKeeping(e, Kept)
		}
		b.pinned[d]++
		if e != nil && b.pinned[d] == 1 {
			b.policy.Forget(e)
			b.fixed += e.size
		}
	}
}

// unpin takes back what pin did once.
func (b *books) unpin(digests []Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range digests {
		if b.pinned[d]--; b.pinned[d] > 0 {
			continue
		}
		delete(b.pinned, d)
		if e := b.find(slot{digest: d}); e != nil {
			b.fixed -= e.size
			if b.away[e] == "" {
				b.policy.Touch(e)
			}
		}
	}
	b.shrink(b.budget)
}

// pins reports whether d is pinned.
func (b *books) pins(d Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pinned[d] > 0
}

// discard takes s off the books, unless it is pinned: nobody finds it any more, and its readers finish.
func (b *books) discard(s slot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.find(s); e != nil && !b.isPinned(e) {
		b.remove(e)
	}
}

// size is how much there is of s.
func (b *books) size(s slot) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.find(s); e != nil {
		return e.size
	}
	return 0
}

// freeze has nothing evicted any more.
func (b *books) freeze() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen = true
}

// fixedBytes is how much is kept and pinned.
func (b *books) fixedBytes() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fixed
}
