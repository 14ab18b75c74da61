package sim

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
)

// told is what a member knows of the others where there is no gossip and the simulation tells, sooner or later.
type told struct {
	view atomic.Pointer[cluster.View]

	mu      sync.Mutex
	last    map[string]cluster.Member // what it was told last, or will be
	version uint64
	changed chan struct{} // closed at the next change of the view
}

// notice is how long it takes until a member hears what has changed, at most: gossip has found a death within it.
const notice = 6 * time.Second

// tell has every member hear of what has changed, each at a time of its own; at has it at once.
func (s *Sim) tell(at *running) {
	s.disturb()
	if s.o.Gossip {
		return
	}
	for _, r := range s.live() {
		all := s.around(r)
		delay := time.Duration(s.random.Int64N(int64(notice)))
		if r == at {
			delay = 0
		}
		r.told.hear(r.member.name, all, delay)
	}
}

// around are those whom a member can know of.
func (s *Sim) around(r *running) map[string]cluster.Member {
	all := map[string]cluster.Member{}
	for _, o := range s.live() {
		if o == r || s.net.connected(r.member.host(), o.member.host()) {
			all[o.member.name] = o.says()
		}
	}
	return all
}

// says is what a member says of itself.
func (r *running) says() cluster.Member {
	return cluster.Member{Name: r.member.name, Addr: r.member.addr(), Zone: r.member.zone, Weight: 1, State: cluster.State(r.state.Load())}
}

func (t *told) hear(self string, all map[string]cluster.Member, delay time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if maps.Equal(all, t.last) {
		return
	}
	t.version++
	t.last = all
	v := &cluster.View{Self: self, Ring: cluster.NewRing(slices.Collect(maps.Values(all))), Members: all, Version: t.version}
	if delay == 0 || t.view.Load() == nil {
		t.believe(v)
		return
	}
	time.AfterFunc(delay, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.believe(v)
	})
}

// believe makes v what is known, unless that is newer. t.mu is held.
func (t *told) believe(v *cluster.View) {
	if last := t.view.Load(); last != nil && last.Version >= v.Version {
		return
	}
	t.view.Store(v)
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *told) changes() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// agreed says whether each member knows those whom it can reach, and nobody else.
func (s *Sim) agreed() bool {
	for _, r := range s.live() {
		if !maps.EqualFunc(s.around(r), r.view().Members, same) {
			return false
		}
	}
	return true
}

func same(a, b cluster.Member) bool {
	return a.Name == b.Name && a.Addr == b.Addr && a.State == b.State && a.Zone == b.Zone
}

// cutAir has the gossip take the same ways as all else.
func (s *Sim) cutAir() {
	if !s.o.Gossip {
		return
	}
	s.air.Heal()
	for _, a := range s.members {
		for _, b := range s.members {
			if there, _ := s.net.open(a.host(), b.host()); !there {
				s.air.Cut([]netip.Addr{a.at}, []netip.Addr{b.at}, true)
			}
		}
	}
}
