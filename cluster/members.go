package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// streamTime bounds a whole exchange of states: 600 KB at 1,000 members.
const streamTime = 5 * time.Second

// View is what one member knows of all at one moment. It never changes.
type View struct {
	Self    string            // this member's name
	Ring    *Ring             // of those that are ready
	Members map[string]Member // all that are alive, this one included until it has left
	Version uint64            // counts this member's views
}

// Members is this process among the others, from Join until Close. What it knows is in its View.
type Members struct {
	o         Options
	list      *memberlist.Memberlist
	ring      *memberlist.Keyring
	view      atomic.Pointer[View]
	here      netip.AddrPort // where it gossips
	counts    counts
	namesakes namesakes
	unfound   unfound
	events    *events
	stop      context.CancelFunc
	running   sync.WaitGroup

	publishing sync.Mutex // one view at a time; before mu
	turning    sync.Mutex // one change of the keys at a time

	telling chan struct{} // full while gossip goes out that changes this member, which must not overlap; guards said and closed
	said    []byte        // of itself, last
	closed  bool

	mu        sync.Mutex // guards what is below. Taken under memberlist's lock: nothing that waits is done under it
	self      Member
	left      bool
	others    map[string]heard
	lost      map[string]lost
	contested time.Time // when this member's name was last claimed for another address
	reunited  time.Time // when one that was lost was last heard of again
	changed   chan struct{}

	news     chan struct{} // something below mu is new
	announce chan struct{} // this member has something to say
}

// Join makes this process a member and returns at once: the others need not be there yet, and those that are not are
// tried for as long as this member lives. ctx bounds the start alone. The member is Joining until SetState.
func Join(ctx context.Context, o Options) (*Members, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c, err := o.config()
	if err != nil {
		return nil, err
	}
	m := &Members{
		o: o, ring: c.Keyring, self: o.member(netip.Addr{}),
		others: map[string]heard{}, lost: map[string]lost{},
		telling: make(chan struct{}, 1), changed: make(chan struct{}), news: make(chan struct{}, 1), announce: make(chan struct{}, 1),
	}
	m.view.Store(&View{Self: o.Name, Ring: NewRing(nil), Members: map[string]Member{o.Name: m.self}})
	m.events = newEvents(m)
	c.Delegate, c.Events, c.Conflict, c.Alive = gossip{m}, gossip{m}, gossip{m}, gossip{m}
	c.Logger = gossipLog(o.Log, &m.counts)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cluster: not joined: %w", err)
	}
	if m.list, err = memberlist.Create(c); err != nil {
		return nil, fmt.Errorf("cluster: cannot listen for gossip at %s (where that is all of the host's addresses, "+
			"say which the others reach it at): %w", o.Bind, err)
	}
	m.locate()
	ctx, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	m.running.Go(func() { m.publishAll(ctx) })
	m.running.Go(func() { m.announceAll(ctx) })
	m.running.Go(func() { m.rejoinAll(ctx) })
	m.running.Go(func() { m.events.say(ctx) })
	m.running.Go(func() { m.events.listen(ctx) })
	return m, nil
}

// locate learns the address the others know this member by, now that it listens.
func (m *Members) locate() {
	m.here = address(m.list.LocalNode())
	m.mu.Lock()
	m.self.Addr = reachable(m.self.Addr, m.here.Addr())
	m.mu.Unlock()
	m.publish()
}

// View is what this member knows now. It costs nothing to ask.
func (m *Members) View() *View { return m.view.Load() }

// Changed is closed at the next change of the view. Who takes it before the View misses nothing.
func (m *Members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// SetState tells all what this member may be asked for. Its own View has it when SetState returns, the others' when
// gossip has come around: a second or two.
func (m *Members) SetState(s State) {
	m.mu.Lock()
	m.self.State = s
	m.mu.Unlock()
	m.publish()
	poke(m.announce)
}

// Follow replaces the secrets: the first sends, all are believed. Nobody is dropped as long as all others believe the
// first, and send by one of these.
func (m *Members) Follow(secrets [][]byte) error {
	keys, err := gossipKeys(secrets)
	if err != nil {
		return err
	}
	m.turning.Lock()
	defer m.turning.Unlock()
	return turn(m.ring, keys)
}

// Close ends the gossip. The others find out by themselves, unless Leave told them. A call to a member that does not
// answer may hold it up for five seconds.
func (m *Members) Close() error {
	m.telling <- struct{}{}
	closed := m.closed
	m.closed = true
	<-m.telling
	if closed {
		return nil
	}
	m.stop()
	m.running.Wait()
	return m.list.Shutdown()
}

// publishAll makes views until ctx ends. News that come in while a ring is built wait for the next one.
func (m *Members) publishAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.news:
			m.publish()
		}
	}
}

// publish makes a view of what is known, if it is another than the last.
func (m *Members) publish() {
	m.publishing.Lock()
	defer m.publishing.Unlock()
	m.mu.Lock()
	self, left, others := m.self, m.left, maps.Clone(m.others)
	m.mu.Unlock()
	all := make(map[string]Member, len(others)+1)
	for name, h := range others {
		if member, err := m.believe(name, h); err == nil {
			all[name] = member
		}
	}
	if !left {
		all[self.Name] = self
	}
	last := m.view.Load()
	if maps.Equal(all, last.Members) {
		return
	}
	next := &View{Self: self.Name, Ring: nextRing(last.Ring, all), Members: all, Version: last.Version + 1}
	m.view.Store(next)
	m.o.Log.Info("cluster: what is known of the members has changed", zap.Uint64("version", next.Version),
		zap.Int("alive", len(all)), zap.Int("ready", len(next.Ring.members)),
		zap.Strings("came", beyond(all, last.Members)), zap.Strings("went", beyond(last.Members, all)))
	m.mu.Lock()
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
}

// beyond are the first names, for a log, of those in a that are not in b.
func beyond(a, b map[string]Member) []string {
	var names []string
	for name := range a {
		if _, in := b[name]; !in {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names[:min(len(names), 10)]
}

// nextRing is last where nobody on it is another.
func nextRing(last *Ring, all map[string]Member) *Ring {
	var ready []Member
	for _, m := range all {
		if m.State == Ready {
			ready = append(ready, m)
		}
	}
	slices.SortFunc(ready, compareMembers)
	if slices.Equal(ready, last.members) {
		return last
	}
	return NewRing(ready)
}

// poke wakes who waits on c, at once or when it looks next.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
