package cache

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestHotCopies: copies of what others keep have a bounded part of the disk, go before everything else, and are like
// anything else once they are this member's own.
func TestHotCopies(t *testing.T) {
	const size = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		keeping := HotCopy
		var landed []Ref
		c := open(t, h, Options{
			ScrubRate: -1, Disk: 100 * size, Keep: func(Ref) Keeping { return keeping },
			Landed: func(r Ref, _ Desc, k Keeping) {
				if k == Kept {
					landed = append(landed, r)
				}
			},
		})
		fetch := func(seed uint64) Ref {
			data := noise(seed, size)
			ref := h.put("docker.io", "library/a", data)
			if err := read(t.Context(), c, ref, 0, -1, data); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return ref
		}
		var copies []Ref
		for seed := range uint64(30) {
			copies = append(copies, fetch(seed))
			time.Sleep(time.Second)
		}
		if n := c.disk.books.copiedBytes(); n > 10*size || n < 8*size {
			t.Errorf("%d bytes are hot copies, of a budget of %d", n, 100*size)
		}
		if room := c.Room(); room != 1 {
			t.Errorf("%v of the disk is free, or has hot copies", room)
		}
		if c.Holds(copies[0].Digest) || !c.Holds(copies[29].Digest) {
			t.Error("it is not the oldest that went")
		}
		if len(landed) != 0 {
			t.Errorf("hot copies are told of: %v", landed)
		}
		c.Rank(copies[28].Digest, false)
		keeping = Kept
		var own []Ref
		for seed := range uint64(88) {
			own = append(own, fetch(100+seed))
			time.Sleep(time.Second)
		}
		for _, ref := range append(own, copies[28]) {
			if !c.Holds(ref.Digest) {
				t.Errorf("%s went before the hot copies", ref)
			}
		}
		if len(landed) != len(own) {
			t.Errorf("told of %d of %d", len(landed), len(own))
		}
		things, more := c.Inventory(0, 10)
		if len(things) != 10 || !more {
			t.Fatalf("%d things, more: %t", len(things), more)
		}
		for i, x := range things {
			if want := own[len(own)-1-i]; x.Ref != want || x.Size != size || x.HotCopy {
				t.Errorf("%d: %+v, want %s", i, x, want)
			}
		}
		c.Rank(own[87].Digest, true)
		if things, more = c.Inventory(0, 1000); more || !things[len(things)-1].HotCopy {
			t.Errorf("a copy does not come last: %+v", things[len(things)-1])
		}
	})
}

// TestKeptForAReader: whoever wants it to stay has it stay, whatever it was held as before: on disk, and as this member's
// own.
func TestKeptForAReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharing(t)
		var landed []Ref
		s.o.Landed = func(ref Ref, _ Desc, k Keeping) {
			if k == Kept {
				landed = append(landed, ref)
			}
		}
		s.keeping = Passing
		image := imageOf("1")
		manifest := s.h.tag("docker.io", "library/a", "1", image).At(Sum(image))
		if err := read(t.Context(), s.Cache, manifest, 0, -1, image); err != nil {
			t.Fatal(err)
		}
		data := noise(1, 1<<20)
		passing := s.h.put("docker.io", "library/a", data)
		first, err := s.Open(t.Context(), passing, Whole)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		copied := s.fetch(t, HotCopy, 1, 2)[0]
		lost := s.fetch(t, HotCopy, 1, 2)[0]
		s.disk.books.discard(slot{digest: lost.Digest}) // which memory does not hear of

		s.keeping = Passing
		all := []Ref{manifest, passing, copied, lost}
		for range 2 {
			for _, ref := range all {
				b, err := s.Open(WithKeep(t.Context()), ref, Whole)
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		for _, ref := range all {
			if !s.Holds(ref.Digest) {
				t.Errorf("%s is not on disk", ref)
			}
		}
		if s.Stats().HotCopyBytes != 0 || s.inMemory(all) != 3 || s.memory.copies.RemainingCost() != s.memory.copies.MaxCost() {
			t.Error("something is a hot copy still")
		}
		if len(landed) != 2 || landed[0] != manifest || landed[1] != lost {
			t.Errorf("told of %v: what was put on disk are %s and %s", landed, manifest, lost)
		}
	})
}

// TestPinnedCopies: what is pinned is no hot copy, and takes no room from those that are.
func TestPinnedCopies(t *testing.T) {
	const size = 1 << 20
	b := newBooks(100*size, func() {})
	digest := func(i byte) Digest { return Sum([]byte{i}) }
	add := func(i byte) {
		b.settle(b.add(slot{digest: digest(i)}, size, 0, "somewhere", 0, HotCopy))
	}
	pinned := []Digest{digest(0), digest(1), digest(2)}
	b.pin(pinned[:1]) // before it comes
	for i := range byte(8) {
		add(i)
	}
	b.pin(pinned[1:])
	if b.rank(pinned[0], HotCopy) || b.rank(pinned[1], Passing) {
		t.Error("what is pinned is to go")
	}
	if n := b.copiedBytes(); n != 5*size {
		t.Errorf("%d bytes are hot copies, want %d", n, 5*size)
	}
	for i := range byte(5) {
		add(8 + i)
	}
	if n, fixed := b.copiedBytes(), b.fixedBytes(); n != 10*size || fixed != 3*size {
		t.Errorf("%d bytes are hot copies and %d pinned, want %d and %d", n, fixed, 10*size, 3*size)
	}
	b.unpin(pinned)
	add(20)
	for _, d := range pinned {
		if !b.has(slot{digest: d}) {
			t.Errorf("%s went before the hot copies", d)
		}
	}
}

// TestLandsAgain: what lands a second time, from another registry, stays as long as the first time.
func TestLandsAgain(t *testing.T) {
	b := newBooks(1<<20, func() {})
	s := slot{digest: Sum(nil)}
	for _, x := range []struct {
		comes, is Keeping
		copies    int64
	}{{HotCopy, HotCopy, 10}, {Passing, HotCopy, 10}, {Kept, Kept, 0}, {HotCopy, Kept, 0}, {Passing, Kept, 0}} {
		e := b.add(s, 10, 0, "somewhere", 0, x.comes)
		if b.settle(e); e.keeping != x.is || !b.has(s) || b.copiedBytes() != x.copies || b.inUse() != 10 {
			t.Errorf("%+v: it is %d, %d bytes are hot copies, of %d", x, e.keeping, b.copiedBytes(), b.inUse())
		}
	}
}

// TestReadCopies: hot copies that are being read are passed over, and keep nothing else from making room.
func TestReadCopies(t *testing.T) {
	const size = 1 << 20
	b := newBooks(100*size, func() {})
	digest := func(i byte) Digest { return Sum([]byte{i}) }
	add := func(i byte, k Keeping, readers int) {
		if b.reserve(size) {
			b.settle(b.add(slot{digest: digest(i)}, size, size, "somewhere", readers, k))
		}
	}
	for i := range byte(97) {
		add(i, Kept, 0)
	}
	for i := byte(97); i < 100; i++ {
		add(i, HotCopy, int(i)-97) // the last two are being read
	}
	add(100, Kept, 0)
	add(101, Kept, 0)
	for i, held := range map[byte]bool{0: false, 96: true, 97: false, 98: true, 99: true, 100: true, 101: true} {
		if b.has(slot{digest: digest(i)}) != held {
			t.Errorf("%d is held: %t", i, !held)
		}
	}
	for i := byte(102); i < 120; i++ {
		add(i, HotCopy, 1)
	}
	if n := b.copiedBytes(); n != 20*size {
		t.Errorf("%d bytes are hot copies, and all are being read", n)
	}
	for i := byte(102); i < 120; i++ {
		b.closed(b.entries[slot{digest: digest(i)}.mark()])
	}
	b.rank(digest(101), HotCopy)
	if n := b.copiedBytes(); n != 10*size || !b.has(slot{digest: digest(98)}) || !b.has(slot{digest: digest(101)}) {
		t.Errorf("%d bytes are hot copies, and most are read by nobody any more", n)
	}
}

// TestShareOfCopies: hot copies have no more than their share, also where it became smaller, one alone is larger, or they
// were being read when more came; none has to come for that.
func TestShareOfCopies(t *testing.T) {
	const size = 1 << 20
	for _, x := range []struct {
		name       string
		n          byte
		size       int64
		readers    int
		budget     int64
		left, then int64
	}{
		{"a smaller disk", 10, size, 0, 50 * size, 5 * size, 0},
		{"a large one", 1, 60 * size, 0, 100 * size, 0, 0},
		{"read", 20, size, 1, 100 * size, 20 * size, 10 * size},
	} {
		b := newBooks(100*size, func() {})
		var all []*entry
		for i := range x.n {
			e := b.add(slot{digest: Sum([]byte{i})}, x.size, 0, "somewhere", x.readers, HotCopy)
			b.settle(e)
			all = append(all, e)
		}
		if b.trim(x.budget, x.budget) {
			t.Errorf("%s: the disk is said to be short of room", x.name)
		}
		if n := b.copiedBytes(); n != x.left {
			t.Errorf("%s: %d bytes are hot copies, want %d", x.name, n, x.left)
		}
		if x.readers == 0 {
			continue
		}
		for _, e := range all {
			b.closed(e)
		}
		b.trim(x.budget, x.budget)
		if n := b.copiedBytes(); n != x.then {
			t.Errorf("%s by nobody any more: %d bytes are hot copies, want %d", x.name, n, x.then)
		}
	}
}
