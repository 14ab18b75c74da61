package main

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/metrics"
	"github.com/tidepool-oci/tidepool/proxy/admin"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// status is the document GET /api/v1/status. It holds no secret, and nothing of any client.
type status struct {
	Schema int `json:"schema"`
	admin.Build
	Now       time.Time        `json:"now"`
	Started   time.Time        `json:"started"`
	Hits      hits             `json:"hits"`
	Saved     savedStatus      `json:"saved"`
	Downloads int              `json:"downloads"` // under way
	Disk      tierStatus       `json:"disk"`
	Memory    tierStatus       `json:"memory"`
	Upstreams []upstreamStatus `json:"upstreams"`
	Cluster   *clusterStatus   `json:"cluster,omitempty"`
}

// hits are the answers since the start, by where their content came from.
type hits struct {
	Memory   uint64 `json:"memory"`
	Disk     uint64 `json:"disk"`
	Flight   uint64 `json:"flight"` // a download that was under way already
	Peer     uint64 `json:"peer"`   // another member of the cluster
	Upstream uint64 `json:"upstream"`
}

// savedStatus is what upstreams were spared.
type savedStatus struct {
	Start metrics.Sum `json:"since_start"`
	Last  metrics.Sum `json:"last_30_days"`
	Ever  metrics.Sum `json:"total"`
	Since time.Time   `json:"since"` // of the total
}

// tierStatus is how full a tier is.
type tierStatus struct {
	Used    int64  `json:"used_bytes"`
	Budget  int64  `json:"budget_bytes"`
	Entries *int   `json:"entries,omitempty"`
	Pinned  *int64 `json:"pinned_bytes,omitempty"` // of used, what is never evicted
	Scanned *bool  `json:"scanned,omitempty"`      // false: it is being read over after the start, and used grows
	Error   string `json:"error,omitempty"`        // what is wrong with it
}

type upstreamStatus struct {
	Name            string           `json:"name"`
	Configured      bool             `json:"configured"` // false: a client named it, and any_upstream allows it
	Offline         bool             `json:"offline"`
	Requests        uint64           `json:"requests"`
	Failures        uint64           `json:"failures"`
	LimitedPulls    uint64           `json:"limited_pulls"`
	LimitedRequests uint64           `json:"limited_requests"`
	Unasked         uint64           `json:"unasked"`
	Received        uint64           `json:"received_bytes"`
	Downloads       int              `json:"downloads"`
	RefusedLogins   []string         `json:"refused_logins,omitempty"`
	Endpoints       []endpointStatus `json:"endpoints"`
}

type endpointStatus struct {
	URL      string          `json:"url"`
	Up       bool            `json:"up"`
	Circuit  string          `json:"circuit"` // closed, half-open, open
	Until    time.Time       `json:"circuit_until,omitzero"`
	Error    string          `json:"error,omitempty"`
	Pace     *paceStatus     `json:"pace,omitempty"`
	Quiet    time.Time       `json:"quiet_until,omitzero"` // it refused requests of every kind: nothing is sent until then
	Accounts []accountStatus `json:"accounts,omitempty"`
}

// paceStatus is how many requests are let out in a time at most.
type paceStatus struct {
	Requests int     `json:"requests"`
	Window   float64 `json:"window_seconds"`
}

// accountStatus is what an endpoint said of the pulls that it grants.
type accountStatus struct {
	Account   string    `json:"account"`          // "": nobody in particular
	Source    string    `json:"source,omitempty"` // whom it counts, in its own words
	Limit     *int      `json:"limit,omitempty"`
	Remaining *int      `json:"remaining,omitempty"`
	Blocked   time.Time `json:"blocked_until,omitzero"` // none is granted until then
}

// beginning is how things stood when this process started, for what is told since then.
type beginning struct {
	at    time.Time
	saved metrics.Sum
}

// status reads the rooms.
func (r *running) status(ctx context.Context) status {
	now, store := time.Now(), r.store.Stats()
	var trouble string
	if err := cmp.Or(r.store.Health(), pinsFill(store)); err != nil {
		trouble = err.Error()
	}
	s := status{
		Schema: thisSchema, Build: build(), Now: now.UTC(), Started: r.began.at.UTC(),
		Hits: hits{
			Memory: store.Opened[cache.FromMemory], Disk: store.Opened[cache.FromDisk],
			Flight: store.Opened[cache.FromFlight], Peer: store.Opened[cache.FromPeer], Upstream: store.Opened[cache.FromUpstream],
		},
		Cluster: r.cluster.status(ctx),
		Saved:   saved(r.saved.Report()), Downloads: store.Flights,
		Disk:      tierStatus{Used: store.DiskBytes, Budget: store.DiskBudget, Entries: &store.DiskEntries, Scanned: &store.Scanned, Pinned: &store.PinnedBytes, Error: trouble},
		Memory:    tierStatus{Used: store.MemoryBytes, Budget: int64(r.cfg.Memory)},
		Upstreams: []upstreamStatus{}, // an empty list, not null
	}
	s.Saved.Start = metrics.Sum{Pulls: s.Saved.Ever.Pulls - r.began.saved.Pulls, Bytes: s.Saved.Ever.Bytes - r.began.saved.Bytes}
	for _, u := range r.hubs.Stats() {
		s.Upstreams = append(s.Upstreams, statusOf(u, r.cfg.Upstreams[u.Registry] != nil))
	}
	return s
}

// saved sums up what all upstreams were spared.
func saved(r metrics.SavedReport) (s savedStatus) {
	s.Since = r.Since
	for _, row := range r.Upstreams {
		s.Ever.Pulls, s.Ever.Bytes = s.Ever.Pulls+row.Total.Pulls, s.Ever.Bytes+row.Total.Bytes
		s.Last.Pulls, s.Last.Bytes = s.Last.Pulls+row.Last.Pulls, s.Last.Bytes+row.Last.Bytes
	}
	return s
}

func statusOf(s upstream.Stats, configured bool) upstreamStatus {
	u := upstreamStatus{
		Name: s.Registry, Configured: configured, Offline: s.Offline, Requests: s.Requests, Failures: s.Failures,
		LimitedPulls: s.LimitedPulls, LimitedRequests: s.LimitedRequests, Unasked: s.Unasked, Received: s.Bytes,
		Downloads: s.Fetches, Endpoints: []endpointStatus{},
	}
	for _, name := range s.Refused {
		if bare, err := strconv.Unquote(name); err == nil {
			name = bare // JSON has quotes of its own
		}
		u.RefusedLogins = append(u.RefusedLogins, name)
	}
	for _, e := range s.Endpoints {
		one := endpointStatus{URL: e.URL, Up: e.Up, Circuit: e.Circuit, Until: e.Until.UTC(), Error: e.Error, Quiet: e.Quiet.UTC()}
		if e.Pace.Requests > 0 {
			one.Pace = &paceStatus{e.Pace.Requests, e.Pace.Window.Seconds()}
		}
		for _, a := range e.Accounts {
			account := accountStatus{Account: a.Account, Source: a.Source, Blocked: a.Blocked.UTC()}
			if a.Limit >= 0 {
				account.Limit, account.Remaining = &a.Limit, &a.Remaining
			}
			one.Accounts = append(one.Accounts, account)
		}
		u.Endpoints = append(u.Endpoints, one)
	}
	return u
}
