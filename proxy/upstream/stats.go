package upstream

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Stats are one upstream's counters since start, and how its endpoints and logins do.
type Stats struct {
	Registry  string
	Requests  uint64 // sent, to endpoints, token servers and where they redirect to
	Failures  uint64 // that an endpoint is to blame for
	Limited   uint64 // refused because of a limit
	Bytes     uint64 // of bodies received
	Fetches   int    // blob downloads under way
	Limit     int    // pulls that the registry grants in a window, as it last said; -1: it did not
	Remaining int    // of them; -1: it did not say
	Offline   bool   // nobody is asked, by the operator's word
	Endpoints []EndpointStats
	Refused   []string // the usernames, in quotes, of logins that the registry refuses at present
}

// EndpointStats says how one endpoint does.
type EndpointStats struct {
	URL     string
	Up      bool
	Circuit string    // closed, open (nobody is let through to it) or half-open (one is)
	Until   time.Time // of an open one: when it will be half-open
	Error   string    // the last failure of an endpoint that is not up
}

// counters are what a hub counts.
type counters struct {
	requests, failures, limited, bytes atomic.Uint64
}

func (c *counters) read(n int) { c.bytes.Add(uint64(n)) }

// ledger is what a registry last said of its limit on pulls.
type ledger struct {
	told             atomic.Bool
	limit, remaining atomic.Int64
}

// note reads the headers that Docker Hub made customary: "ratelimit-limit: 100;w=21600".
func (l *ledger) note(header http.Header) {
	first := func(name string) (int64, bool) {
		v, _, _ := strings.Cut(header.Get(name), ";")
		return number(strings.TrimSpace(v))
	}
	limit, ok := first("Ratelimit-Limit")
	if !ok {
		return
	}
	remaining, ok := first("Ratelimit-Remaining")
	if !ok {
		return
	}
	l.limit.Store(limit)
	l.remaining.Store(remaining)
	l.told.Store(true)
}

func (h *hub) stats(now time.Time) Stats {
	s := Stats{
		Registry:  h.name,
		Requests:  h.count.requests.Load(),
		Failures:  h.count.failures.Load(),
		Limited:   h.count.limited.Load(),
		Bytes:     h.count.bytes.Load(),
		Fetches:   len(h.slots),
		Limit:     -1,
		Remaining: -1,
		Offline:   h.offline.err() != nil,
		Refused:   h.keys.refused(),
	}
	if h.ledger.told.Load() {
		s.Limit, s.Remaining = int(h.ledger.limit.Load()), int(h.ledger.remaining.Load())
	}
	for _, e := range h.endpoints {
		look := e.health.state(now)
		s.Endpoints = append(s.Endpoints, EndpointStats{
			URL: e.base.String(), Up: look.up && look.is == "closed", Circuit: look.is, Until: look.until, Error: look.why,
		})
	}
	return s
}
