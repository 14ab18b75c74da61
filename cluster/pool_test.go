package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// TestEachByteOnce: however many members there are, and all of them asked for everything, each thing is fetched once and
// kept about once. Under the race detector there are at most five: .ci/steps runs it without as well.
func TestEachByteOnce(t *testing.T) {
	for _, n := range []int{1, 3, 5, 10} {
		if racing && n > 5 {
			continue
		}
		inBubble(t, fmt.Sprint(n), func(t *testing.T) {
			w := newWorld()
			refs := w.corpus(8, 3, 200<<10)
			c := newTown(t, w, n)
			for range 2 { // cold, warm
				c.pullAll(c.nodes, refs)
			}
			if n, what := most(w.gets); n != 1 || len(w.gets) != len(refs) {
				t.Errorf("%s was fetched %d times; %d things of %d", what, n, len(w.gets), len(refs))
			}
			time.Sleep(2 * time.Minute)
			var held, distinct int64
			for _, b := range w.blobs {
				distinct += int64(len(b))
			}
			for _, n := range c.nodes {
				held += n.store.Stats().DiskBytes
			}
			if ratio := float64(held) / float64(distinct); ratio < 1 || ratio > 1.01 {
				t.Errorf("%.2f times what there is is kept", ratio)
			}
			time.Sleep(6 * time.Minute) // the tags are not fresh any more
			w.forget()
			for range 2 {
				c.pullAll(c.nodes, refs)
			}
			if n, what := most(w.heads); n != 1 || len(w.heads) != 8 || len(w.gets) != 0 {
				t.Errorf("aged: %s was asked for %d times; %d tags of 8; %v fetched", what, n, len(w.heads), w.gets)
			}
			w.mu.Lock()
			w.down = true
			w.mu.Unlock()
			time.Sleep(6 * time.Minute)
			c.pullAll(c.nodes, refs)
		})
	}
}

// TestSlowRegistry: a registry that thinks for long is no dead member: nobody else asks it.
func TestSlowRegistry(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		w.slow, w.pace = 20*time.Second, 10*time.Millisecond
		refs := w.corpus(4, 2, 500<<10)
		c := newTown(t, w, 5)
		c.pullAll(c.nodes, refs)
		if n, what := most(w.gets); n != 1 {
			t.Errorf("%s was fetched %d times", what, n)
		}
	})
}

// TestDeadMembers: who asks a member that is gone, or that has stopped, is served all the same, and soon.
func TestDeadMembers(t *testing.T) {
	for name, kill := range map[string]func(c *town, n *node){
		"gone":    func(_ *town, n *node) { _ = n.server.Close() },
		"stopped": func(c *town, n *node) { _ = n.server.Close(); _, _ = c.net.Listen(n.Addr) }, // connections are taken, and nothing is said
	} {
		inBubble(t, name, func(t *testing.T) {
			w := newWorld()
			refs := w.corpus(10, 3, 100<<10)
			c := newTown(t, w, 3)
			dead := c.nodes[2]
			kill(c, dead)
			began := time.Now()
			c.pullAll(c.nodes[:2], refs)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if n, what := most(w.gets); n > 2 { // by the next one, and by it again if it was waiting itself when the other asked
				t.Errorf("%s was fetched %d times", what, n)
			}
			for _, n := range c.nodes[:2] {
				if left := n.router.Remotes.LeftAlone(); len(left) != 1 || left[dead.Name] == 0 {
					t.Errorf("%s has left alone %v, want %s and nobody else", n.Name, left, dead.Name)
				}
			}
		})
	}
}

// TestJoin: a new member has what it owns now from those who owned it before, and not from the registry.
func TestJoin(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(10, 3, 100<<10)
		c := newTown(t, w, 3)
		c.pullAll(c.nodes, refs)
		time.Sleep(time.Minute)
		w.forget()
		c.add()
		c.agree()
		c.pullAll(c.nodes, refs)
		for what := range w.gets {
			t.Errorf("%s was fetched again", what)
		}
	})
}

// TestDisagreement: members that see different rings cannot wait for each other for ever, and cost little more. Under the
// race detector there are fewer of them: .ci/steps runs it without as well.
func TestDisagreement(t *testing.T) {
	seeds := uint64(20)
	if racing {
		seeds = 5
	}
	for seed := range seeds {
		inBubble(t, fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld()
			w.slow, w.pace = time.Second, 20*time.Millisecond
			refs := w.corpus(4, 2, 1<<20)
			c := newTown(t, w, 4)
			r := rand.New(rand.NewPCG(seed, 0))
			for _, n := range c.nodes { // each sees itself and some of the others
				all := map[string]Member{n.Name: n.Member}
				for _, o := range c.nodes {
					if r.IntN(2) == 0 {
						all[o.Name] = o.Member
					}
				}
				n.sees(all)
			}
			began := time.Now()
			c.pullAll(c.nodes, refs)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			if n, what := most(w.gets); n > 4 {
				t.Errorf("%s was fetched %d times by 4 members", what, n)
			}
		})
	}
	inBubble(t, "two, each of the other", func(t *testing.T) {
		w := newWorld()
		w.slow, w.pace = time.Second, 20*time.Millisecond
		ref := w.blob(2<<20, 5)
		tag := w.image("library/x", "1", ref)
		c := newTown(t, w, 2)
		for i, n := range c.nodes { // each thinks that the other owns all
			other := c.nodes[1-i].Member
			self := n.Member
			self.State = Draining
			n.sees(map[string]Member{self.Name: self, other.Name: other})
		}
		began := time.Now()
		c.pullAll(c.nodes, []cache.Ref{ref, tag})
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		if n, what := most(w.gets); n > 2 {
			t.Errorf("%s was fetched %d times", what, n)
		}
	})
}

// TestLyingMember: bytes of a member that are not what their name says reach no client.
func TestLyingMember(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(6, 3, 300<<10)
		c := newTown(t, w, 3)
		liar := c.nodes[0]
		liar.server.Handler = lying{liar.server.Handler}
		for _, n := range c.nodes[1:] {
			for _, ref := range refs {
				err := n.pull(t.Context(), w, ref)
				if errors.Is(err, cache.ErrCorrupt) { // it was cut off in the middle, and asks again
					err = n.pull(t.Context(), w, ref)
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
		if n, what := most(w.gets); n > 3 {
			t.Errorf("%s was fetched %d times", what, n)
		}
	})
}

// lying turns bytes of bodies over.
type lying struct{ http.Handler }

func (l lying) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.Handler.ServeHTTP(&flipping{ResponseWriter: w}, r)
}

type flipping struct {
	http.ResponseWriter
	n int
}

func (f *flipping) Unwrap() http.ResponseWriter { return f.ResponseWriter }

func (f *flipping) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	if f.n == 0 && len(p) > 7 {
		p[7] ^= 1
	}
	f.n += len(p)
	return f.ResponseWriter.Write(p)
}

// TestErrors: what a registry says to the owner, every member says.
func TestErrors(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTown(t, w, 3)
		missing := cache.Ref{Registry: "docker.io", Repo: "library/none", Kind: cache.KindManifest, Tag: "1"}
		for _, n := range c.nodes {
			if err := n.pull(t.Context(), w, missing); !errors.Is(err, cache.ErrNotFound) {
				t.Errorf("%s: %v", n.Name, err)
			}
		}
		w.down = true
		missing.Tag = "2"
		for _, n := range c.nodes {
			if err := n.pull(t.Context(), w, missing); !errors.Is(err, cache.ErrUnavailable) || errors.Is(err, cache.ErrNotFound) {
				t.Errorf("%s: %v", n.Name, err)
			}
		}
	})
}

// TestPinnedHere: what one member pins it has, whoever owns it, though all others and the registry be gone.
func TestPinnedHere(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(3, 3, 200<<10)
		c := newTown(t, w, 5)
		c.pullAll(c.nodes, refs)
		n := c.nodes[0]
		ahead := cache.WithKeep(cache.WithUrgency(t.Context(), cache.Warming))
		for i := 0; i < len(refs); i += 4 { // an image and its layers
			b, err := n.store.Open(ahead, refs[i], cache.Whole)
			if err != nil {
				t.Fatal(err)
			}
			p := cache.Pin{Ref: refs[i], Owner: "test", Parts: []cache.Part{{Ref: refs[i], Desc: b.Desc, AsOf: b.AsOf}, {Ref: refs[i].At(b.Digest), Desc: b.Desc}}}
			_ = b.Close()
			for _, ref := range refs[i+1 : i+4] {
				l, err := n.store.Open(ahead, ref, cache.Whole)
				if err == nil {
					err = errors.Join(l.Prove(ahead), l.Close())
				}
				if err != nil {
					t.Fatal(err)
				}
				p.Parts = append(p.Parts, cache.Part{Ref: ref, Desc: l.Desc})
			}
			if err := n.store.Pin(t.Context(), p); err != nil {
				t.Error(err)
			}
		}
		w.down = true
		for _, other := range c.nodes[1:] {
			_ = other.server.Close()
		}
		time.Sleep(time.Hour)
		c.pullAll(c.nodes[:1], refs)
	})
}

// TestRotationBreaksNoQuestion is row 70: a secret is replaced while connections made by it are open, by one member after
// the other, and every question is answered.
func TestRotationBreaksNoQuestion(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(10, 3, 50<<10)
		c := newTown(t, w, 3)
		old, young := c.secrets[0], []byte("another secret of sixteen bytes and more")
		for _, secrets := range [][][]byte{{old, young}, {young, old}, {young}} {
			for _, n := range c.nodes {
				c.pullAll(c.nodes, refs)
				if err := n.who.Follow(secrets); err != nil {
					t.Fatal(err)
				}
				c.allSay(t)
			}
		}
		c.pullAll(c.nodes, refs)
		for _, n := range c.nodes {
			if s := n.router.Stats(); s.Silent > 0 || s.Told == 0 {
				t.Errorf("%s: %+v", n.Name, s)
			}
		}
		time.Sleep(idleTime) // connections that were dialled, and then not needed, take five seconds to say goodbye
	})
}

// allSay fails unless all members say to all others how they do.
func (c *town) allSay(t *testing.T) {
	t.Helper()
	for _, n := range c.nodes {
		if said := n.router.Remotes.Doing(t.Context(), n.view.Load()); len(said) != len(c.nodes)-1 {
			t.Errorf("to %s only %d of the others say how they do", n.Name, len(said))
		}
	}
}
