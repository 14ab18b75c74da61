package cluster

import (
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tidepool-oci/tidepool/cache"
)

const (
	// halfLife is how long it takes until what happened counts for half: long enough that what is hot is told from chance
	// at ten requests a second, and short enough to act while many nodes pull.
	halfLife = 10 * time.Second
	// leastWork is how much a member must have to do before it needs relief, in requests of late: below some seven a
	// second nobody does, and a mean of so few is chance.
	leastWork = 100
	// leastPart is how much of a member's work a blob must be: a copy of less is no relief.
	leastPart = 1. / 64
	// leastAsked is how often each of the others must ask for a blob of late, on average: a copy is for those who ask again,
	// and where every node of a cluster pulls the same image each asks once. In a registry's trace of 225,000 requests, with
	// 2 instead of 3 the busiest of 50 members has 1.22 times the mean and copies serve 15 % of the requests, with 3 it
	// has 1.23 and they serve 13 %, with 4 it has 1.29.
	leastAsked = 3
	// mostHeat is how many digests are remembered, at about 170 bytes each.
	mostHeat = 16 << 10
	// saidFor is how long what a member said of its work is believed, and fairFor how long a mean is used: among a
	// thousand members it takes a while to make.
	saidFor, fairFor = time.Minute, 100 * time.Millisecond
	// mostSaid bounds the members that are remembered; beyond it all begin anew.
	mostSaid = 2048
	// mostWork is more than anybody can have served of late.
	mostWork = 1 << 30
)

// Heat is what a member knows of how much it has to do, against the others, and what of. The owner of a blob is asked for
// it by all others, and so knows before any of them that it is hot, and whether it needs relief at all. Where it does, it
// has who asks keep a copy (cache.HotCopy), and who asks next, until it has no more to do than its bound. A nil Heat keeps
// nobody warm.
type Heat struct {
	View func() *View     // of the members
	Now  func() time.Time // nil: time.Now

	mu     sync.Mutex
	served func() uint64 // what this member has served from its own since its start; nil: nothing
	last   uint64        // of that
	work   tally         // what this member has served of late
	spared tally         // what the copies that were given will take from that
	asked  *simplelru.LRU[cache.Digest, *tally]
	claims map[string]claim                       // by member
	fair   float64                                // this member's part of all work, by its weight
	made   time.Time                              // when that was
	wanted *simplelru.LRU[cache.Digest, struct{}] // what their owners would have this member keep
}

// claim is what a member said of its work.
type claim struct {
	work float64
	at   time.Time
}

// tally is a count in which what is old counts for less.
type tally struct {
	n  float64
	at time.Time
}

func (t *tally) add(n float64, now time.Time) float64 {
	if d := now.Sub(t.at); d > 0 { // else a clock was set back
		t.n *= math.Exp2(-float64(d) / float64(halfLife))
	}
	t.n, t.at = t.n+n, now
	return t.n
}

// Follow has work be what a counter says of what this member serves from its own.
func (h *Heat) Follow(served func() uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.served = served
}

// Work is how many requests this member has served of late.
func (h *Heat) Work() int64 {
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(h.worked(h.now()))
}

func (h *Heat) now() time.Time {
	if h.Now == nil {
		return time.Now()
	}
	return h.Now()
}

// worked is the same. h.mu is held.
func (h *Heat) worked(now time.Time) float64 {
	if h.served == nil {
		return 0
	}
	n := h.served()
	h.last, n = n, n-h.last
	return h.work.add(float64(n), now)
}

// Hear notes what another member says of its work.
func (h *Heat) Hear(member string, work int64) {
	if h == nil || work < 0 || work > mostWork {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.claims == nil || len(h.claims) >= mostSaid {
		h.claims = map[string]claim{}
	}
	h.claims[member] = claim{float64(work), h.now()}
}

// hear notes it as it came.
func (h *Heat) hear(member, work string) {
	if n, err := strconv.ParseInt(work, 10, 64); err == nil {
		h.Hear(member, n)
	}
}

// Worth counts a question of another member for a blob that this one owns, and reports whether a copy is to be kept there.
func (h *Heat) Worth(d cache.Digest) bool {
	if h == nil {
		return false
	}
	v := h.View()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	n, work := h.note(d, now), h.worked(now)
	if v == nil || work < leastWork || n < leastPart*work || n < leastAsked*float64(len(v.Ring.members)-1) {
		return false
	}
	if spared := h.spared.add(0, now); work-spared <= bound*h.share(v, now) {
		return false
	}
	h.spared.add(n/float64(max(1, len(v.Ring.members)-1)), now) // one of those who ask no longer does
	return true
}

// note counts a question. h.mu is held.
func (h *Heat) note(d cache.Digest, now time.Time) float64 {
	if h.asked == nil {
		h.asked, _ = simplelru.NewLRU[cache.Digest, *tally](mostHeat, nil) // fails for a size below 1 only
	}
	t, ok := h.asked.Get(d)
	if !ok {
		t = new(tally)
		h.asked.Add(d, t)
	}
	return t.add(1, now)
}

// share is what this member would have to do if all had as much, by their weights. Those who have not said how much they
// have are left out. h.mu is held.
func (h *Heat) share(v *View, now time.Time) float64 {
	if d := now.Sub(h.made); d >= 0 && d < fairFor {
		return h.fair
	}
	mine, weight, work := 0, 0, 0.0
	for _, m := range v.Ring.members {
		switch c, ok := h.claims[m.Name]; {
		case m.Name == v.Self:
			mine, weight, work = m.Weight, weight+m.Weight, work+h.work.n
		case ok && now.Sub(c.at) < saidFor:
			weight, work = weight+m.Weight, work+c.work
		}
	}
	h.made, h.fair = now, math.Inf(1) // who is alone, or off the ring, has no share to be above
	if mine > 0 && weight > mine {
		h.fair = work * float64(mine) / float64(weight)
	}
	return h.fair
}

// mostWanted is how many blobs are remembered that are to be kept: those that are arriving.
const mostWanted = 1024

// want notes whether the owner of a blob would have this member keep it.
func (h *Heat) want(d cache.Digest, is bool) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !is && h.wanted != nil:
		h.wanted.Remove(d)
	case is:
		if h.wanted == nil {
			h.wanted, _ = simplelru.NewLRU[cache.Digest, struct{}](mostWanted, nil) // as above
		}
		h.wanted.Add(d, struct{}{})
	}
}

// wants reports it.
func (h *Heat) wants(d cache.Digest) bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wanted != nil && h.wanted.Contains(d)
}
