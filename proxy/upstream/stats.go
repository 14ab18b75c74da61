package upstream

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// Stats are one upstream's counters since start, and how its endpoints and logins do.
type Stats struct {
	Registry        string
	Requests        uint64 // sent, to endpoints, token servers and where they redirect to
	Failures        uint64 // that an endpoint is to blame for
	LimitedPulls    uint64 // pulls refused because of a limit on them
	LimitedRequests uint64 // requests refused because of a limit on requests of every kind
	Unasked         uint64 // requests not made because of a limit that was known
	Bytes           uint64 // of bodies received
	Fetches         int    // blob downloads under way
	Offline         bool   // nobody is asked, by the operator's word
	Endpoints       []EndpointStats
	Refused         []string // the usernames, in quotes, of logins that the registry refuses at present
}

// EndpointStats says how one endpoint does.
type EndpointStats struct {
	URL      string
	Up       bool
	Circuit  string    // closed, open (nobody is let through to it) or half-open (one is)
	Until    time.Time // of an open one: when it will be half-open
	Error    string    // the last failure of an endpoint that is not up
	Pace     Pace      // that is kept to at present, configured or learned; zero: none
	Quiet    time.Time // until then it is sent nothing; zero: it is
	Accounts []AccountStats
}

// AccountStats is what an endpoint said of the pulls that it grants.
type AccountStats struct {
	Account          string    // username; "" is nobody in particular
	Limit, Remaining int       // pulls in a window, and those left of them; -1: it did not say, or too long ago
	Source           string    // whom it counts, in its words: an address or an account
	Blocked          time.Time // until then it grants none; zero: it does
}

// counters are what a hub counts.
type counters struct {
	requests, failures, limitedPulls, limitedRequests, unasked, bytes atomic.Uint64
}

func (c *counters) read(n int) { c.bytes.Add(uint64(n)) }

func (h *hub) stats(now time.Time) Stats {
	s := Stats{
		Registry:        h.name,
		Requests:        h.count.requests.Load(),
		Failures:        h.count.failures.Load(),
		LimitedPulls:    h.count.limitedPulls.Load(),
		LimitedRequests: h.count.limitedRequests.Load(),
		Unasked:         h.count.unasked.Load(),
		Bytes:           h.count.bytes.Load(),
		Fetches:         len(h.slots),
		Offline:         h.offline.err() != nil,
		Refused:         h.keys.refused(),
	}
	for _, e := range h.endpoints {
		look := e.health.state(now)
		one := EndpointStats{
			URL: e.base.String(), Up: look.up && look.is == "closed", Circuit: look.is, Until: look.until, Error: look.why,
			Accounts: e.books.stats(now),
		}
		one.Pace, one.Quiet = e.pacer.kept(now)
		s.Endpoints = append(s.Endpoints, one)
	}
	return s
}

// stats are those accounts of which something is known.
func (b *books) stats(now time.Time) (all []AccountStats) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(b.all)) {
		if isGuest(name) {
			continue
		}
		l := b.all[name]
		others, _ := b.borrow(name, l, now)
		a := AccountStats{Account: name, Limit: -1, Remaining: -1, Source: l.source}
		if until := later(l.blocked, others); now.Before(until) {
			a.Blocked = until
		}
		if l.counts(now) {
			a.Limit, a.Remaining = int(l.limit), int(l.remaining)
		}
		if a.Limit >= 0 || !a.Blocked.IsZero() {
			all = append(all, a)
		}
	}
	return all
}
