package warm

import (
	"errors"
	"sync/atomic"
	"time"
)

// Stats are a Warmer's counters since start.
type Stats struct {
	Fetched, Unchanged, Failed uint64    // images
	Last                       time.Time // when an image was last dealt with; zero: none was
}

type counters struct {
	fetched, unchanged, failed atomic.Uint64
	last                       atomic.Int64 // Unix nanoseconds
}

// add counts the end of an image; one that was stopped goes on another time.
func (c *counters) add(e Event) {
	if errors.Is(e.Err, errStopped) {
		return
	}
	switch e.State {
	case Fetched:
		c.fetched.Add(1)
	case Unchanged:
		c.unchanged.Add(1)
	default:
		c.failed.Add(1)
	}
	c.last.Store(time.Now().UnixNano())
}

// Stats reads the counters.
func (w *Warmer) Stats() Stats {
	s := Stats{Fetched: w.count.fetched.Load(), Unchanged: w.count.unchanged.Load(), Failed: w.count.failed.Load()}
	if n := w.count.last.Load(); n != 0 {
		s.Last = time.Unix(0, n)
	}
	return s
}
