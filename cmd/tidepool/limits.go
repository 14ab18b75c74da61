package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/metrics"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// limitsFile, in the data directory, is what is known of upstreams' limits.
const limitsFile = "limits.json"

func limitsPath(cfg config.Config) string { return filepath.Join(cfg.Data, limitsFile) }

// limits are what is known of upstreams' limits, as a state.
func limits(cfg config.Config, hubs *upstream.Hubs, log *zap.Logger) state {
	last := hubs.Ledger()
	return state{path: limitsPath(cfg), log: log, written: func() []byte {
		b := hubs.Ledger()
		if bytes.Equal(b, last) {
			return nil
		}
		last = b
		return b
	}}
}

// limitsOf says which of an upstream's limits are reached at present, and what is left of them.
func limitsOf(s upstream.Stats) (reached []string, left string) {
	var all []string
	for _, e := range s.Endpoints {
		if !e.Quiet.IsZero() {
			reached = append(reached, fmt.Sprintf("%s limits requests of every kind until %s", e.URL, clock(e.Quiet)))
		}
		for _, a := range e.Accounts {
			if !a.Blocked.IsZero() {
				reached = append(reached, fmt.Sprintf("%s grants no pulls%s until %s", e.URL, whose(a), clock(a.Blocked)))
			}
			if a.Limit >= 0 {
				all = append(all, fmt.Sprintf("%d of %d pulls left%s", a.Remaining, a.Limit, whose(a)))
			}
		}
		if p := e.Pace; p.Requests > 0 {
			all = append(all, fmt.Sprintf("at most %d requests in %v", p.Requests, p.Window))
		}
	}
	return reached, strings.Join(all, ", ")
}

// whose is the account that pulls are counted for, and the source that the registry names.
func whose(a upstream.AccountStats) string {
	var who []string
	for _, s := range []string{a.Account, a.Source} {
		if s != "" {
			who = append(who, s)
		}
	}
	if who == nil {
		return ""
	}
	return " (" + strings.Join(who, ", ") + ")"
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// endpoints are an upstream's as metrics show them.
func endpoints(s upstream.Stats) []metrics.Endpoint {
	var all []metrics.Endpoint
	for _, e := range s.Endpoints {
		one := metrics.Endpoint{URL: e.URL, Up: e.Up, Circuit: e.Circuit, Quiet: e.Quiet}
		if e.Pace.Requests > 0 {
			one.Pace = float64(e.Pace.Requests) / e.Pace.Window.Seconds()
		}
		for _, a := range e.Accounts {
			one.Accounts = append(one.Accounts, metrics.Account{Name: a.Account, Limit: a.Limit, Remaining: a.Remaining, Blocked: a.Blocked})
		}
		all = append(all, one)
	}
	return all
}
