package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
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

// TestHotBlob: an owner that has more to do than the others, because of one blob, has them keep it, too, until it has no
// more to do than its bound.
func TestHotBlob(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		ref := w.blob(10<<10, 1)
		c := newTown(t, w, 5)
		owner := c.nodes[slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name == n.view.Load().Ring.Owners(KeyOf(ref), 1)[0].Name })]
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
		named := func(i int) *node {
			m := c.nodes[0].view.Load().Ring.Owners(KeyOf(ref), 5)[i]
			return c.nodes[slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name == m.Name })]
		}
		dead, n := named(0), named(4)
		b, err := n.store.Open(cache.WithKeep(t.Context()), ref, cache.Whole)
		if err == nil {
			err = errors.Join(b.Prove(t.Context()), b.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		n.store.Rank(ref.Digest, true)

		time.Sleep(time.Minute) // the first round
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

// TestLyingOffer: what a member offers and does not have, or has otherwise, is neither kept nor fetched from the registry.
func TestLyingOffer(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTown(t, w, 2)
		liar, victim := c.nodes[0], c.nodes[1]
		liar.server.Handler = lying{liar.server.Handler}
		var ref cache.Ref
		for seed := uint64(0); ref.Repo == "" || liar.view.Load().Ring.Owners(KeyOf(ref), 1)[0].Name != liar.Name; seed++ {
			ref = w.blob(300<<10, seed)
		}
		ctx := cache.WithKeep(t.Context())
		b, err := liar.store.Open(ctx, ref, cache.Whole)
		if err == nil {
			err = errors.Join(b.Prove(ctx), b.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		w.forget()
		absent := ref.At(cache.Sum([]byte("nobody has this")))
		for _, ref := range []cache.Ref{ref, absent} {
			err := liar.copies.give(t.Context(), victim.Member, thingOf(ref, 300<<10), false)
			if err == nil || victim.store.Holds(ref.Digest) {
				t.Errorf("%s: %v, held: %t", ref, err, victim.store.Holds(ref.Digest))
			}
		}
		w.none(t, "offered")
		if err := victim.pull(t.Context(), w, ref); err != nil && !errors.Is(err, cache.ErrCorrupt) {
			t.Error(err)
		}
	})
}

// roomless is a store that cannot keep anything.
type roomless struct{ *cache.Cache }

func (roomless) Holds(cache.Digest) bool { return false }

// TestNoRoomToTake: what could not be kept was not taken, or its last keeper would let go of it.
func TestNoRoomToTake(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		ref := w.blob(1<<20, 1)
		c := newTown(t, w, 2)
		c.pullAll(c.nodes, []cache.Ref{ref})
		x := &Taker{Store: roomless{c.nodes[0].store}}
		if err := x.fetch(t.Context(), ref, c.nodes[1].Name, false); !errors.Is(err, cache.ErrNoRoom) {
			t.Errorf("%v, want %v", err, cache.ErrNoRoom)
		}
	})
}

// FuzzOffer: whatever a member sends instead of an offer is refused, and nothing of it is kept.
func FuzzOffer(f *testing.F) {
	for path, doc := range map[string]any{
		offerPath: offer{Things: []thing{{Registry: "docker.io", Repo: "library/a", Kind: "blob", Digest: cache.Sum(nil).String(), Size: 5}}},
		takePath:  offer{Things: []thing{{Registry: "docker.io", Repo: "library/a", Kind: "blob", Digest: cache.Sum(nil).String(), Size: 5}}, Hurry: true},
		namesPath: []named{{Registry: "docker.io", Repo: "library/a", Tag: "1", Digest: cache.Sum(nil).String(), AsOf: time.Unix(5, 0)}},
		pinPath:   pinned{Image: thing{Registry: "docker.io", Repo: "library/a", Kind: "manifest", Tag: "1"}, Owner: "a", At: time.Unix(5, 0)},
		pinnedPath: pinQuestion{Scopes: []thing{
			{Registry: "docker.io", Repo: "library/a", Kind: "manifest", Tag: "1"}, {Registry: "docker.io", Repo: "library/a", Kind: "manifest"},
		}},
	} {
		b, err := json.Marshal(doc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(path, b)
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		if !slices.Contains([]string{offerPath, takePath, namesPath, pinPath, pinnedPath}, path) {
			return
		}
		s := &shelf{t: t}
		rec := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodPost, "https://member.test"+path, bytes.NewReader(body))
		if !(&Taker{Store: s}).serve(rec, req, "m1") {
			t.Fatal("not an offer?")
		}
		if rec.Code != http.StatusOK && s.pinned > 0 {
			t.Error("refused, and pinned all the same")
		}
	})
}

// shelf is a store that holds nothing, and checks what it is asked.
type shelf struct {
	t                      *testing.T
	asked, learned, pinned int
}

func (s *shelf) check(ref cache.Ref) {
	s.t.Helper()
	if err := ref.Check(); err != nil {
		s.t.Errorf("%+v: %v", ref, err)
	}
}

func (s *shelf) Open(_ context.Context, ref cache.Ref, _ cache.Want) (*cache.Blob, error) {
	s.check(ref)
	s.asked++
	return nil, cache.ErrNotHeld
}

func (s *shelf) Stat(context.Context, cache.Ref) (cache.Found, error) {
	return cache.Found{}, cache.ErrNotHeld
}
func (s *shelf) Holds(cache.Digest) bool { return false }
func (s *shelf) Rank(cache.Digest, bool) {}
func (s *shelf) Room() float64           { return 1 }
func (s *shelf) Pins() []cache.Pin       { return nil }

func (s *shelf) PinsIn(scope cache.Ref) []cache.Pin {
	if scope.Tag == "" && scope.Digest.IsZero() {
		scope.Tag = "any"
	}
	s.check(scope)
	return nil
}

func (s *shelf) Learn(ref cache.Ref, d cache.Desc, _ time.Time) {
	s.check(ref)
	if d.Digest.IsZero() || d.Size < 0 {
		s.t.Errorf("%+v", d)
	}
	s.learned++
}

func (s *shelf) Pin(_ context.Context, p cache.Pin) error {
	s.check(p.Ref)
	s.pinned++
	return nil
}
