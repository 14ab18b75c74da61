package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// circuit is an endpoint's health as its requests have shown it, so that what one of them has waited for in vain, the
// next need not. Closed, all go through. Open, all are refused at once, until it is time for another trial. Then it is
// half open: one request goes through, and what becomes of it decides.
//
// A failure that comes at once costs a client little and is often over with the next request: only several in a row
// open the circuit. Silence costs every client a whole time-out: it opens at once, unless others were answered
// meanwhile. What failed before that makes the endpoint one to be asked after the others.
type circuit struct {
	mu     sync.Mutex    // guards all below
	fails  int           // in a row
	failed time.Time     // the last of them
	retry  time.Time     // until then other endpoints are asked first
	why    string        // the last failure
	opened int           // how often in a row the circuit was opened; 0: it is closed
	ripe   time.Time     // of an open one: when there may be a trial
	heard  time.Time     // when content last began to come
	trial  chan struct{} // closed when the trial under way is over; nil: there is none
}

const (
	firstPause = time.Second      // after one failure: most are over at once
	longPause  = time.Minute      // an endpoint that came back is used again within a minute, where there are others
	longTrial  = 15 * time.Second // and where there are none, within this: a dead hub gets four requests a minute
	patience   = 3                // failures in a row, however quick, after which an endpoint is not asked by everybody

	// brief is how long a request waits for the outcome of another's trial: longer than the answer of a hub that is
	// well again, much shorter than any time-out.
	brief = time.Second
)

// rest doubles with each failure in a row, up to longest, with jitter so that not all who use an endpoint come back
// at the same moment.
func rest(n int, longest time.Duration) time.Duration {
	p := longest
	if n < 7 { // 2⁶ s is beyond a minute
		p = min(longest, firstPause<<(n-1))
	}
	return p/2 + rand.N(p/2+1)
}

// worked notes an answer and reports whether it is the first after failures.
func (c *circuit) worked() (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = c.fails > 0
	c.fails, c.opened, c.why, c.failed, c.retry = 0, 0, "", time.Time{}, time.Time{}
	c.end(c.trial)
	return first
}

// hear notes that content has begun to come: whatever becomes of it, nobody need be refused any more.
func (c *circuit) hear(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard, c.opened = now, 0
	c.end(c.trial)
}

// blame notes the failure of a request that began at a time; silent: nothing came within a time-out. It reports whether
// it is the first in a row, and whether it has opened the circuit that was closed before.
func (c *circuit) blame(began, now time.Time, why string, silent bool) (first, opens bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	silent = silent && !c.heard.After(began)
	c.why = why
	if began.Before(c.failed) && (c.opened > 0 || !silent) {
		return false, false // one trouble, however many it has struck
	}
	c.fails++
	c.failed, c.retry = now, now.Add(rest(c.fails, longPause))
	if silent || c.fails >= patience || c.opened > 0 {
		c.opened++
		c.ripe = now.Add(rest(c.opened, longTrial))
	}
	return c.fails == 1, c.opened == 1
}

// knock asks whether a request may go through. If ok, it must leave with mine when it is over. Else it is to wait for
// busy, the trial of another, or where that is nil is refused.
func (c *circuit) knock(now time.Time) (mine, busy chan struct{}, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.opened == 0:
		return nil, nil, true
	case now.Before(c.ripe) || c.trial != nil:
		return nil, c.trial, false
	}
	c.trial = make(chan struct{})
	return c.trial, nil, true
}

// leave ends a request that was let through.
func (c *circuit) leave(mine chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if mine != nil && mine == c.trial {
		c.end(mine)
	}
}

// end is called with mu held.
func (c *circuit) end(trial chan struct{}) {
	if trial != nil {
		close(trial)
		c.trial = nil
	}
}

// state is a look at a circuit.
type state struct {
	is     string // closed, open or half-open
	up     bool   // it is asked before those that are not
	failed time.Time
	until  time.Time // of an open one: when there is the next trial
	why    string
}

func (c *circuit) state(now time.Time) state {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := state{is: "closed", up: !now.Before(c.retry), failed: c.failed, why: c.why}
	switch {
	case c.opened > 0 && now.Before(c.ripe):
		s.is, s.up, s.until = "open", false, c.ripe
	case c.opened > 0:
		s.is = "half-open"
	}
	return s
}

// order says whom to ask: those that are up, in their order; then, of those that are not, the one whose failure is
// the oldest, so that something is always tried unless every circuit is open. skipped are the others, those first that
// will be asked the soonest.
func order(all []*endpoint, now time.Time) (ask, skipped []*endpoint) {
	var last *endpoint
	var oldest state
	for _, e := range all {
		s := e.health.state(now)
		if s.up {
			ask = append(ask, e)
			continue
		}
		skipped = append(skipped, e)
		if s.is != "open" && (last == nil || s.failed.Before(oldest.failed)) {
			last, oldest = e, s
		}
	}
	if last != nil {
		ask = append(ask, last)
		skipped = slices.DeleteFunc(skipped, func(e *endpoint) bool { return e == last })
	}
	slices.SortStableFunc(skipped, func(a, b *endpoint) int {
		return a.health.state(now).until.Compare(b.health.state(now).until)
	})
	return ask, skipped
}

// admit waits for an open circuit as long as is sensible: not at all where it is not time for a trial or where what is
// held will do, else briefly for the outcome of another's. A request that is let through calls leave when it is over.
func (h *hub) admit(ctx context.Context, e *endpoint) (leave func(), err error) {
	var late <-chan time.Time
	for {
		mine, busy, ok := e.health.knock(time.Now())
		switch {
		case ok:
			return func() { e.health.leave(mine) }, nil
		case busy == nil || cache.SpareOf(ctx):
			return nil, h.outage(e)
		case late == nil:
			t := time.NewTimer(brief)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-busy:
		case <-late:
			return nil, h.outage(e)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// outage is the refusal of a request that e is not asked for.
func (h *hub) outage(e *endpoint) error {
	now := time.Now()
	s := e.health.state(now)
	if s.until.IsZero() { // its trial is under way
		s.until = now.Add(brief)
	}
	return &fault{
		kind: cache.ErrUnavailable, cause: &cache.OutageError{Registry: h.name, Until: s.until, Why: s.why},
		text: fmt.Sprintf("%s is down, and is asked again at %s: %s", e.origin, s.until.UTC().Format(time.RFC3339), s.why),
	}
}
