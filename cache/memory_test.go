package cache

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// sharing is a cache of a member, with what is to become of what it fetches next.
type sharing struct {
	*Cache
	h       *hub
	keeping Keeping
	seed    uint64
}

const (
	ofMemory = 2 << 20
	ofThing  = 4<<10 - overhead // what it costs is 4 KiB
)

func newSharing(t *testing.T) *sharing {
	s := &sharing{h: newHub()}
	s.Cache = open(t, s.h, Options{ScrubRate: -1, Memory: ofMemory, Keep: func(Ref) Keeping { return s.keeping }})
	return s
}

// fetch has n new small blobs be in memory, each asked for often.
func (s *sharing) fetch(t *testing.T, k Keeping, n, often int) (refs []Ref) {
	t.Helper()
	s.keeping = k
	for range n {
		s.seed++
		b := noise(s.seed, ofThing)
		ref := s.h.put("docker.io", "library/a", b)
		for range often {
			if err := read(t.Context(), s.Cache, ref, 0, -1, b); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		refs = append(refs, ref)
	}
	return refs
}

// inMemory is how many of refs are in memory, once all that was put there has arrived.
func (s *sharing) inMemory(refs []Ref) (n int) {
	s.memory.tier.Wait()
	s.memory.copies.Wait()
	for _, ref := range refs {
		if _, ok := s.memory.get(ref.Digest); ok {
			n++
		}
	}
	return n
}

// TestHotCopiesInMemory: however often hot copies are asked for, what this member owns stays in memory, and the copies have
// a tenth of it, until they are its own.
func TestHotCopiesInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharing(t)
		own := s.fetch(t, Kept, 440, 2) // of the 460 that there is room for
		copies := s.fetch(t, HotCopy, 300, 6)
		if n := s.inMemory(own); n != len(own) {
			t.Errorf("%d of %d that are owned are in memory", n, len(own))
		}
		n := s.inMemory(copies)
		if n < 40 || n > ofMemory/10/(4<<10) {
			t.Errorf("%d hot copies are in memory", n)
		}
		if got, want := s.Stats().MemoryBytes, int64(len(own)+n)*(4<<10); got != want || got > ofMemory {
			t.Errorf("%d bytes in memory, want %d", got, want)
		}

		for _, ref := range copies { // all of them: those that are there are among them
			s.Rank(ref.Digest, false)
		}
		if now := s.inMemory(copies); now < min(n, 15) {
			t.Errorf("%d of %d copies are left now that they are owned", now, n)
		}
		if left := s.memory.copies.MaxCost() - s.memory.copies.RemainingCost(); left != 0 {
			t.Errorf("%d bytes are hot copies, and there are none", left)
		}
		for s.inMemory(own[:1]) == 0 { // it made room for one of those
			own = own[1:]
		}
		s.Rank(own[0].Digest, true)
		if n := s.inMemory(own[:1]); n != 1 || s.memory.copies.RemainingCost() == s.memory.copies.MaxCost() {
			t.Error("what is a hot copy now is not in their share")
		}
		all := append(copies, own[0])
		for _, ref := range all {
			if _, err := s.Purge(t.Context(), ref, s.now(), false); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.inMemory(all); n != 0 {
			t.Errorf("%d are in memory after a purge", n)
		}
	})
}

// TestMemoryOfOne: where there are no other members, all memory is for what is kept.
func TestMemoryOfOne(t *testing.T) {
	for budget, want := range map[int64]int64{ofMemory: ofMemory, 0: defaultMemory, 1: 1} {
		c := open(t, newHub(), Options{Memory: budget})
		if c.memory.copies != nil || c.memory.tier.MaxCost() != want {
			t.Errorf("%d bytes are %d and a part for hot copies", budget, c.memory.tier.MaxCost())
		}
		c = open(t, newHub(), Options{Memory: budget, Keep: func(Ref) Keeping { return Kept }})
		if sum := c.memory.tier.MaxCost() + c.memory.copies.MaxCost(); sum > max(2, want) {
			t.Errorf("%d bytes are divided into %d", want, sum)
		}
	}
}

// TestPassingInMemory: of what passes a manifest stays in memory, where alone it is, and a blob does not.
func TestPassingInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharing(t)
		s.keeping = Passing
		data := noise(1, ofThing)
		blob := s.h.put("docker.io", "library/a", data)
		image := imageOf("1", blob)
		ref := s.h.tag("docker.io", "library/a", "1", image).At(Sum(image))
		if err := read(t.Context(), s.Cache, ref, 0, -1, image); err != nil {
			t.Fatal(err)
		}
		first, err := s.Open(t.Context(), blob, Whole)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it has landed, and is being read
		if err := read(t.Context(), s.Cache, blob, 0, -1, data); err != nil {
			t.Fatal(err)
		}
		if err := first.SendRange(t.Context(), io.Discard, 0, -1); err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		if s.inMemory([]Ref{blob}) != 0 || s.Holds(blob.Digest) {
			t.Error("a blob that passed is still here")
		}
		if s.inMemory([]Ref{ref}) != 1 || s.Holds(ref.Digest) {
			t.Error("a manifest that passed is not in memory alone")
		}
		if n := s.memory.copies.MaxCost() - s.memory.copies.RemainingCost(); n != 0 {
			t.Errorf("%d bytes are hot copies, and there are none", n)
		}

		s.keeping = Kept // the ring has changed
		time.Sleep(time.Second)
		if err := read(t.Context(), s.Cache, ref, 0, -1, image); err != nil || !s.Holds(ref.Digest) {
			t.Errorf("%v; a manifest that is this member's now is on disk: %t", err, s.Holds(ref.Digest))
		}
		if gets, _ := s.h.asked(); gets != 2 {
			t.Errorf("%d questions, want one for each", gets)
		}
	})
}
