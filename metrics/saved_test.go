package metrics_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tidepool-oci/tidepool/metrics"
)

// at is a clock that a test sets.
type at struct{ time.Time }

func (a *at) now() time.Time { return a.Time }

func newSaved(t *testing.T, written []byte, clock *at) *metrics.Saved {
	t.Helper()
	s, err := metrics.NewSaved(written, clock.now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSaved: sums by upstream, repository and network, in all and for thirty days, kept over restarts.
func TestSaved(t *testing.T) {
	clock := &at{time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	s := newSaved(t, nil, clock)
	for range 100 { // days
		s.Add("docker.io", "library/alpine", "10.1.2.0/24", metrics.Sum{Pulls: 1, Bytes: 1000})
		s.Add("ghcr.io", "org/app", "10.1.2.0/24", metrics.Sum{Bytes: 7})
		clock.Time = clock.Add(24 * time.Hour)
	}
	clock.Time = clock.Add(-24 * time.Hour)
	written := s.Written()
	if s.Written() != nil {
		t.Error("written down twice")
	}
	s = newSaved(t, written, clock)
	r := s.Report()
	want := []metrics.SavedRow{
		{Name: "docker.io", Total: metrics.Sum{Pulls: 100, Bytes: 100_000}, Last: metrics.Sum{Pulls: 30, Bytes: 30_000}},
		{Name: "ghcr.io", Total: metrics.Sum{Bytes: 700}, Last: metrics.Sum{Bytes: 210}},
	}
	if !reflect.DeepEqual(r.Upstreams, want) || !r.Since.Equal(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("since %v: %+v", r.Since, r.Upstreams)
	}
	if len(r.Repositories) != 2 || r.Repositories[0].Name != "docker.io/library/alpine" {
		t.Errorf("%+v", r.Repositories)
	}
	if len(r.Clients) != 1 || r.Clients[0].Total != (metrics.Sum{Pulls: 100, Bytes: 100_700}) {
		t.Errorf("%+v", r.Clients)
	}
	if problems, err := testutil.GatherAndLint(gatherer(s)); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func gatherer(c prometheus.Collector) prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	return r
}

// TestSavedIsBounded: strangers name as many repositories as they like.
func TestSavedIsBounded(t *testing.T) {
	s := newSaved(t, nil, &at{time.Now()})
	for i := range 5000 {
		s.Add("docker.io", fmt.Sprint("library/", i), fmt.Sprint("10.", i, ".0.0/24"), metrics.Sum{Pulls: 1})
	}
	r := s.Report()
	if n := len(r.Repositories); n != 1001 || r.Repositories[0] != (metrics.SavedRow{Name: "other", Total: metrics.Sum{Pulls: 4000}, Last: metrics.Sum{Pulls: 4000}}) {
		t.Errorf("%d rows, the first is %+v", n, r.Repositories[0])
	}
}

// TestSavedFromAnything: what an earlier process wrote may be anything by now.
func TestSavedFromAnything(t *testing.T) {
	for _, written := range []string{"{", "[]", `{"schema":2}`, `{"schema":1,"upstreams":7}`, "\x00"} {
		s, err := metrics.NewSaved([]byte(written), time.Now)
		if err == nil {
			t.Errorf("%q is taken", written)
		}
		s.Add("docker.io", "library/a", "10.0.0.0/24", metrics.Sum{Pulls: 1})
		if r := s.Report(); len(r.Upstreams) != 1 || r.Upstreams[0].Total.Pulls != 1 {
			t.Errorf("%q: %+v", written, r)
		}
	}
	s := newSaved(t, []byte(`{"schema":1,"clients":{"x":null}}`), &at{time.Now()})
	s.Add("docker.io", "library/a", "x", metrics.Sum{Pulls: 1})
}
