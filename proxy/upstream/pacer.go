package upstream

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// Pace is a number of requests that is never exceeded in any stretch of time as long as the window. The zero Pace is no
// bound.
type Pace struct {
	Requests int
	Window   time.Duration
}

// slack is how much longer than its window a pace is kept: requests take unequally long to get there, so that those of
// two windows may arrive in one.
func (p Pace) slack() time.Duration { return min(time.Second, p.Window/20) }

// each is the time for one request at the pace.
func (p Pace) each() time.Duration { return p.Window / time.Duration(max(1, p.Requests)) }

const (
	// longestQueue bounds how long a request waits for its turn, so that one with a minute for all of it has half of
	// that left for the answer. Who would wait longer is told so at once.
	longestQueue = 30 * time.Second
	// defaultQuiet is how long an endpoint that refuses requests is left alone where it does not say: such limits count
	// by the minute.
	defaultQuiet = time.Minute

	// leastPace is the slowest that is learned: where few requests were sent before a refusal, others at the same
	// address have used the limit up, and how fast they go is not for us to make good.
	leastPace = 20
	// A pace that was learned holds for firstEase, grows by a quarter each hour from then on, and is forgotten after
	// forgetPace: whoever shares the address may be gone, and a limit that is still there is learned again at the price
	// of one refusal.
	firstEase, forgetPace = 2 * time.Hour, 12 * time.Hour

	// mostSent bounds the requests that are remembered where no pace asks for more of them.
	mostSent = 10_000
)

// pacer bounds the requests of every kind that go to one endpoint and its token server, for those that count them all
// by the address that they come from.
type pacer struct {
	mu      sync.Mutex // guards all below
	whole   Pace       // configured
	set     Pace       // of that, our part
	learnt  Pace       // what was sent in a minute that ended with a refusal, and a tenth less
	refused time.Time  // when it last was
	quiet   time.Time  // until then nothing is sent
	asked   time.Time  // of that, what the endpoint said to us
	sent    []time.Time
	queue   []*turn     // in the order in which they came
	wake    *time.Timer // nil: never needed
}

// turn is one request that waits.
type turn struct {
	urgency func() cache.Urgency // which may change while it waits
	over    chan struct{}        // closed when it may go, or when nobody may any more
	granted bool
}

// pass waits until a request may be sent, the most urgent first. Where it may not, until says when asking again makes
// sense.
func (p *pacer) pass(ctx context.Context) (until time.Time, ok bool) {
	u := cache.UrgencyOf(ctx)
	p.mu.Lock()
	now := time.Now()
	if now.Before(p.quiet) {
		defer p.mu.Unlock()
		return p.quiet, false
	}
	p.forget(now)
	ahead := p.ahead(u)
	at := p.free(now, u, ahead)
	if !at.After(now) && ahead == 0 {
		defer p.mu.Unlock()
		p.sent = append(p.sent, now)
		return time.Time{}, true
	}
	if at.Sub(now) > longestQueue {
		defer p.mu.Unlock()
		return at, false
	}
	t := &turn{urgency: func() cache.Urgency { return cache.UrgencyOf(ctx) }, over: make(chan struct{})}
	p.queue = append(p.queue, t)
	p.serve()
	p.mu.Unlock()
	return p.await(ctx, t)
}

// await waits for t's turn.
func (p *pacer) await(ctx context.Context, t *turn) (until time.Time, ok bool) {
	late := time.NewTimer(longestQueue)
	defer late.Stop()
	select {
	case <-t.over:
	case <-late.C:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.granted {
		return time.Time{}, true
	}
	p.leave(t)
	p.serve()
	now, u := time.Now(), t.urgency()
	return later(p.quiet, p.free(now, u, p.ahead(u))), false
}

// serve lets go whom it may, and comes back when the next may. mu is held.
func (p *pacer) serve() {
	now := time.Now()
	for len(p.queue) > 0 {
		t := slices.MinFunc(p.queue, func(a, b *turn) int { return int(a.urgency()) - int(b.urgency()) }) // the first of them
		if at := p.free(now, t.urgency(), 0); at.After(now) {
			p.serveIn(at.Sub(now))
			return
		}
		p.leave(t)
		p.sent = append(p.sent, now)
		t.granted = true
		close(t.over)
	}
	if p.wake != nil {
		p.wake.Stop()
	}
}

// leave takes t out of the queue. mu is held.
func (p *pacer) leave(t *turn) {
	p.queue = slices.DeleteFunc(p.queue, func(o *turn) bool { return o == t })
}

func (p *pacer) serveIn(d time.Duration) {
	if p.wake != nil {
		p.wake.Reset(d)
		return
	}
	p.wake = time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.serve()
	})
}

// free is when the next request of some urgency may be sent, with so many ahead of it. What nobody waits for leaves a
// quarter of the pace to those who do wait. mu is held.
func (p *pacer) free(now time.Time, u cache.Urgency, ahead int) time.Time {
	at := now
	for _, pace := range []Pace{p.set, p.eased(now)} {
		if u != cache.Interactive {
			pace.Requests -= pace.Requests / 4
		}
		if pace.Requests > 0 {
			at = later(at, p.when(now, pace, len(p.sent)+ahead))
		}
	}
	return at
}

// when is the time of the i-th request, counted from the first that is remembered, at a pace: a window after the one
// that must have left it by then. mu is held.
func (p *pacer) when(now time.Time, pace Pace, i int) time.Time {
	switch {
	case i < 0:
		return time.Time{}
	case i < len(p.sent):
		return p.sent[i]
	}
	return later(now, p.when(now, pace, i-pace.Requests).Add(pace.Window+pace.slack()))
}

// ahead is how many wait that go first. mu is held.
func (p *pacer) ahead(u cache.Urgency) (n int) {
	for _, t := range p.queue {
		if t.urgency() <= u {
			n++
		}
	}
	return n
}

// slowest is the pace that holds requests up; zero: none. mu is held.
func (p *pacer) slowest(now time.Time) Pace {
	a, b := p.set, p.eased(now)
	if a.each() >= b.each() {
		return a
	}
	return b
}

// eased is what is left at present of the pace that was learned. mu is held.
func (p *pacer) eased(now time.Time) Pace {
	calm := now.Sub(p.refused)
	if calm >= forgetPace {
		return Pace{}
	}
	pace := p.learnt
	if calm > firstEase {
		pace.Requests += pace.Requests * int((calm-firstEase)/time.Hour) / 4
	}
	return pace
}

// hush notes that the endpoint refuses requests of every kind until then (zero: it did not say), and learns from it.
// Those who wait are refused as well. The quiet lasts a little longer than was said, and not equally long for all who
// were refused at the same moment.
func (p *pacer) hush(until time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if until.IsZero() {
		until = now.Add(defaultQuiet)
	}
	until = later(until, now.Add(time.Second)) // "at once" would be refused again
	if !now.Before(p.quiet) {                  // else it is the answer to a request that was under way when the first came
		const minute = time.Minute
		n := len(p.sent) - p.firstSince(now.Add(-minute))
		p.learnt, p.refused = Pace{max(leastPace, n*9/10), minute}, now
		until = until.Add(rand.N(min(until.Sub(now)/10, defaultQuiet/10) + 1))
	}
	p.asked = later(p.quiet, until)
	p.hold(until)
	return p.quiet
}

// hold sends nothing until then; those who wait are refused. mu is held.
func (p *pacer) hold(until time.Time) {
	p.quiet = later(p.quiet, until)
	for _, t := range p.queue {
		close(t.over)
	}
	p.queue = nil
	p.serve()
}

// forget drops the requests that no pace counts any more. mu is held.
func (p *pacer) forget(now time.Time) {
	window := max(time.Minute, p.set.Window+p.set.slack())
	i := p.firstSince(now.Add(-window - time.Second))
	i = max(i, len(p.sent)-max(mostSent, p.set.Requests))
	p.sent = p.sent[i:]
}

// firstSince is the index of the first request that was sent after t. mu is held.
func (p *pacer) firstSince(t time.Time) int {
	i, _ := slices.BinarySearchFunc(p.sent, t, time.Time.Compare)
	return i
}

// kept is the pace that is kept to at present (zero: none), and until when nothing is sent at all (zero: something is).
func (p *pacer) kept(now time.Time) (pace Pace, quiet time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.quiet) {
		quiet = p.quiet
	}
	return p.slowest(now), quiet
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
