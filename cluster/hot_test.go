package cluster

import (
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// TestHotBlob: an owner that has more to do than the others, because of one blob, has them keep it, too, until it has no
// more to do than its bound.
func TestHotBlob(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		ref := w.blob(10<<10, 1)
		c := newTown(t, w, 5)
		owner := c.owner(ref, 0)
		load := func(d time.Duration) (part float64) {
			before, all := owner.store.Served(), 0
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				c.pullAll(c.nodes, []cache.Ref{ref})
				all += len(c.nodes)
			}
			return float64(owner.store.Served()-before) * float64(len(c.nodes)) / float64(all)
		}
		load(30 * time.Second)
		if part := load(30 * time.Second); part > bound+0.05 {
			t.Errorf("its owner has %.2f times the mean to do", part)
		}
		if n, _ := most(w.gets); n != 1 {
			t.Errorf("the registry was asked %d times", n)
		}
		hot := 0
		for _, n := range c.nodes {
			things, _ := n.store.Inventory(0, 10)
			if len(things) == 1 && things[0].HotCopy {
				hot++
			}
		}
		if hot < 3 || hot > 4 {
			t.Errorf("%d hot copies", hot)
		}
	})
}

// TestHotCopyOutlives: a hot copy whose owner died is brought to the next one; those whose owner lives are offered to nobody.
func TestHotCopyOutlives(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		ref := w.blob(1<<20, 1)
		c := newTown(t, w, 5)
		var offers atomic.Int32
		for _, m := range c.nodes {
			h := m.server.Handler
			m.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == offerPath {
					offers.Add(1)
				}
				h.ServeHTTP(w, r)
			})
		}
		dead, n := c.owner(ref, 0), c.owner(ref, 4)
		b, err := n.store.Open(cache.WithKeep(t.Context()), ref, cache.Whole)
		if err == nil {
			err = errors.Join(b.Prove(t.Context()), b.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		n.store.Rank(ref.Digest, true)

		time.Sleep(time.Minute) // the first round
		offers.Store(0)
		time.Sleep(roundEvery + time.Minute)
		if s := n.copies.Stats(); s.Rounds < 2 || offers.Load() > 0 {
			t.Errorf("%d offers to who has it, in %d rounds", offers.Load(), s.Rounds)
		}
		w.forget()
		c.kill(dead)
		time.Sleep(5 * time.Minute)
		if s := n.copies.Stats(); s.Repaired != 1 || offers.Load() != 1 {
			t.Errorf("%d were taken, of %d offers, by who owns it now, want one", s.Repaired, offers.Load())
		}
		c.pullAll(c.without(dead), []cache.Ref{ref})
		w.none(t, "its owner dead")
	})
}

// TestBoundedLoad: whose load is above its bound is relieved by the next, where that one holds what is asked for.
func TestBoundedLoad(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTownOf(t, w, 4, 2)
		named := func(m Member) *node {
			return c.nodes[slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name == m.Name })]
		}
		var refs []cache.Ref // of one owner and one next to it
		var first, next, asker *node
		for seed := uint64(0); len(refs) < 4; seed++ {
			ref := w.blob(1<<20, seed)
			order := c.nodes[0].view.Load().Ring.Owners(KeyOf(ref), 4)
			if len(refs) == 0 {
				first, next, asker = named(order[0]), named(order[1]), named(order[3])
			}
			if order[0].Name == first.Name && order[1].Name == next.Name {
				refs = append(refs, ref)
			}
		}
		c.pullAll([]*node{first}, refs)
		time.Sleep(10 * time.Second)
		w.forget()
		first.traffic.Busy.Store(100)
		for i, want := range []uint64{0, 1, 2} { // the first answer tells of the load
			c.pullAll([]*node{asker}, refs[i:i+1])
			if s := asker.router.Stats(); s.Spilt != want {
				t.Errorf("after %d pulls %d were spilt, want %d", i+1, s.Spilt, want)
			}
		}
		next.traffic.Busy.Store(100) // it has as much to do: then the owner is as good
		_, _ = asker.router.Open(t.Context(), refs[0], cache.Whole)
		time.Sleep(loadAge)
		first.traffic.Busy.Store(0)
		c.pullAll([]*node{asker}, refs[3:])
		if s := asker.router.Stats(); s.Spilt != 3 {
			t.Errorf("%d were spilt, want 3", s.Spilt)
		}
		w.none(t, "spilt")
	})
}
