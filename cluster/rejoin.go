package cluster

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// memberlist forgets a member 30 seconds after its death, and two halves of a cluster that were apart for longer never
// look for each other again. So each member goes on calling those it has lost and those it was told to join.
const (
	// rejoinEvery is how often. Halves must meet within ten seconds of being able to, and a call that began just before
	// takes five of them (streamTime) to fail.
	rejoinEvery = 3 * time.Second
	// rejoinAtOnce bounds the calls of one round: of many lost members one that answers suffices, and eight drawn anew
	// each round find it.
	rejoinAtOnce = 8
	// rejoiners is how many members look in one round, on average: of a thousand all need not ask the name server, and
	// whoever finds the lost tells the others.
	rejoiners = 32
	// reunion is how long after one that was lost is back all look, for the rest: where half a cluster comes back at
	// once, some of that gossip is lost, and a full exchange would mend it only after minutes.
	reunion = time.Minute
	// seedAgain is when a seed that answered is called again though no member has its address, such as a balancer's.
	seedAgain = 30 * time.Second
	// contestedFor is how long a member whose name was claimed for another address calls those who are there: longer
	// than a round, for each that still believes the other says so again.
	contestedFor = 10 * time.Second
	// lostFor is how long a lost member is looked for. After a day its address is likely to be another's.
	lostFor = 24 * time.Hour
	// lostMost bounds the memory of them.
	lostMost = 1024
)

// lost is a member that died.
type lost struct {
	heard
	since time.Time
}

// leftWell says whether it had said that it would go.
func (m *Members) leftWell(name string, l lost) bool {
	last, err := m.believe(name, l.heard)
	return err == nil && last.State == Draining
}

// Lost are the members that went without a word and are looked for, by name, and since when: for a day.
func (m *Members) Lost() map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]time.Time{}
	for name, l := range m.lost {
		if !m.leftWell(name, l) {
			all[name] = l.since
		}
	}
	return all
}

// rejoinAll calls who is missing until ctx ends: at once, and then every o.Rejoin, give or take a quarter, so that
// members that started together do not call together.
func (m *Members) rejoinAll(ctx context.Context) {
	answered := map[netip.AddrPort]time.Time{} // seeds, and when
	var said complaint
	for {
		if m.looks() {
			m.rejoin(ctx, answered)
		}
		said.say(m.Trouble(), time.Now(), m.o.Log)
		pause := time.Duration((0.75 + rand.Float64()/2) * float64(m.o.Rejoin))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// looks says whether this member looks in this round.
func (m *Members) looks() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.others)
	return n < rejoiners || rand.IntN(n) < rejoiners || time.Since(m.reunited) < reunion || time.Since(m.contested) < contestedFor
}

// rejoin calls some of those who are missing, all at the same time.
func (m *Members) rejoin(ctx context.Context, answered map[netip.AddrPort]time.Time) {
	missing := m.missing(ctx, answered)
	rand.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
	missing = missing[:min(len(missing), rejoinAtOnce)]
	ok := make([]bool, len(missing))
	var calls sync.WaitGroup
	for i, to := range missing {
		calls.Go(func() { ok[i] = m.call(to) })
	}
	calls.Wait()
	m.counts.called(m.alone() && len(missing) > 0 && !slices.Contains(ok, true), time.Now())
	for i, to := range missing {
		if ok[i] {
			answered[to] = time.Now()
		}
	}
}

// alone reports whether no other member is known to be there.
func (m *Members) alone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.others) == 0
}

// call exchanges states with who is at to, twice: each of two that hold each other for dead hears so in the first, and
// says that it is not in the second.
func (m *Members) call(to netip.AddrPort) bool {
	for range 2 {
		if _, err := m.list.Join([]string{to.String()}); err != nil {
			m.o.Log.Debug("cluster: a member that is missing does not answer", zap.Stringer("address", to), zap.Error(err))
			return false
		}
	}
	m.counts.rejoins.Add(1)
	return true
}

// missing are the addresses of lost members, of seeds that are no member's, and, where others still hold this member's
// name for one that was elsewhere before, of one who is there: it hears of this one once it has seen the other's death.
// So where UDP does not get through: who exchanges states by TCP each round hears in seconds what would take minutes.
func (m *Members) missing(ctx context.Context, answered map[netip.AddrPort]time.Time) []netip.AddrPort {
	seeds := m.seeds(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left {
		return nil
	}
	there := map[netip.AddrPort]bool{m.here: true}
	for _, h := range m.others {
		there[h.from] = true
	}
	var missing []netip.AddrPort
	add := func(to netip.AddrPort) {
		if !there[to] && m.allowed(to.Addr()) {
			missing, there[to] = append(missing, to), true
		}
	}
	for name, l := range m.lost {
		if m.leftWell(name, l) || time.Since(l.since) > lostFor || len(m.lost) > lostMost {
			delete(m.lost, name)
		} else {
			add(l.from)
		}
	}
	if time.Since(m.contested) < contestedFor || m.counts.streaming(time.Now()) {
		for _, h := range m.others { // any of them
			missing = append(missing, h.from)
			break
		}
	}
	for to, when := range answered {
		if time.Since(when) > seedAgain {
			delete(answered, to)
		}
	}
	for _, to := range seeds {
		if answered[to].IsZero() {
			add(to)
		}
	}
	return missing
}
