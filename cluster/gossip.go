package cluster

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// gossip is what memberlist calls. It calls under its own lock: copy, poke, return.
type gossip struct{ m *Members }

// heard is what gossip said of a member last: a copy, for memberlist changes its own in place.
type heard struct {
	from netip.AddrPort
	meta []byte
}

// counts are of things that happened since the start.
type counts struct {
	conflicts, rejoins, refused, streams atomic.Uint64
	lastStream                           atomic.Int64 // when, in nanoseconds since 1970
	inVain                               atomic.Int64 // since when nobody answers who was to be joined, likewise; 0: somebody does
}

// Stats are plain counts, for metrics.
type Stats struct {
	Conflicts uint64 // messages about a name that two members claim
	Rejoins   uint64 // members met again that gossip alone would not have met
	Refused   uint64 // packets, connections and messages that were turned away
	Streams   uint64 // times that a member was reached by TCP which no packet reached, by UDP
	Health    int    // 0 is well; more: this member is too slow to follow the gossip in time, or cut off
	Events    EventStats
}

// Stats says what has happened since Join.
func (m *Members) Stats() Stats {
	return Stats{
		Conflicts: m.counts.conflicts.Load(), Rejoins: m.counts.rejoins.Load(), Refused: m.counts.refused.Load(),
		Streams: m.counts.streams.Load(), Health: m.list.GetHealthScore(),
		Events: EventStats{
			Sent: m.events.count.sent.Load(), Received: m.events.count.received.Load(),
			Dropped: m.events.count.dropped.Load(), Refused: m.events.count.refused.Load(),
		},
	}
}

var (
	errTooLong = errors.New("cluster: it says more of itself than 512 bytes")
	errNowhere = errors.New("cluster: its address is outside the networks where members may be")
)

// NotifyAlive refuses who cannot be a member: it is not probed, not passed on and not seen again.
func (g gossip) NotifyAlive(n *memberlist.Node) error {
	if len(n.Meta) > metaMax {
		return errTooLong
	}
	return CheckName(n.Name)
}

// NotifyJoin, NotifyUpdate and NotifyLeave note what is heard.
func (g gossip) NotifyJoin(n *memberlist.Node) { g.hear(n) }

// NotifyUpdate is called for a changed meta only.
func (g gossip) NotifyUpdate(n *memberlist.Node) { g.hear(n) }

func (g gossip) hear(n *memberlist.Node) {
	m := g.m
	if n.Name == m.o.Name {
		return // who this member is it knows better
	}
	h := heard{address(n), bytes.Clone(n.Meta)}
	m.mu.Lock()
	m.others[n.Name] = h
	if _, was := m.lost[n.Name]; was {
		delete(m.lost, n.Name)
		m.reunited = time.Now()
	}
	m.mu.Unlock()
	poke(m.news)
}

// NotifyLeave is called for the dead and for those that left. Only of the latter gossip said before that they drain.
func (g gossip) NotifyLeave(n *memberlist.Node) {
	m := g.m
	m.mu.Lock()
	if h, ok := m.others[n.Name]; ok {
		delete(m.others, n.Name)
		m.lost[n.Name] = lost{h, time.Now()}
	}
	m.mu.Unlock()
	poke(m.news)
}

// NotifyConflict is called for each message about a name that two members claim. The first keeps it.
func (g gossip) NotifyConflict(first, second *memberlist.Node) {
	g.m.namesakes.heard(first, second, time.Now())
	if first.Name == g.m.o.Name {
		g.m.mu.Lock()
		g.m.contested = time.Now()
		g.m.mu.Unlock()
	}
	if n := g.m.counts.conflicts.Add(1); n&(n-1) == 0 { // the 1st, 2nd, 4th, 8th …: gossip repeats itself
		g.m.o.Log.Warn("cluster: two members have one name; the second is ignored until the first is gone: give each its own",
			zap.String("name", first.Name), zap.Stringer("first", address(first)), zap.Stringer("second", address(second)))
	}
}

// NodeMeta is what this member says of itself.
func (g gossip) NodeMeta(int) []byte {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	return encodeMeta(g.m.self)
}

// believe reads what was heard of a member.
func (m *Members) believe(name string, h heard) (Member, error) {
	member, err := decodeMeta(name, h.from.Addr(), h.meta)
	if err != nil {
		return Member{}, err
	}
	if to, err := netip.ParseAddrPort(member.Addr); err == nil && !m.allowed(to.Addr()) {
		return Member{}, errNowhere
	}
	return member, nil
}

// allowed says whether a member may be at ip.
func (m *Members) allowed(ip netip.Addr) bool {
	return len(m.o.Networks) == 0 ||
		slices.ContainsFunc(m.o.Networks, func(n netip.Prefix) bool { return n.Contains(ip.Unmap()) })
}

func address(n *memberlist.Node) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(ip.Unmap(), n.Port)
}
