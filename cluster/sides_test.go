package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// unseen is how long a cut is not known to gossip.
const unseen = 16 * time.Second

// TestSides: before anybody knows of a cut, each side of it fetches a thing once, whoever owns it, and hardly any request
// waits for who is beyond.
func TestSides(t *testing.T) {
	for _, c := range []struct{ here, there int }{{2, 3}, {1, 2}, {5, 5}, {3, 7}} {
		inBubble(t, fmt.Sprint(c.here, " and ", c.there), func(t *testing.T) { sides(t, c.here, c.there) })
	}
}

func sides(t *testing.T, here, there int) {
	w := newWorld()
	warm, cold := w.corpus(10, 3, 50<<10), []cache.Ref{}
	for i := range uint64(40) {
		layer := w.blob(50<<10, i)
		cold = append(cold, layer)
		if i%2 == 0 {
			cold = append(cold, w.image(fmt.Sprintf("library/cold%d", i), "1", layer))
		}
	}
	c := newTown(t, w, here+there)
	us := c.nodes[:here]
	cut := c.sever(us...)
	c.pullAll(c.nodes, warm) // so that each knows how soon the others answer
	time.Sleep(time.Minute)
	w.forget()
	ours := c.uplink(us...)
	cut.Store(true)
	var mu sync.Mutex
	var all sync.WaitGroup
	var longest time.Duration
	late, requests := 0, 0
	for _, ref := range cold {
		for _, n := range c.nodes {
			all.Go(func() {
				began := time.Now()
				if err := n.pull(t.Context(), w, ref); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				took := time.Since(began)
				longest = max(longest, took)
				if requests++; took >= leastPatience {
					late++
				}
			})
		}
		time.Sleep(unseen / time.Duration(len(cold)))
	}
	all.Wait()
	for _, up := range []*world{ours, w} {
		if len(up.gets) != len(cold) {
			t.Errorf("%d things of %d were fetched", len(up.gets), len(cold))
		}
		for _, ref := range cold {
			n := up.gets[ref.String()]
			if ref.Tag != "" && n == 2 { // by who waited for the owner itself while another asked it to be the owner
				n--
			}
			if n != 1 {
				t.Errorf("%s was fetched %d times", ref, n)
			}
		}
	}
	t.Logf("%d of %d requests were late, the latest by %v", late, requests, longest)
	// Each member waits for each beyond once, and with it whoever asks for something of that one meanwhile.
	if most := 4 * here * there; late > most || longest > 3*leastPatience {
		t.Errorf("more than %d were late, or by more than %v", most, 3*leastPatience)
	}
}

// TestComesBack: who was silent is not waited for again, and asked again soon once it answers.
func TestComesBack(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTown(t, w, 2)
		n, other := c.nodes[0], c.nodes[1]
		cut := c.sever(n)
		var refs []cache.Ref
		for seed := uint64(0); len(refs) < 120; seed++ {
			if ref := w.blob(1000, seed); n.view.Load().Ring.Owners(KeyOf(ref), 1)[0].Name == other.Name {
				refs = append(refs, ref)
			}
		}
		late := 0
		each := func(some []cache.Ref) {
			for _, ref := range some {
				began := time.Now()
				c.pullAll(c.nodes[:1], []cache.Ref{ref})
				if time.Since(began) > 0 {
					late++
				}
				time.Sleep(500 * time.Millisecond)
			}
		}
		cut.Store(true)
		each(refs[:100])
		if late != 1 {
			t.Errorf("%d requests waited for who is gone", late)
		}
		cut.Store(false)
		time.Sleep(2 * longRest)
		before := n.router.Stats().Told
		each(refs[100:])
		if told := n.router.Stats().Told - before; told < 20 {
			t.Errorf("who is back has answered %d of 20 questions", told)
		}
	})
}

// TestWaitsOnce: where the owner has sent something else before, and is passed over for that, whoever comes next and is
// silent is waited for once all the same, and not one after the other.
func TestWaitsOnce(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		ref := w.blob(10<<10, 1)
		c := newTown(t, w, 6)
		n, liar := c.owner(ref, 5), c.owner(ref, 0)
		cut := c.sever(c.owner(ref, 1), c.owner(ref, 2), c.owner(ref, 3), c.owner(ref, 4))
		c.pullAll(c.nodes, w.corpus(10, 3, 50<<10)) // so that each knows how soon the others answer
		time.Sleep(time.Minute)
		n.router.Lied(ref, liar.Name)
		cut.Store(true)
		began := time.Now()
		c.pullAll([]*node{n}, []cache.Ref{ref})
		if took := time.Since(began); took > 2*leastPatience {
			t.Errorf("it took %v, want %v at most", took, 2*leastPatience)
		}
		cut.Store(false)
		time.Sleep(2 * longRest)
	})
}

// TestSoundsNobodyGone: who is no member any more is not asked how it does, even where a question that began before has
// found the way to it once more.
func TestSoundsNobodyGone(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		c := newTown(t, newWorld(), 3)
		n, gone := c.nodes[0], c.nodes[2]
		var dials atomic.Int64
		dial := n.router.Remotes.Dial
		n.router.Remotes.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == gone.Addr {
				dials.Add(1)
			}
			return dial(ctx, network, addr)
		}
		c.kill(gone)
		n.router.Remotes.Keep(n.view.Load().Members)
		if x := n.router.Remotes.to(gone.Member); x.there(t.Context()) {
			t.Fatal("it answers")
		} else {
			x.silent(t.Context())
		}
		time.Sleep(time.Minute)
		if n := dials.Load(); n > 2 {
			t.Errorf("it was called %d times", n)
		}
		if n.router.Remotes.to(c.nodes[1].Member).silent(t.Context()); n.router.Remotes.to(c.nodes[1].Member).temper.asked(time.Now()) {
			t.Error("who is there is asked though it was silent just now")
		}
		time.Sleep(time.Minute)
		if !n.router.Remotes.to(c.nodes[1].Member).temper.asked(time.Now()) {
			t.Error("who is there is not asked any more")
		}
	})
}

// TestRousedTogether: however many wait for one that is silent, each of the others is asked a few times how it does.
func TestRousedTogether(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTown(t, w, 6)
		dead, n := c.nodes[0], c.nodes[1]
		var refs []cache.Ref
		for seed := uint64(0); len(refs) < 100; seed++ {
			if ref := w.blob(1000, seed); n.view.Load().Ring.Owners(KeyOf(ref), 1)[0].Name == dead.Name {
				refs = append(refs, ref)
			}
		}
		var asked atomic.Int64
		for _, m := range c.nodes[2:] {
			h := m.server.Handler
			m.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == doingPath {
					asked.Add(1)
				}
				h.ServeHTTP(w, r)
			})
		}
		cut := c.sever(dead)
		c.pullAll(c.nodes, w.corpus(10, 3, 50<<10))
		time.Sleep(time.Minute)
		cut.Store(true)
		var all sync.WaitGroup
		for i, ref := range refs { // half of them at once, the others while these wait
			all.Go(func() { c.pullAll([]*node{n}, []cache.Ref{ref}) })
			if i > len(refs)/2 {
				time.Sleep(leastPatience / time.Duration(len(refs)))
			}
		}
		all.Wait()
		if n := asked.Load(); n == 0 || n > 10 {
			t.Errorf("%d questions to four others", n)
		}
		cut.Store(false)
		time.Sleep(2 * longRest)
	})
}

// sever cuts some members off from the others while what it returns is true, which nobody is told of: what is sent is
// lost, and nothing comes back. It is for a town whose members have asked nobody anything yet.
func (c *town) sever(some ...*node) *atomic.Bool {
	now, side := new(atomic.Bool), map[string]bool{}
	for _, n := range some {
		side[n.Addr] = true
	}
	for _, n := range c.nodes {
		dial, here := n.router.Remotes.Dial, side[n.Addr]
		n.router.Remotes.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if side[addr] == here {
				return dial(ctx, network, addr)
			}
			if now.Load() {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
			line, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return cable{line, now}, nil
		}
	}
	return now
}

// cable is a connection from one side to the other.
type cable struct {
	net.Conn
	cut *atomic.Bool
}

func (c cable) Write(p []byte) (int, error) {
	if c.cut.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c cable) Read(p []byte) (int, error) {
	for {
		if n, err := c.Conn.Read(p); err != nil || !c.cut.Load() {
			return n, err
		}
	}
}

// uplink has some members fetch by an uplink of their own, whose requests are counted apart.
func (c *town) uplink(some ...*node) *world {
	w := newWorld()
	w.blobs, w.tags, w.lists = c.world.blobs, c.world.tags, c.world.lists
	for _, n := range some {
		n.router.Next = w
	}
	return w
}
