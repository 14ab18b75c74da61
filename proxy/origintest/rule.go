package origintest

import (
	"sync"
	"time"
)

// Rule spoils the answers to the requests that match it, all of them unless Once, Times, After or Nth say otherwise.
// Several rules may spoil one answer, in the order in which they were made.
//
//	o.When(origintest.Blob, origintest.GET).Once().CutAt(1 << 20)
type Rule struct {
	matches []Match

	mu      sync.Mutex // guards what follows
	spoils  []func(*answer)
	after   int // the first so many matches are spared
	times   int // then so many are spoiled; -1: all
	seen    int // matches so far
	ended   bool
	reached chan struct{}
	release chan struct{}
}

// When makes a rule for the requests that match. It does nothing until it is told what to do.
func (o *Origin) When(matches ...Match) *Rule {
	r := &Rule{matches: matches, times: -1, reached: make(chan struct{}), release: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rules = append(o.rules, r)
	return r
}

// Heal ends every rule and releases whom they hold.
func (o *Origin) Heal() {
	o.mu.Lock()
	rules := o.rules
	o.rules = nil
	o.mu.Unlock()
	for _, r := range rules {
		r.End()
	}
}

// Once spoils the first match only.
func (r *Rule) Once() *Rule { return r.Times(1) }

// Times spoils n matches and then no more.
func (r *Rule) Times(n int) *Rule { return r.set(func() { r.times = n }) }

// After spares the first n matches.
func (r *Rule) After(n int) *Rule { return r.set(func() { r.after = n }) }

// Nth spoils the n-th match only, counted from 1.
func (r *Rule) Nth(n int) *Rule { return r.After(n - 1).Times(1) }

// Seen is how many requests matched so far, spoiled or spared.
func (r *Rule) Seen() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

// Reached is closed once an answer came to where this rule cuts, stalls or hangs it for the first time.
func (r *Rule) Reached() <-chan struct{} { return r.reached }

// Release lets go on whom this rule's StallAt or Hang holds, now and from now on.
func (r *Rule) Release() { r.set(func() { closeOnce(r.release) }) }

// End makes the rule spoil no more, and releases whom it holds.
func (r *Rule) End() {
	r.set(func() {
		r.ended = true
		closeOnce(r.release)
	})
}

func (r *Rule) set(f func()) *Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	return r
}

func (r *Rule) arrive() { r.set(func() { closeOnce(r.reached) }) }

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// spoil adds something to do to answers.
func (r *Rule) spoil(f func(*answer)) *Rule {
	return r.set(func() { r.spoils = append(r.spoils, f) })
}

// due counts a match and returns what to do about it.
func (r *Rule) due() []func(*answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || len(r.spoils) == 0 {
		return nil
	}
	r.seen++
	if r.seen <= r.after || r.times >= 0 && r.seen > r.after+r.times {
		return nil
	}
	return r.spoils
}

// spoilsFor collects what the rules do to a request.
func (o *Origin) spoilsFor(req *Request) (spoils []func(*answer)) {
	o.mu.Lock()
	rules := o.rules
	o.mu.Unlock()
	for _, r := range rules {
		if all(r.matches, req) {
			spoils = append(spoils, r.due()...)
		}
	}
	return spoils
}

// hold waits until the rule lets go or the request ends.
func (r *Rule) hold(x *exchange) {
	r.arrive()
	select {
	case <-r.release:
	case <-x.r.Context().Done():
		x.abort()
	}
}

// sleep waits for d or the end of the request.
func (x *exchange) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-x.r.Context().Done():
		x.abort()
	}
}
