package cluster

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// events are what members say to all others: each passes on what is news to it, a few times, and who was away is told
// the last words on everything when he meets another.
type events struct {
	self   string
	heard  func(context.Context, Event) // nil: nobody listens, and it is passed on all the same
	log    *zap.Logger
	spread memberlist.TransmitLimitedQueue

	inbox  chan []byte // as they came
	states chan []byte // what one that was met knows, as it came
	outbox chan []byte // our own, at a pace that the others accept

	mu      sync.Mutex // guards what follows. Taken under memberlist's lock, for a moment
	lasting journal
	hints   journal
	last    time.Time // of our last event

	pace  map[string]*rate.Limiter // by member; the listener's
	count struct{ sent, received, dropped, refused atomic.Uint64 }
}

const (
	// A member says at most sayRate events a second over time, sayBurst at once; more wait. It is heard at twice that,
	// for they do not arrive as evenly.
	sayRate, sayBurst = 25, 100
	// Who waits longer than queues allow is not lost: what lasts is in the journal.
	mostInbox, mostStates, mostOutbox = 1024, 8, 1024
	// mostSpread bounds what waits to be passed on; what was passed on most often goes first.
	mostSpread = 512
	// mostSayers bounds the members whose pace is followed: beyond it all begin anew.
	mostSayers = 1024
	// ahead is how far a member's clock may be ahead of ours: what is said to be later is refused, for it would count
	// for more than anything that is said until then.
	ahead = 10 * time.Minute
	// retransmits is how often each passes an event on, times the logarithm of how many members there are. With memberlist's
	// own for a local network, 4, one of 30 members missed one event of 60, and heard of it half a minute later.
	retransmits = 6
)

// EventStats count what was said.
type EventStats struct {
	Sent     uint64 // by this member
	Received uint64 // news from others, and done
	Dropped  uint64 // too many at a time
	Refused  uint64 // nothing that a member says
}

func newEvents(m *Members) *events {
	e := &events{
		self: m.o.Name, heard: m.o.Heard, log: m.o.Log,
		inbox: make(chan []byte, mostInbox), states: make(chan []byte, mostStates), outbox: make(chan []byte, mostOutbox),
		lasting: journal{most: mostLasting, life: lastingLife}, hints: journal{most: mostHints, life: hintLife},
		pace: map[string]*rate.Limiter{},
	}
	e.spread.NumNodes = func() int { return len(m.View().Members) }
	e.spread.RetransmitMult = retransmits
	return e
}

// Tell says e to all other members, and returns at once. From and At are filled in. Where there are more digests in it
// than find room, it becomes several.
func (m *Members) Tell(e Event) { m.events.tell(e) }

func (s *events) tell(e Event) {
	s.mu.Lock()
	e.From = s.self
	// A clock that was far ahead and was set right counts from now on: else nobody would hear us until it is there again.
	if e.At = time.Now().Round(0); !e.At.After(s.last) && s.last.Sub(e.At) <= ahead {
		e.At = s.last.Add(1)
	}
	raw, err := e.encode()
	if err == nil {
		s.last = e.At
		s.journal(e.Kind).add(word{e, raw}, e.At)
	}
	s.mu.Unlock()
	switch n := len(e.Digests); {
	case errors.Is(err, errLongEvent) && n > 1:
		first, second := e, e
		first.Digests, second.Digests = e.Digests[:n/2], e.Digests[n/2:]
		s.tell(first)
		s.tell(second)
	case err != nil:
		s.count.dropped.Add(1)
		s.log.Debug("not told to the other members", zap.Stringer("ref", e.Ref), zap.Error(err))
	default:
		s.count.sent.Add(1)
		s.put(s.outbox, raw)
	}
}

// journal is the one for a kind.
func (s *events) journal(k EventKind) *journal {
	if k.lasting() {
		return &s.lasting
	}
	return &s.hints
}

// put leaves b for another goroutine, if there is room.
func (s *events) put(to chan<- []byte, b []byte) {
	select {
	case to <- b:
	default:
		s.count.dropped.Add(1)
	}
}

// say has our own events spread until ctx ends.
func (s *events) say(ctx context.Context) {
	pace := rate.NewLimiter(sayRate, sayBurst)
	for {
		select {
		case raw := <-s.outbox:
			if pace.Wait(ctx) != nil {
				return
			}
			s.pass(raw)
		case <-ctx.Done():
			return
		}
	}
}

// listen takes in what others say until ctx ends.
func (s *events) listen(ctx context.Context) {
	for {
		select {
		case raw := <-s.inbox:
			s.hear(ctx, raw, false)
		case state := <-s.states:
			s.merge(ctx, state)
		case <-ctx.Done():
			return
		}
	}
}

// merge takes in what another member knows.
func (s *events) merge(ctx context.Context, state []byte) {
	for len(state) > 0 && ctx.Err() == nil {
		raw, rest, ok := cutWord(state)
		if !ok {
			s.count.refused.Add(1)
			return
		}
		s.hear(ctx, raw, true)
		state = rest
	}
}

// hear takes in one event. What came with all that a member knows is no flood: it is bounded already.
func (s *events) hear(ctx context.Context, raw []byte, met bool) {
	e, err := decodeEvent(raw)
	now := time.Now()
	if err != nil || e.At.Sub(now) > ahead {
		s.count.refused.Add(1)
		return
	}
	if !s.isNews(e, now) {
		return
	}
	if !met && !s.sayer(e.From).Allow() {
		s.count.dropped.Add(1)
		return
	}
	s.mu.Lock()
	s.journal(e.Kind).add(word{e, raw}, now)
	s.mu.Unlock()
	s.pass(raw)
	if e.From != s.self && s.heard != nil && e.Kind <= Limited {
		s.heard(ctx, e)
	}
	s.count.received.Add(1) // when what it asks for is done
}

func (s *events) isNews(e Event, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal(e.Kind).news(e, now)
}

// sayer is the pace at which a member is listened to.
func (s *events) sayer(name string) *rate.Limiter {
	l := s.pace[name]
	if l == nil {
		if len(s.pace) >= mostSayers {
			clear(s.pace)
		}
		l = rate.NewLimiter(2*sayRate, 2*sayBurst)
		s.pace[name] = l
	}
	return l
}

// pass has an event passed on.
func (s *events) pass(raw []byte) {
	s.spread.QueueBroadcast(spoken(raw))
	s.spread.Prune(mostSpread)
}

// spoken is an event on its way. None takes another's place: who has heard the later one passes over the earlier.
type spoken []byte

// Invalidates is never.
func (spoken) Invalidates(memberlist.Broadcast) bool { return false }

// Message is the event.
func (s spoken) Message() []byte { return s }

// Finished needs nothing done.
func (spoken) Finished() {}

// UniqueBroadcast says that memberlist need not look for others like it.
func (spoken) UniqueBroadcast() {}

// NotifyMsg is called for each event that arrives, and must not keep the message.
func (g gossip) NotifyMsg(b []byte) {
	if len(b) > eventMax {
		g.m.events.count.refused.Add(1)
		return
	}
	g.m.events.put(g.m.events.inbox, bytes.Clone(b))
}

// GetBroadcasts is what is to be passed on in a packet that has room for limit bytes.
func (g gossip) GetBroadcasts(overhead, limit int) [][]byte {
	return g.m.events.spread.GetBroadcasts(overhead, limit)
}

// LocalState is what another member is to know beside who there is: the last words.
func (g gossip) LocalState(bool) []byte {
	s, now := g.m.events, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hints.append(s.lasting.append(nil, now), now)
}

// MergeRemoteState is called with what another member knows.
func (g gossip) MergeRemoteState(b []byte, _ bool) {
	switch {
	case len(b) > stateMax:
		g.m.events.count.refused.Add(1)
	case len(b) > 0:
		g.m.events.put(g.m.events.states, bytes.Clone(b))
	}
}
