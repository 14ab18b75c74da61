package cluster

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tidepool-oci/tidepool/cache"
)

const (
	// hotShare is how much one blob may add to what its owner has to do for a member, as a part of what owners have to do
	// for it on average, before it is worth a copy: a quarter is what the bound on load allows (see bound). In a registry's
	// trace of 400,000 requests this keeps the busiest of 10 members at 1.23 times the mean, with 7 % of all requests served
	// from copies, and the busiest of 50 at 1.20; a copy of whatever is asked for twice would serve 30 %.
	hotShare = bound - 1
	// leastAsked is how many questions make an average, and mostAsked after how many all counts are halved.
	leastAsked, mostAsked = 1 << 10, 1 << 11
	// mostHeat is how many digests are remembered, at about 150 bytes each.
	mostHeat = 16 << 10
)

// HotAfter is how often a blob must be asked of its owner to be worth a copy at the member that asks, which asked so many
// questions of late, among so many members. In small clusters few blobs are.
func HotAfter(members, asked int) int {
	return max(2, int(hotShare*float64(max(asked, leastAsked))/float64(max(1, members-1))))
}

// heat counts what was asked of other members of late. The zero value is ready.
type heat struct {
	mu    sync.Mutex
	seen  *simplelru.LRU[cache.Digest, int]
	asked int
}

// note counts a question.
func (h *heat) note(d cache.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen == nil {
		h.seen, _ = simplelru.NewLRU[cache.Digest, int](mostHeat, nil) // fails for a size below 1 only
	}
	n, _ := h.seen.Get(d)
	h.seen.Add(d, n+1)
	if h.asked++; h.asked >= mostAsked {
		h.cool()
	}
}

// cool halves all counts. h.mu is held.
func (h *heat) cool() {
	h.asked /= 2
	for _, d := range h.seen.Keys() {
		if n, _ := h.seen.Peek(d); n > 1 {
			h.seen.Add(d, n/2)
		} else {
			h.seen.Remove(d)
		}
	}
}

// hot reports whether d is worth a copy among so many members.
func (h *heat) hot(d cache.Digest, members int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen == nil {
		return false
	}
	n, _ := h.seen.Peek(d)
	return n >= HotAfter(members, h.asked)
}
