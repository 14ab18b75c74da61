package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// kept is how many times what there is in the world is kept, hot copies aside.
func (c *town) kept(nodes []*node) float64 {
	var kept, distinct int64
	for _, b := range c.world.blobs {
		distinct += int64(len(b))
	}
	for _, n := range nodes {
		things, _ := n.store.Inventory(0, 1000)
		for _, x := range things {
			if !x.HotCopy {
				kept += x.Size
			}
		}
	}
	return float64(kept) / float64(distinct)
}

// none fails if anything was fetched since w forgot.
func (w *world) none(t *testing.T, when string) {
	t.Helper()
	for what, n := range w.gets {
		t.Errorf("%s: %s was fetched %d times", when, what, n)
	}
}

// TestReplicas: with two copies the loss of any one member costs no fetch, and after a while of any next one neither.
func TestReplicas(t *testing.T) {
	for _, first := range []int{0, 3} {
		inBubble(t, fmt.Sprintf("without %d", first), func(t *testing.T) {
			w := newWorld()
			refs := w.corpus(8, 3, 200<<10)
			c := newTownOf(t, w, 5, 2)
			c.pullAll(c.nodes, refs)
			if n, what := most(w.gets); n != 1 {
				t.Errorf("%s was fetched %d times", what, n)
			}
			time.Sleep(10 * time.Second)
			if x := c.kept(c.nodes); x < 1.99 || x > 2.01 {
				t.Errorf("%.2f copies are kept", x)
			}
			w.forget()
			gone := c.nodes[first]
			c.kill(gone)
			c.pullAll(c.without(gone), refs)
			w.none(t, "one gone")
			time.Sleep(5 * time.Minute)
			next := c.without(gone)[first]
			if x := c.kept(c.without(gone)); x < 1.99 || x > 2.01 {
				t.Errorf("after repair %.2f copies are kept", x)
			}
			next.end()
			_ = next.server.Close()
			c.part(gone, next)
			c.pullAll(c.without(gone, next), refs)
			w.none(t, "two gone, one after the other")
		})
	}
}

// TestNamesOutliveTheirOwner: with the registry away and the owner of a tag dead, who keeps its content knows the tag too.
func TestNamesOutliveTheirOwner(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		var refs []cache.Ref
		for i := range 6 {
			refs = append(refs, w.image(fmt.Sprintf("library/image%d", i), "1"))
		}
		c := newTownOf(t, w, 4, 2)
		for _, ref := range refs { // each by the one who owns it, so that nobody else hears of it
			owner := c.nodes[0].view.Load().Ring.Owners(KeyOf(ref), 1)[0]
			for _, n := range c.nodes {
				if n.Name == owner.Name {
					c.pullAll([]*node{n}, []cache.Ref{ref})
				}
			}
		}
		time.Sleep(10 * time.Second)
		w.down = true
		gone := c.nodes[1]
		c.kill(gone)
		time.Sleep(time.Hour)
		c.pullAll(c.without(gone), refs)
	})
}

// TestRepair: content that lies where nobody looks any more is brought to those who own it now, though it is kept once.
func TestRepair(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(10, 3, 100<<10)
		c := newTown(t, w, 2)
		c.pullAll(c.nodes, refs)
		time.Sleep(time.Minute)
		w.forget()
		for range 4 { // one after the other, with nobody asking
			c.add()
			c.agree()
			time.Sleep(5 * time.Minute)
		}
		gone := c.nodes[:2]
		for _, n := range gone { // in good order or not: what they held has been moved
			n.end()
			_ = n.server.Close()
		}
		w.mu.Lock()
		gets := len(w.gets)
		w.mu.Unlock()
		if gets != 0 {
			t.Errorf("repair fetched %d things from the registry", gets)
		}
		moved := 0
		for _, ref := range refs {
			if ref.Tag == "" {
				owner := c.nodes[2].view.Load().Ring.Owners(KeyOf(ref), 1)[0]
				for _, n := range c.nodes {
					if n.Name == owner.Name && !n.store.Holds(ref.Digest) {
						t.Errorf("%s is not with its owner %s", ref, n.Name)
					}
				}
				moved++
			}
		}
		if moved == 0 {
			t.Error("nothing was looked at")
		}
	})
}

// TestHandOver: who leaves in good order gives away what it alone holds, and what was used last first.
func TestHandOver(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(10, 3, 100<<10)
		c := newTown(t, w, 3)
		c.pullAll(c.nodes, refs)
		time.Sleep(time.Minute)
		w.forget()
		n := c.nodes[0]
		n.State = Draining
		c.agree()
		taken, all := n.copies.HandOver(t.Context())
		if taken == 0 || !all {
			t.Errorf("%d things were taken, all: %t", taken, all)
		}
		things, _ := n.store.Inventory(0, 1000)
		for _, x := range things { // of which the others have the manifests in memory anyway
			owner := n.view.Load().Ring.Owners(KeyOf(x.Ref), 1)[0]
			for _, m := range c.without(n) {
				if m.Name == owner.Name && !m.store.Holds(x.Ref.Digest) {
					t.Errorf("%s is not on the disk of %s", x.Ref, m.Name)
				}
			}
		}
		c.kill(n)
		c.pullAll(c.without(n), refs)
		w.none(t, "after a leave")
	})
	inBubble(t, "cut short", func(t *testing.T) {
		w := newWorld()
		c := newTown(t, w, 2)
		n, other := c.nodes[0], c.nodes[1]
		var own []cache.Ref
		for seed := uint64(0); len(own) < 20; seed++ {
			ref := w.blob(50<<10, seed)
			if n.view.Load().Ring.Owners(KeyOf(ref), 1)[0].Name == n.Name {
				c.pullAll(c.nodes[:1], []cache.Ref{ref})
				own = append(own, ref)
				time.Sleep(2 * time.Second)
			}
		}
		n.State = Draining
		c.agree()
		ctx, cancel := context.WithCancel(t.Context())
		quick := other.server.Handler
		other.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == takePath {
				pause(r.Context(), 500*time.Millisecond)
			}
			quick.ServeHTTP(w, r)
		})
		time.AfterFunc(2*time.Second, cancel)
		if _, all := n.copies.HandOver(ctx); all {
			t.Fatal("it was not cut short")
		}
		var has []bool
		for _, ref := range own {
			has = append(has, other.store.Holds(ref.Digest))
		}
		if !has[19] || has[0] {
			t.Errorf("oldest first? %v", has)
		}
	})
}

// TestPinsElsewhere: what is pinned is kept by as many members as are to keep a thing, and outlives the one that pinned it.
func TestPinsElsewhere(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(3, 2, 100<<10)
		c := newTownOf(t, w, 4, 2)
		c.pullAll(c.nodes, refs)
		n := c.nodes[0]
		var lists []cache.Ref
		for i := 0; i < len(refs); i += 3 {
			list := w.referrers(refs[i].At(w.tags[refs[i].Repo+":"+refs[i].Tag]))
			n.pin(t, append(slices.Clone(refs[i:i+3]), list))
			lists = append(lists, list)
		}
		time.Sleep(2 * time.Minute)
		copies := func(nodes []*node) (sum int) {
			for _, n := range nodes {
				sum += len(n.store.Pins())
			}
			return sum
		}
		if got := copies(c.nodes); got != 6 {
			t.Errorf("%d pins, want 3 twice", got)
		}
		c.kill(n)
		time.Sleep(5 * time.Minute)
		if got := copies(c.without(n)); got != 6 {
			t.Errorf("%d pins after the loss of the one that made them, want 3 twice", got)
		}
		w.down = true
		time.Sleep(time.Hour)
		for _, one := range c.without(n) {
			for _, ref := range append(refs, lists...) {
				if err := one.pull(t.Context(), w, ref); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// pin pins an image, given with its layers.
func (n *node) pin(t *testing.T, refs []cache.Ref) {
	t.Helper()
	ctx := cache.WithKeep(cache.WithUrgency(t.Context(), cache.Warming))
	p := cache.Pin{Ref: refs[0], Owner: "test"}
	for _, ref := range refs {
		b, err := n.store.Open(ctx, ref, cache.Whole)
		if err == nil {
			err = errors.Join(b.Prove(ctx), b.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		if ref.Mutable() {
			p.Parts = append(p.Parts, cache.Part{Ref: ref, Desc: b.Desc, AsOf: b.AsOf})
		}
		if ref.Kind == cache.KindReferrers { // which has no name by its digest
			continue
		}
		p.Parts = append(p.Parts, cache.Part{Ref: ref.At(b.Digest), Desc: b.Desc})
	}
	if err := n.store.Pin(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}
