package cluster

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"go.uber.org/zap"
)

const (
	// announceTime bounds how long a change of this member waits for its gossip to go out. Among 1,000 members a message
	// is sent 16 times, three each 200 ms; but one that has just joined passes on all that it has learned at the same time,
	// which among as many takes minutes.
	announceTime = 3 * time.Second
	// leaveTime bounds a leave whose context has no end.
	leaveTime = 5 * time.Second
	// farewells is how many members are told by TCP that this one goes: one that hears tells the others, and any of them
	// may be going itself.
	farewells = 3
)

// Leave tells the others that this member goes, so that none takes it for dead, and waits until they know: its gossip is
// out, or one of them has heard it by TCP. Set Draining, and let what has begun end, before. It takes at most five seconds.
func (m *Members) Leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	m.SetState(Draining)
	for !m.tell(ctx) { // before the farewell, which would take its place
	}
	m.mu.Lock()
	m.left = true
	m.mu.Unlock()
	m.publish()
	spoken, ok := m.turnToTell(ctx)
	defer spoken()
	if !ok || m.closed {
		return fmt.Errorf("cluster: %s has told nobody that it goes, for there was no time or it is closed already: %s", m.o.Name, unheard)
	}
	err := m.list.Leave(halfOf(ctx)) // the other half is for what follows
	if heard := m.farewell(ctx); err != nil && !heard {
		return fmt.Errorf("cluster: none of the others has heard that %s goes (%w): %s", m.o.Name, err, unheard)
	}
	return nil
}

// unheard is what becomes of who goes without a word.
const unheard = "they find out by themselves within half a minute, ask elsewhere meanwhile, and lose nothing by it"

// farewell has some members know by TCP that this one has left, which they pass on, and reports whether one has heard it.
// m.telling is full, so that m.running has not ended.
func (m *Members) farewell(ctx context.Context) (heard bool) {
	m.mu.Lock()
	var to []netip.AddrPort
	for _, h := range m.others {
		to = append(to, h.from)
	}
	m.mu.Unlock()
	rand.Shuffle(len(to), func(i, j int) { to[i], to[j] = to[j], to[i] })
	to = to[:min(len(to), farewells)]
	answers := make(chan bool, len(to))
	for _, one := range to {
		m.running.Go(func() {
			_, err := m.list.Join([]string{one.String()})
			answers <- err == nil
		})
	}
	for range to {
		select {
		case ok := <-answers:
			heard = heard || ok
		case <-ctx.Done():
			return heard
		}
	}
	return heard
}

// announceAll gossips what this member has to say until ctx ends.
func (m *Members) announceAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.announce:
			if !m.tell(ctx) {
				poke(m.announce)
			}
		}
	}
}

// tell gossips what this member says of itself, unless it has, and waits until it is out, for no more than half the time
// that there is. It reports false where it is to be said once more: memberlist drops it when a refutation, that this member
// is not dead, comes between the number that it takes for it and the lock.
func (m *Members) tell(ctx context.Context) bool {
	spoken, ok := m.turnToTell(ctx)
	defer spoken()
	m.mu.Lock()
	says, left := encodeMeta(m.self), m.left
	m.mu.Unlock()
	if !ok || m.closed || left || bytes.Equal(says, m.said) {
		return true
	}
	if err := m.list.UpdateNode(min(announceTime, halfOf(ctx))); err != nil {
		m.o.Log.Debug("cluster: the gossip of a change goes out late", zap.Error(err))
	}
	if !bytes.Equal(says, m.list.LocalNode().Meta) { // which nothing else changes
		return false
	}
	m.said = says // whenever it goes out: who leaves must not wait for the same twice
	return true
}

// turnToTell waits until m.telling is this caller's, until spoken, and reports whether it came to that before ctx ended.
func (m *Members) turnToTell(ctx context.Context) (spoken func(), ok bool) {
	select {
	case m.telling <- struct{}{}:
		return func() { <-m.telling }, ctx.Err() == nil
	case <-ctx.Done():
		return func() {}, false
	}
}

// halfOf is half of the time until ctx ends, and never none, which memberlist takes for no bound.
func halfOf(ctx context.Context) time.Duration {
	end, bounded := ctx.Deadline()
	if !bounded {
		return announceTime
	}
	return max(time.Until(end)/2, time.Millisecond)
}
