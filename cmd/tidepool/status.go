package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/metrics"
	"github.com/tidepool-oci/tidepool/proxy"
	"github.com/tidepool-oci/tidepool/proxy/admin"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

var errDraining = errors.New("shutting down")

// ready says whether clients should come.
func (r *running) ready() error {
	if r.draining.Load() {
		return errDraining
	}
	return nil
}

// health is how everything does. An upstream that is down is no illness of ours: what is held is served.
func (r *running) health() []admin.Check {
	checks := []admin.Check{{Name: "disk", Err: r.store.Health()}}
	if checks[0].Err == nil {
		checks[0].Err, checks[0].Mild = pinsFill(r.store.Stats()), true
	}
	if r.cluster != nil {
		checks = append(checks, admin.Check{Name: "cluster", Err: r.cluster.members.Trouble(), Mild: true})
	}
	for _, s := range r.hubs.Stats() {
		_, left := limitsOf(s)
		checks = append(checks, admin.Check{Name: "upstream " + s.Registry, Err: trouble(s), Mild: true, Note: left})
	}
	return checks
}

// pinsFill says that what is pinned leaves no room for anything else: a tenth of the disk holds no working set.
func pinsFill(s cache.Stats) error {
	if s.PinnedBytes < s.DiskBudget/10*9 || s.PinnedBytes == 0 {
		return nil
	}
	return fmt.Errorf("what is pinned takes %s of %s, so that hardly anything else is kept: give the store more (--disk), or unpin some of it",
		humanize.IBytes(positive(s.PinnedBytes)), humanize.IBytes(positive(s.DiskBudget)))
}

// trouble is what is wrong with an upstream.
func trouble(s upstream.Stats) error {
	var down []string
	if s.Offline {
		down = append(down, "offline: what is held is served, nothing is asked for")
	}
	for _, e := range s.Endpoints {
		if !e.Up {
			down = append(down, e.URL+" is down"+circuit(e)+": "+e.Error)
		}
	}
	for _, user := range s.Refused {
		down = append(down, fmt.Sprintf("the login %s is refused", user))
	}
	reached, _ := limitsOf(s)
	if down = append(down, reached...); down == nil {
		return nil
	}
	return errors.New(strings.Join(down, "; "))
}

// circuit is what there is to say of an endpoint that is not asked by everybody.
func circuit(e upstream.EndpointStats) string {
	switch {
	case e.Circuit == "half-open":
		return " (circuit half-open: the next request is a trial)"
	case !e.Until.IsZero():
		return " (circuit open until " + e.Until.UTC().Format(time.RFC3339) + ")"
	}
	return ""
}

// counted are the upstreams' counters. Those that no configuration names are one: clients could name any number.
func (r *running) counted() []metrics.Upstream {
	var all []metrics.Upstream
	others := metrics.Upstream{Name: "other"}
	for _, s := range r.hubs.Stats() {
		if r.cfg.Upstreams[s.Registry] == nil {
			others.Requests += s.Requests
			others.Failures += s.Failures
			others.LimitedPulls += s.LimitedPulls
			others.LimitedRequests += s.LimitedRequests
			others.Unasked += s.Unasked
			others.Bytes += s.Bytes
			others.Fetches += s.Fetches
			continue
		}
		u := metrics.Upstream{
			Name: s.Registry, Requests: s.Requests, Failures: s.Failures, Bytes: s.Bytes, Fetches: s.Fetches, Offline: s.Offline,
			LimitedPulls: s.LimitedPulls, LimitedRequests: s.LimitedRequests, Unasked: s.Unasked,
			Endpoints: endpoints(s), RefusedLogins: len(s.Refused),
		}
		all = append(all, u)
	}
	if r.cfg.AnyUpstream {
		all = append(all, others)
	}
	return all
}

// answer is an exchange at the door as metrics count it.
func answer(x proxy.Exchange) metrics.Answer {
	a := metrics.Answer{Tier: x.Tier, Status: x.Status, Bytes: x.Sent, Seconds: x.Took.Seconds(), First: x.First.Seconds()}
	if x.Ref.Registry != "" {
		a.Kind = x.Ref.Kind.String()
	}
	if x.Limited != nil {
		a.Limited = &metrics.Refused{Client: x.Limited.Client, Fallback: string(x.Limited.Fallback)}
	}
	a.Held = x.Held.Seconds()
	return a
}
