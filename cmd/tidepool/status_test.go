package main

import (
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

func TestTrouble(t *testing.T) {
	if err := trouble(upstream.Stats{Endpoints: []upstream.EndpointStats{{URL: "https://a.corp", Up: true}}}); err != nil {
		t.Error(err)
	}
	err := trouble(upstream.Stats{
		Endpoints: []upstream.EndpointStats{{URL: "https://a.corp", Up: true}, {URL: "https://b.corp", Error: "no route"}},
		Refused:   []string{`"robot"`, "(a token)"}, // as Stats has them
	})
	quiet := time.Date(2000, 1, 1, 0, 1, 0, 0, time.UTC)
	limited := upstream.Stats{Endpoints: []upstream.EndpointStats{{
		URL: "https://a.corp", Up: true, Quiet: quiet, Pace: upstream.Pace{Requests: 90, Window: time.Minute},
		Accounts: []upstream.AccountStats{{Account: "acme", Source: "1.2.3.4", Limit: 200, Remaining: 20, Blocked: quiet}, {Limit: -1}},
	}}}
	const reached = "https://a.corp limits requests of every kind until 2000-01-01T00:01:00Z; " +
		"https://a.corp grants no pulls (acme, 1.2.3.4) until 2000-01-01T00:01:00Z"
	if err := trouble(limited); err == nil || err.Error() != reached {
		t.Errorf("got %v, want %s", err, reached)
	}
	if _, left := limitsOf(limited); left != "20 of 200 pulls left (acme, 1.2.3.4), at most 90 requests in 1m0s" {
		t.Error(left)
	}
	const want = `https://b.corp is down: no route; the login "robot" is refused; the login (a token) is refused`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
