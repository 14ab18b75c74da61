package cluster

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// node is one member, with a store of its own.
type node struct {
	Member
	t       *testing.T
	store   *cache.Cache
	router  *Router
	copies  *Copies
	traffic Traffic
	heat    *Heat
	server  *http.Server
	line    net.Listener
	who     *Identity
	view    atomic.Pointer[View]
	news    atomic.Pointer[chan struct{}] // closed at the next change of the view
	end     context.CancelFunc            // of what runs in the background
	ran     sync.WaitGroup
}

// town is a cluster in one process, whose members are told who there is.
type town struct {
	t       *testing.T
	net     *origintest.Net
	world   *world
	nodes   []*node
	secrets [][]byte
	copies  int    // of each thing
	guard   *guard // nil: nobody's login is asked for
}

func newTown(t *testing.T, w *world, n int) *town { return newTownOf(t, w, n, 1) }

func newTownOf(t *testing.T, w *world, n, copies int) *town {
	c := &town{t: t, net: new(origintest.Net), world: w, secrets: [][]byte{[]byte("a secret of sixteen bytes and more")}, copies: copies}
	for range n {
		c.add()
	}
	c.agree()
	return c
}

func (c *town) add() *node {
	c.t.Helper()
	n := &node{t: c.t, Member: Member{Name: fmt.Sprintf("m%d", len(c.nodes)), Addr: fmt.Sprintf("10.0.0.%d:7947", len(c.nodes)+1), Weight: 1, State: Ready}}
	id, err := Identify(n.Name, c.secrets)
	if err != nil {
		c.t.Fatal(err)
	}
	n.who = id
	n.news.Store(new(make(chan struct{})))
	n.heat = &Heat{View: n.view.Load}
	n.router = &Router{View: n.view.Load, Remotes: &Remotes{Identity: id, Dial: c.net.DialContext, Traffic: &n.traffic, Heat: n.heat}, Next: c.world, Replicas: c.copies}
	var callers func(string) time.Duration
	if c.guard != nil {
		n.router.Next, n.router.Alone = c.guard, func(string) bool { return true }
		callers = func(string) time.Duration { return 10 * time.Minute }
	}
	n.copies = &Copies{Router: n.router, Changed: func() <-chan struct{} { return *n.news.Load() }}
	dir, err := os.MkdirTemp("/dev/shm", "tidepool-cluster-")
	if err != nil {
		dir = c.t.TempDir()
	}
	c.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n.store, err = cache.New(c.t.Context(), n.router, cache.Options{
		Dir: dir, Disk: 1 << 30, ScrubRate: -1, Absence: -1,
		Keep: n.router.Keep, Lied: n.router.Lied, Owns: n.router.Owns, Landed: n.copies.Landed, Named: n.copies.Named, Callers: callers,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	n.copies.Store = n.store
	n.heat.Follow(n.store.Served)
	n.server = (&Peer{Store: n.store, Identity: id, Traffic: &n.traffic, Heat: n.heat, Taker: &Taker{Store: n.store}}).Server()
	if n.line, err = c.net.Listen(n.Addr); err != nil {
		c.t.Fatal(err)
	}
	go func() { _ = n.server.ServeTLS(n.line, "", "") }()
	var ctx context.Context
	ctx, n.end = context.WithCancel(c.t.Context())
	n.ran.Go(func() { _ = n.copies.Run(ctx) })
	c.t.Cleanup(n.close)
	c.nodes = append(c.nodes, n)
	return n
}

func (n *node) close() {
	n.end()
	n.ran.Wait()
	_ = n.server.Close()
	_ = n.router.Remotes.Close()
	if err := n.store.Close(); err != nil {
		n.t.Error(err)
	}
}

// owner is the i-th of the members that own a thing, by the ring that the first of all sees.
func (c *town) owner(ref cache.Ref, i int) *node {
	m := c.nodes[0].view.Load().Ring.Owners(KeyOf(ref), i+1)[i]
	return c.nodes[slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name == m.Name })]
}

// agree tells all members of all.
func (c *town) agree() {
	all := map[string]Member{}
	for _, n := range c.nodes {
		all[n.Name] = n.Member
	}
	for _, n := range c.nodes {
		n.sees(all)
	}
}

func (n *node) sees(all map[string]Member) {
	n.view.Store(&View{Self: n.Name, Ring: NewRing(slices.Collect(maps.Values(all))), Members: all})
	close(*n.news.Swap(new(make(chan struct{}))))
}

// part has members be out of the others' sight.
func (c *town) part(gone ...*node) {
	all := map[string]Member{}
	for _, n := range c.nodes {
		if !slices.Contains(gone, n) {
			all[n.Name] = n.Member
		}
	}
	for _, n := range c.nodes {
		if !slices.Contains(gone, n) {
			n.sees(all)
		}
	}
}

// kill ends a member as a crash does, and has the others know.
func (c *town) kill(n *node) {
	n.end()
	_ = n.server.Close()
	c.part(n)
}

// without are the nodes but one.
func (c *town) without(gone ...*node) []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *node) bool { return slices.Contains(gone, n) })
}

// pull reads all of a thing through a member, and compares.
func (n *node) pull(ctx context.Context, w *world, ref cache.Ref) error {
	b, err := n.store.Open(ctx, ref, cache.Whole)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", n.Name, ref, err)
	}
	defer b.Close()
	var got bytes.Buffer
	if err := b.SendRange(ctx, &got, 0, -1); err != nil {
		return fmt.Errorf("%s: %s: %w", n.Name, ref, err)
	}
	w.mu.Lock()
	d := ref.Digest
	if ref.Tag != "" {
		d = w.tags[ref.Repo+":"+ref.Tag]
	}
	if ref.Kind == cache.KindReferrers {
		d = w.lists[ref.Digest]
	}
	want := w.blobs[d]
	w.mu.Unlock()
	if !bytes.Equal(got.Bytes(), want) {
		return fmt.Errorf("%s: %s: %d other bytes", n.Name, ref, got.Len())
	}
	return nil
}

// pullAll has every one of some members pull everything at once.
func (c *town) pullAll(nodes []*node, refs []cache.Ref) {
	c.t.Helper()
	var all sync.WaitGroup
	errs := make(chan error, len(nodes)*len(refs))
	for _, n := range nodes {
		for _, i := range rand.New(rand.NewPCG(1, uint64(len(n.Name)))).Perm(len(refs)) {
			all.Go(func() { errs <- n.pull(c.t.Context(), c.world, refs[i]) })
		}
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			c.t.Error(err)
		}
	}
}

func inBubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}
