package cluster

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tidepool-oci/tidepool/cache"
)

const (
	// hot is how often a blob is asked of its owner before it is worth a copy here. In a registry's trace two thirds of
	// all blobs are asked for once, and who comes twice comes again.
	hot = 2
	// apart is how far apart two questions must be to count as two: ranges and resumptions are parts of one.
	apart = time.Second
	// coolAfter is when what was asked is forgotten.
	coolAfter = 24 * time.Hour
	// mostHeat is how many digests are remembered, at about 200 bytes each.
	mostHeat = 16 << 10
)

// heat counts how often blobs were asked of other members. The zero value is ready.
type heat struct {
	mu   sync.Mutex
	seen *simplelru.LRU[cache.Digest, warmth]
}

type warmth struct {
	times int
	last  time.Time
}

// note counts a question.
func (h *heat) note(d cache.Digest, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen == nil {
		h.seen, _ = simplelru.NewLRU[cache.Digest, warmth](mostHeat, nil) // fails for a size below 1 only
	}
	w, _ := h.seen.Get(d)
	switch age := now.Sub(w.last); {
	case w.times > 0 && age < apart:
		return
	case age > coolAfter:
		w.times = 0
	}
	h.seen.Add(d, warmth{w.times + 1, now})
}

// hot reports whether d is asked for often.
func (h *heat) hot(d cache.Digest) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen == nil {
		return false
	}
	w, _ := h.seen.Peek(d)
	return w.times >= hot
}
