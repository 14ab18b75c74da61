package cache

import (
	"encoding/binary"
	"math"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// slot is one thing on the books: content that has landed, or a partial download of it from one registry.
type slot struct {
	digest  Digest
	partial uint64 // 0: landed; else the registry's mark, see partialMark
}

// mark is a slot's key on the books, short because there may be a million of them. Should two slots ever have the same
// one, only one of them can be held.
type mark [16]byte

func (s slot) mark() (m mark) {
	copy(m[:], s.digest.sum[:])
	binary.LittleEndian.PutUint64(m[8:], binary.LittleEndian.Uint64(m[8:])^s.partial)
	return m
}

// entry is what the books know of a slot.
type entry struct {
	slot    slot
	size    int64
	readers int32
	proven  bool // hashed by this process, or by one that ended in good order
	keeping Keeping
}

// Policy orders what goes first when room is needed. It is called under the books' lock and never blocks.
type Policy interface {
	Touch(e *entry) // landed, or read again
	Forget(e *entry)
	Victim() *entry // what should go next, nil where there is nothing; it stays until Forget
	Order() []*entry
}

// lru is the Policy that lets go what was not touched for longest. Touching a manifest touches its children too (see
// Cache.touch), so layers of images in use go after all others.
type lru struct {
	list *simplelru.LRU[*entry, struct{}]
}

func newLRU() lru {
	// The list counts entries and we count bytes, so its own limit must never be what evicts.
	list, _ := simplelru.NewLRU[*entry, struct{}](math.MaxInt, nil) // fails for a size below 1 only
	return lru{list}
}

func (l lru) Touch(e *entry)  { l.list.Add(e, struct{}{}) }
func (l lru) Forget(e *entry) { l.list.Remove(e) }
func (l lru) Order() []*entry { return l.list.Keys() }
func (l lru) Victim() *entry {
	e, _, _ := l.list.GetOldest()
	return e
}
