package cluster

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// Traffic counts what goes between this member and the others.
type Traffic struct {
	Busy     atomic.Int64  // answers to other members under way
	Sent     atomic.Uint64 // bytes of content to other members
	Received atomic.Uint64 // bytes of content from other members
	Refused  atomic.Uint64 // questions that no member asks, and askers that are none
}

const (
	// bound is how far above the mean of all a member's load may be before others are asked in its place (consistent
	// hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam, 2016; 1.25 is what load balancers use).
	bound = 1.25
	// leastLoad is what every member carries without help: a few requests are no load, and their mean is no measure.
	leastLoad = 8
	// loadAge is how long what a member said of its load is believed.
	loadAge = 3 * time.Second
)

// load is how busy a member is, as far as is known here: what it said with its last answer, or how many of its answers
// are being read here, whichever is more.
type load struct {
	mine atomic.Int64
	told atomic.Int64
	at   atomic.Int64 // when it was told, in nanoseconds since 1970
}

func (l *load) tell(n int64, now time.Time) {
	l.told.Store(n)
	l.at.Store(now.UnixNano())
}

func (l *load) now(now time.Time) int64 {
	n := l.mine.Load()
	if now.Sub(time.Unix(0, l.at.Load())) < loadAge {
		n = max(n, l.told.Load())
	}
	return n
}

// limitOf is how many requests in flight a member may have, of all that members together have.
func limitOf(sum int64, members int) int64 {
	return max(leastLoad, int64(math.Ceil(bound*float64(sum)/float64(max(1, members)))))
}

// spill asks the next member for a blob whose owner has more than its share to do. That one is asked all the same where
// the next does not hold it.
func (r *Router) spill(ctx context.Context, v *View, order []Member, q question) (a cache.Answer, ok bool) {
	if q.ref.Kind != cache.KindBlob || q.resolve || q.doubts > 0 || len(order) < 2 || order[0].Name == v.Self || order[1].Name == v.Self {
		return a, false
	}
	busy := r.loadOf(order[0])
	if busy < leastLoad { // as mostly: nobody's load need be looked at
		return a, false
	}
	limit := r.limit(v)
	if busy < limit || r.loadOf(order[1]) >= limit {
		return a, false
	}
	a, err := r.askHeld(ctx, order[1], q)
	if err == nil {
		r.count.held.Add(1)
		r.count.spilt.Add(1)
	}
	return a, err == nil
}

func (r *Router) loadOf(m Member) int64 { return r.Remotes.to(m).load.now(time.Now()) }

// limit is how many requests in flight a member may have before others are asked in its place.
func (r *Router) limit(v *View) (n int64) {
	var sum int64
	if t := r.Remotes.Traffic; t != nil {
		sum = t.Busy.Load()
	}
	for _, m := range v.Ring.members {
		if m.Name != v.Self {
			sum += r.loadOf(m)
		}
	}
	return limitOf(sum, len(v.Ring.members))
}
