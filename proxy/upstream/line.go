package upstream

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// line is an uplink, or an upstream's share of it: so many bytes a second for all downloads together, the most urgent
// first. A download waits after it has read, so that the kernel's buffers fill and the sender slows down.
type line struct {
	rate func(now time.Time) int64 // bytes per second; 0: as fast as they come

	mu      sync.Mutex // guards all below
	credit  float64    // bytes that may come at once; negative: that came too early
	at      time.Time  // when credit was right
	waiting []*waiter  // the most urgent first, and of those the first that came
	timer   *time.Timer
}

// waiter has read n bytes and may go on when go is closed.
type waiter struct {
	n       int
	urgency cache.Urgency
	free    chan struct{}
}

const (
	// lineBurst is how much of a second's bytes may come at once after a pause: a round trip's worth.
	lineBurst = 50 // a fiftieth
	// lineLook is how often at the least a line that somebody waits for looks at its rate, which depends on the hour.
	lineLook = time.Second
)

// take accounts for n bytes that have come, and returns when more may.
func (l *line) take(ctx context.Context, n int) error {
	if l == nil || n == 0 {
		return nil
	}
	w := l.enter(n, cache.UrgencyOf(ctx))
	if w == nil {
		return nil
	}
	select {
	case <-w.free:
		return nil
	case <-ctx.Done():
		l.leave(w)
		return context.Cause(ctx)
	}
}

// enter returns the place in the queue of one who must wait; nil where nobody need.
func (l *line) enter(n int, u cache.Urgency) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	rate := l.earn(time.Now())
	if rate == 0 {
		return nil
	}
	if l.credit > 0 && (len(l.waiting) == 0 || l.waiting[0].urgency > u) {
		l.credit -= float64(n)
		return nil
	}
	w := &waiter{n: n, urgency: u, free: make(chan struct{})}
	at := slices.IndexFunc(l.waiting, func(o *waiter) bool { return o.urgency > u })
	if at < 0 {
		at = len(l.waiting)
	}
	l.waiting = slices.Insert(l.waiting, at, w)
	l.arm(rate)
	return w
}

// leave takes a waiter out who has lost patience; what it has read has come all the same.
func (l *line) leave(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
		l.credit -= float64(w.n)
	}
}

// earn brings the credit up to now and returns the rate. l.mu is held.
func (l *line) earn(now time.Time) int64 {
	rate := l.rate(now)
	if !l.at.IsZero() {
		l.credit += now.Sub(l.at).Seconds() * float64(rate)
	}
	l.credit = min(l.credit, float64(rate/lineBurst))
	l.at = now
	return rate
}

// arm has the line looked at again when somebody may go on. l.mu is held.
func (l *line) arm(rate int64) {
	wait := lineLook
	if rate > 0 {
		wait = min(wait, time.Duration((1-l.credit)/float64(rate)*float64(time.Second))+time.Microsecond)
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.release)
		return
	}
	l.timer.Reset(wait)
}

// release lets go on who may.
func (l *line) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	rate := l.earn(time.Now())
	for len(l.waiting) > 0 && (l.credit > 0 || rate == 0) {
		w := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.credit -= float64(w.n)
		close(w.free)
	}
	if len(l.waiting) > 0 {
		l.arm(rate)
	}
}

// lines are those that an answer comes by.
type lines []*line

// take is line.take for each of them.
func (ls lines) take(ctx context.Context, n int) error {
	for _, l := range ls {
		if err := l.take(ctx, n); err != nil {
			return err
		}
	}
	return nil
}
