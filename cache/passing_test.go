package cache

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPassingIsNotSynced: what another member keeps goes with its last reader, and no disk is made to write it before;
// unless somebody wants it to stay meanwhile, in which case it is durable at once.
func TestPassingIsNotSynced(t *testing.T) {
	for name, size := range map[string]int{"small": 100 << 10, "large": 2 << 20} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, files := newHub(), &faulty{}
				var done []string
				files.seen = func(a act) {
					if a.verb == "sync" || a.verb == "syncfs" || a.verb == "rename" && strings.Contains(a.name, "/blobs/") {
						done = append(done, a.verb)
					}
				}
				c := open(t, h, Options{ScrubRate: -1, FS: files, Keep: func(Ref) Keeping { return Passing }})
				var readers []*Blob
				var refs []Ref
				for seed := range uint64(2) {
					ref := h.put("docker.io", "library/a", noise(seed, size))
					b, err := c.Open(t.Context(), ref, Whole)
					if err != nil {
						t.Fatal(err)
					}
					readers, refs = append(readers, b), append(refs, ref)
				}
				done = nil // a new store has files of its own
				time.Sleep(2 * lookEvery)
				if len(done) > 0 || !c.Holds(refs[0].Digest) || !c.Holds(refs[1].Digest) {
					t.Errorf("while they are read: %v", done)
				}
				began := time.Now()
				c.Rank(refs[0].Digest, false)
				h0, err := c.disk.settled(t.Context(), refs[0].Digest)
				if err != nil || time.Since(began) > time.Second {
					t.Fatalf("after %v: %v", time.Since(began), err)
				}
				_ = h0.Close()
				if once := slices.Compact(done); len(once) != 2 || once[1] != "rename" { // twice: it is the first of its directory
					t.Errorf("one is to stay: %v", done)
				}
				done = nil
				for _, b := range readers {
					_ = b.Close()
				}
				time.Sleep(lookEvery)
				if len(done) != 0 || !c.Holds(refs[0].Digest) || c.Holds(refs[1].Digest) || c.disk.books.inUse() != int64(size) {
					t.Errorf("nobody reads: %v, %d bytes in use", done, c.disk.books.inUse())
				}
			})
		})
	}
}
