package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
)

// member is a place in the cluster: a name, a host and a directory, which outlive the processes that run there.
type member struct {
	name, zone string
	at         netip.Addr
	number     int
	dir        string // of the store
	starts     int
	lie        atomic.Uint32 // how it answers others: see lies
	skew       atomic.Int64  // of its wall clock, in nanoseconds
	dark       bool          // its host has no power

	run *running // nil: nobody runs there
}

func (m *member) host() string { return m.at.String() }

func (m *member) addr() string { return netip.AddrPortFrom(m.at, peerPort).String() }

const (
	peerPort   = 5002
	gossipPort = 7946
)

// hostOf is the host of a member's address.
func hostOf(addr string) string {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return addr
	}
	return ap.Addr().String()
}

// running is a member's process.
type running struct {
	member  *member
	began   time.Time
	state   atomic.Uint32 // a cluster.State
	ctx     context.Context
	store   *cache.Cache
	router  *cluster.Router
	copies  *cluster.Copies
	traffic cluster.Traffic
	server  *http.Server
	served  chan struct{}
	up      *uplink
	line    *listener
	gone    chan struct{} // closed when it is about to end, by a crash or in good order
	told    *told         // who is there, where the simulation tells
	gossip  *cluster.Members
	stop    context.CancelFunc // of what runs in the background
	work    sync.WaitGroup
}

// changes is closed when what it knows of the others changes.
func (r *running) changes() <-chan struct{} {
	if r.gossip != nil {
		return r.gossip.Changed()
	}
	return r.told.changes()
}

// view is what it knows of the others.
func (r *running) view() *cluster.View {
	if r.gossip != nil {
		return r.gossip.View()
	}
	return r.told.view.Load()
}

var secret = [][]byte{[]byte("a secret of sixteen bytes and more")}

// start starts a member's process. All that a member of the product is made of is made here, as cmd/tidepool does.
func (s *Sim) start(m *member) error {
	m.starts++
	if m.dir == "" {
		m.dir = filepath.Join(s.dir, fmt.Sprintf("%s-%d", m.name, m.starts))
	}
	r := &running{member: m, ctx: s.ctx, began: time.Now(), served: make(chan struct{}), gone: make(chan struct{})}
	id, err := cluster.Identify(m.name, secret)
	if err != nil {
		return err
	}
	log := s.log.Named(m.name)
	r.up = &uplink{hub: s.hub, host: m.host(), dead: r.gone}
	heat := &cluster.Heat{View: r.view}
	r.router = &cluster.Router{
		View: r.view, Next: r.up, Log: log, Replicas: s.replicas,
		Remotes: &cluster.Remotes{Identity: id, Traffic: &r.traffic, Heat: heat, Dial: s.net.dialer(m.host(), hostOf)},
	}
	r.copies = &cluster.Copies{Router: r.router, Changed: r.changes, Log: log}
	r.store, err = cache.New(s.ctx, r.router, cache.Options{
		Dir: m.dir, Disk: 1 << 30, Memory: 1 << 20, ScrubRate: -1, Absence: -1, FS: disk{}, Log: log,
		Keep: r.router.Keep, Lied: r.router.Lied, Owns: r.router.Owns, Landed: r.copies.Landed, Named: r.copies.Named,
		Aging: func(cache.Ref) cache.Aging { return cache.Aging{Fresh: fresh, Stale: cache.Forever} },
		Now:   func() time.Time { return time.Now().Add(time.Duration(m.skew.Load())) },
	})
	if err != nil {
		return err
	}
	r.copies.Store = r.store
	heat.Follow(r.store.Served)
	taker := &cluster.Taker{Store: r.store, Log: log}
	r.server = (&cluster.Peer{Store: r.store, Identity: id, Traffic: &r.traffic, Heat: heat, Taker: taker, Log: log}).Server()
	r.server.Handler = &liar{m, r.server.Handler}
	r.line = s.net.listen(m.host())
	go func() {
		defer close(r.served)
		_ = r.server.ServeTLS(r.line, "", "") // it ends when it is closed
	}()
	s.runs(m, r)
	if err := s.enter(r, log); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(s.ctx)
	r.stop = stop
	r.work.Go(func() { _ = r.copies.Run(ctx) }) // it ends with ctx
	return nil
}

// fresh is how long a tag is not asked for again.
const fresh = time.Minute

// enter has a member that has just started be known to the others.
func (s *Sim) enter(r *running, log *zap.Logger) error {
	if !s.o.Gossip {
		r.told = &told{changed: make(chan struct{})}
		s.tell(r)
		for !r.store.Stats().Scanned {
			time.Sleep(10 * time.Millisecond)
		}
		r.state.Store(uint32(cluster.Ready))
		s.tell(nil)
		return nil
	}
	transport, err := s.air.Listen(netip.AddrPortFrom(r.member.at, gossipPort))
	if err != nil {
		return err
	}
	o := cluster.Options{
		Name: r.member.name, Secrets: secret, Bind: netip.AddrPortFrom(r.member.at, gossipPort).String(),
		Join: []string{s.members[0].host(), s.members[1].host()}, PeerAddr: r.member.addr(), Zone: r.member.zone,
		Transport: transport, Log: log,
	}
	if r.gossip, err = cluster.Join(s.ctx, o); err != nil {
		return err
	}
	for !r.store.Stats().Scanned {
		time.Sleep(10 * time.Millisecond)
	}
	r.state.Store(uint32(cluster.Ready))
	r.gossip.SetState(cluster.Ready)
	return nil
}

// crash ends a member's process at once: what was in its memory is lost, and what its files held at this moment is what
// the next process finds. dark: its host went with it, so that its lines do not even break.
func (s *Sim) crash(m *member, dark bool) error {
	r := m.run
	s.settle() // nobody is in the middle of a write to a file: the copy is of one moment
	after := filepath.Join(s.dir, fmt.Sprintf("%s-%d", m.name, m.starts+1))
	if err := copyAll(after, m.dir); err != nil {
		return err
	}
	close(r.gone)
	if m.dark = dark; dark {
		s.net.power(m.host(), false)
		if s.o.Gossip {
			s.cutAir()
		}
	}
	before := m.dir
	m.dir = after
	s.runs(m, nil)
	if !dark {
		s.net.hangUp(m.host())
	}
	s.tell(nil)
	s.after.Go(func() { // what is left of it in this process is of no consequence
		err := r.end()
		if err = errors.Join(err, os.RemoveAll(before)); err != nil {
			s.fail("the remains of %s: %v", m.name, err)
		}
	})
	return nil
}

// end takes a process down that has no more to say.
func (r *running) end() error {
	r.stop()
	r.work.Wait()
	var err error
	if r.gossip != nil {
		err = r.gossip.Close()
	}
	err = errors.Join(err, r.server.Close(), r.line.Close(), r.router.Remotes.Close(), r.store.Close())
	<-r.served
	return err
}

// leave ends a member's process in good order: it drains, so that the others ask it for nothing new, and goes once
// what it had begun is over.
func (s *Sim) leave(m *member) error {
	r := m.run
	r.state.Store(uint32(cluster.Draining))
	if r.gossip != nil {
		r.gossip.SetState(cluster.Draining)
	}
	s.tell(nil)
	time.Sleep(drainTime / 2)
	hurry, done := context.WithTimeout(s.ctx, drainTime/2)
	defer done()
	r.copies.HandOver(hurry)
	s.runs(m, nil)
	s.tell(nil)
	if r.gossip != nil {
		if err := r.gossip.Leave(s.ctx); err != nil {
			s.logf("%s: %v", m.name, err)
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, drainTime)
	defer cancel()
	_ = r.server.Shutdown(ctx) // what is not over by then is broken off, as it is by a process that ends
	close(r.gone)
	err := r.end()
	s.net.hangUp(m.host())
	return err
}

// stop ends a member's process without a word to the others: for a while its listener answers that it is closing.
func (s *Sim) stop(m *member) error {
	r := m.run
	s.runs(m, nil)
	close(r.gone)
	err := r.store.Close()
	s.tell(nil)
	time.Sleep(drainTime / 2)
	err = errors.Join(err, r.end())
	s.net.hangUp(m.host())
	return err
}

// drainTime is how long a member that leaves stays reachable.
const drainTime = 10 * time.Second

func copyAll(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(dst, 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(dst, b, 0o600)
	})
}
