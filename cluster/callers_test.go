package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// guard is a registry that asks each caller for his login.
type guard struct {
	*world
	mu   sync.Mutex
	may  map[cache.Caller]bool
	seen map[cache.Caller]int // how often anybody asked in whose name
}

func (g *guard) admit(ctx context.Context, ref cache.Ref) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	caller := cache.CallerOf(ctx)
	g.seen[caller]++
	if !g.may[caller] {
		return fmt.Errorf("%s: %q: %w", ref, caller, cache.ErrDenied)
	}
	return nil
}

func (g *guard) Resolve(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	if err := g.admit(ctx, ref); err != nil {
		return cache.Answer{}, err
	}
	return g.world.Resolve(ctx, ref, want)
}

func (g *guard) Open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	if err := g.admit(ctx, ref); err != nil {
		return cache.Answer{}, err
	}
	return g.world.Open(ctx, ref, want)
}

// TestCallersOfMembers: of a registry that asks each caller for his login, content crosses the uplink once, too; what one
// may have no other gets by way of another member; and nobody's login goes to one.
func TestCallersOfMembers(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(3, 3, 200<<10)
		c := &town{t: t, net: new(origintest.Net), world: w, secrets: [][]byte{[]byte("a secret of sixteen bytes and more")}}
		c.guard = &guard{world: w, may: map[cache.Caller]bool{"alice": true, "carol": true}, seen: map[cache.Caller]int{}}
		for range 4 {
			c.add()
		}
		c.agree()
		as := func(who cache.Caller) context.Context { return cache.WithCaller(t.Context(), who) }
		outside := func(when string) {
			t.Helper()
			for _, n := range c.nodes {
				for _, who := range []cache.Caller{"bob", "", cache.Member} {
					for _, ref := range refs {
						err := n.pull(as(who), w, ref)
						if err == nil && who != cache.Member {
							t.Errorf("%s: %q has had %s from %s", when, who, ref, n.Name)
						}
					}
				}
			}
		}
		outside("cold")
		for _, who := range []cache.Caller{"alice", "carol"} {
			for _, n := range c.nodes {
				for _, ref := range refs {
					if err := n.pull(as(who), w, ref); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(time.Minute)
			}
			outside("warm")
		}
		blobs := 0
		for _, ref := range refs {
			if ref.Kind == cache.KindBlob {
				if blobs++; w.gets[ref.String()] != 1 {
					t.Errorf("%s was fetched %d times", ref, w.gets[ref.String()])
				}
				owner := c.nodes[0].view.Load().Ring.Owners(KeyOf(ref), 1)[0].Name
				i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name == owner })
				if !c.nodes[i].store.Holds(ref.Digest) {
					t.Errorf("%s is not with its owner", ref)
				}
			}
		}
		if blobs != 9 {
			t.Fatalf("%d blobs", blobs)
		}
		if c.guard.seen[cache.Member] > 0 {
			t.Errorf("the registry was asked %d times in a member's name", c.guard.seen[cache.Member])
		}
		c.guard.mu.Lock()
		c.guard.may["alice"] = false
		c.guard.mu.Unlock()
		time.Sleep(11 * time.Minute) // longer than a yes lasts
		for _, n := range c.nodes {
			for _, ref := range refs {
				if err := n.pull(as("alice"), w, ref); !errors.Is(err, cache.ErrDenied) {
					t.Errorf("%s after she was put out: %s: %v", n.Name, ref, err)
				}
			}
		}
		outside("revoked")
		for _, n := range c.nodes { // and she who still may, may
			if err := n.pull(as("carol"), w, refs[1]); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestVouched: only what is held can be vouched for.
func TestVouched(t *testing.T) {
	for query, ok := range map[string]bool{
		"held=1&vouched=1": true, "vouched=1": false,
	} {
		r, err := http.NewRequest(http.MethodGet, "https://m"+openPath+"?registry=docker.io&repo=a&kind=blob&digest="+cache.Sum(nil).String()+"&"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readQuestion(r); (err == nil) != ok {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// TestCallersAskFew: what a caller asks for is looked for at those who may well have it, however many members there are.
func TestCallersAskFew(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := &town{t: t, net: new(origintest.Net), world: w, secrets: [][]byte{[]byte("a secret of sixteen bytes and more")}}
		c.guard = &guard{world: w, may: map[cache.Caller]bool{"alice": true}, seen: map[cache.Caller]int{}}
		for range 9 {
			c.add()
		}
		c.agree()
		ref := w.blob(10<<10, 1)
		order := c.nodes[0].view.Load().Ring.Owners(KeyOf(ref), 9)
		for _, m := range order {
			n := c.nodes[slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name == m.Name })]
			before := n.router.Stats().Asked
			a, err := n.router.Open(cache.WithCaller(t.Context(), "alice"), ref, cache.Whole)
			if err != nil {
				t.Fatal(err)
			}
			_ = a.Body.Close()
			if asked := n.router.Stats().Asked - before; asked > former {
				t.Errorf("%s asked %d others", n.Name, asked)
			}
		}
	})
}
