package main

import (
	"testing"

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
	const want = `https://b.corp is down: no route; the login "robot" is refused; the login (a token) is refused`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
