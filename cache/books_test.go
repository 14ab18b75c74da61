package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestBooksRandomly does to the books what the store may do, in any order, and compares them with a plain sum.
func TestBooksRandomly(t *testing.T) {
	for seed := range uint64(200) {
		b := &randomly{
			books: newBooks(1000, func() {}), r: rand.New(rand.NewPCG(seed, 1)), reading: map[*entry]int{}, waiting: map[*entry]string{},
		}
		scanned := b.r.IntN(500)
		for i := range 500 {
			if i == scanned {
				b.scan()
			}
			switch b.r.IntN(15) {
			case 0, 1, 2, 3, 4:
				b.fetch(fmt.Sprint(i))
			case 5, 6, 7, 8, 9, 10:
				b.use()
			default:
				b.rule()
			}
			if err := b.sound(); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, i, err)
			}
		}
	}
}

// randomly are books, what is done to them, and what must come of it.
type randomly struct {
	*books
	r       *rand.Rand
	reading map[*entry]int
	waiting map[*entry]string
	mine    int64 // what was promised
}

func (b *randomly) slot(partial uint64) slot {
	return slot{digest: Sum([]byte{byte(b.r.IntN(12))}), partial: partial}
}

func (b *randomly) size() int64 { return int64(b.r.IntN(200) + 1) }

// fetch is a step of a download.
func (b *randomly) fetch(path string) {
	n := b.size()
	switch b.r.IntN(5) {
	case 0:
		if b.reserve(n) {
			b.mine += n
		}
	case 1:
		if b.mine >= n {
			b.mine -= n
			e := b.add(b.slot(0), n, n, path, b.r.IntN(3), Keeping(b.r.IntN(3)))
			if b.waiting[e] = path; e.readers > 0 {
				b.reading[e] = int(e.readers)
			}
		}
	case 2:
		for e := range b.waiting {
			b.settle(e)
			delete(b.waiting, e)
			break
		}
	case 3:
		if b.mine >= n {
			b.mine -= n
			b.park(b.slot(1), n, n, path, true)
		}
	case 4:
		if path, n, _ := b.take(b.slot(1)); path != "" {
			b.mine += n
		}
	}
}

// use is what a reader does.
func (b *randomly) use() {
	switch s := b.slot(0); b.r.IntN(6) {
	case 0:
		if n := b.size(); b.find(s) == nil && b.used()+n <= b.budget {
			b.note(s, n, false)
		}
	case 1:
		if e := b.open(s); e != nil {
			b.reading[e]++
		}
	case 2, 3:
		for e := range b.reading {
			if b.closed(e); b.reading[e] == 1 {
				delete(b.reading, e)
			} else {
				b.reading[e]--
			}
			break
		}
	case 4:
		if e := b.find(b.slot(uint64(b.r.IntN(2)))); e != nil {
			b.drop(e)
		}
	case 5:
		b.touch(b.slot(uint64(b.r.IntN(2))))
	}
}

// rule changes for how long something is to stay.
func (b *randomly) rule() {
	switch d := b.slot(0).digest; b.r.IntN(4) {
	case 0, 1:
		b.rank(d, Keeping(b.r.IntN(3)))
	case 2:
		b.pin([]Digest{d})
	case 3:
		if b.pins(d) {
			b.unpin([]Digest{d})
		}
	}
}

// scan is the end of one that found something that was not known.
func (b *randomly) scan() {
	var found []*entry
	for i := range byte(12) {
		s, n := slot{digest: Sum([]byte{i})}, b.size()
		if e := b.find(s); e != nil {
			found = append(found, &entry{slot: s, size: e.size})
		} else if b.used()+n <= b.budget {
			found = append(found, &entry{slot: s, size: n})
			break
		}
	}
	b.merge(found, true)
}

// sound compares the books with what is known to be true.
func (b *randomly) sound() error {
	var kept, ghosts, copies, fixed int64
	for m, e := range b.entries {
		if e.slot.mark() != m {
			return errors.New("under another's mark")
		}
		kept += e.size
		copies += e.copied()
		if b.isPinned(e) {
			fixed += e.size
		}
	}
	for e := range b.reading {
		if b.entries[e.slot.mark()] != e {
			ghosts += e.size
		}
	}
	if kept != b.kept || ghosts != b.ghosts || b.mine != b.promised || b.used() > b.budget {
		return fmt.Errorf("kept %d, is %d; ghosts %d, is %d; promised %d, is %d; used %d of %d",
			b.kept, kept, b.ghosts, ghosts, b.promised, b.mine, b.used(), b.budget)
	}
	if copies != b.copies || fixed != b.fixed {
		return fmt.Errorf("hot copies %d, are %d; pinned %d, is %d", b.copies, copies, b.fixed, fixed)
	}
	return b.placed()
}

// placed holds that each entry is pinned, waits or can be evicted, and only one of these.
func (b *randomly) placed() error {
	n := 0
	for _, e := range b.policy.Order() {
		if b.entries[e.slot.mark()] != e || b.isPinned(e) {
			return errors.New("a victim that is pinned, or not on the books")
		}
		n++
	}
	for e, path := range b.away {
		if b.entries[e.slot.mark()] != e || path == "" {
			return errors.New("away, and not on the books")
		}
		if e.slot.partial == 0 {
			n++
		}
	}
	for _, e := range b.entries {
		switch {
		case b.isPinned(e) && e.keeping != Kept:
			return errors.New("it is pinned, and is to go")
		case e.keeping == Passing && e.readers == 0:
			return errors.New("it has passed, and is still there")
		case b.isPinned(e) && b.away[e] == "":
			n++
		}
	}
	if n != len(b.entries) {
		return fmt.Errorf("%d of %d can be evicted, wait or are pinned", n, len(b.entries))
	}
	return nil
}
