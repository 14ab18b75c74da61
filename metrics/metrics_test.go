package metrics_test

import (
	"flag"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/metrics"
)

var update = flag.Bool("update", false, "write testdata/names.txt")

func example() *metrics.Metrics {
	saved, _ := metrics.NewSaved(nil, time.Now) // from nothing it does not fail
	saved.Add("docker.io", "library/alpine", "10.0.0.0/24", metrics.Sum{Pulls: 1, Bytes: 9})
	return metrics.New(metrics.Sources{
		Version: "1.2.3",
		Dropped: func() uint64 { return 8 },
		Saved:   saved,
		Warmed:  func() metrics.Warmed { return metrics.Warmed{Fetched: 1, Last: time.Unix(1e9, 0)} },
		Cluster: func() *metrics.Cluster {
			return &metrics.Cluster{Members: map[string]int{"ready": 3}, Ring: 4, Share: 0.3, Told: 5, Events: map[string]uint64{"sent": 2}}
		},
		Cache: func() cache.Stats {
			return cache.Stats{Opened: [5]uint64{1, 2, 3, 5, 4}, Fetched: 5, DiskBytes: 6, Scanned: true}
		},
		Upstreams: func() []metrics.Upstream {
			return []metrics.Upstream{
				{Name: "docker.io", Requests: 7, LimitedPulls: 1, LimitedRequests: 2, Unasked: 3, Endpoints: []metrics.Endpoint{{
					URL: "https://registry-1.docker.io", Up: true, Circuit: "closed", Pace: 1.5,
					Accounts: []metrics.Account{{Name: "acme", Limit: 100, Remaining: 76, Blocked: time.Unix(1e9, 0)}},
				}}},
				{Name: "quay.io", Offline: true, Endpoints: []metrics.Endpoint{{
					URL: "https://quay.io", Circuit: "open", Quiet: time.Unix(2e9, 0), Accounts: []metrics.Account{{Limit: -1, Remaining: -1}},
				}}},
			}
		},
	})
}

// Dashboards and alerts of others hold on to these names.
func TestNames(t *testing.T) {
	m := example()
	m.Observe(metrics.Answer{Kind: "blob", Tier: "disk", Status: 200, Bytes: 10, Seconds: 1, First: .1})
	m.Observe(metrics.Answer{Limited: &metrics.Refused{Client: "docker", Fallback: "yes"}})
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "tidepool_") {
			got = append(got, f.GetName()+" "+strings.ToLower(f.GetType().String()))
		}
	}
	slices.Sort(got)
	if *update {
		if err := os.WriteFile("testdata/names.txt", []byte(strings.Join(got, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/names.txt")
	if err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(got, "\n") + "\n"; s != string(want) {
		t.Errorf("the names have changed (go test ./metrics -update, and say so in the changelog):\n%s", s)
	}
	problems, err := testutil.GatherAndLint(m.Gatherer())
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestSamples(t *testing.T) {
	m := example()
	m.Observe(metrics.Answer{Kind: "blob", Tier: "disk", Status: 200, Bytes: 10, Seconds: 1, First: .1})
	m.Observe(metrics.Answer{Status: 404, Seconds: 1})
	m.Observe(metrics.Answer{Status: 403, Seconds: 9, Held: 8, Limited: &metrics.Refused{Client: "docker", Fallback: "yes"}})
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`tidepool_http_requests_total{kind="blob",status="200",tier="disk"} 1`,
		`tidepool_http_requests_total{kind="blob",status="200",tier="memory"} 0`,
		`tidepool_http_requests_total{kind="none",status="404",tier="none"} 1`,
		`tidepool_http_sent_bytes_total{kind="blob",tier="disk"} 10`,
		`tidepool_http_first_byte_seconds_count{kind="blob",tier="disk"} 1`,
		`tidepool_http_limited_refusals_total{client="docker",fallback="yes"} 1`,
		`tidepool_http_held_total 1`,
		`tidepool_cache_opened_total{tier="upstream"} 4`,
		`tidepool_cache_fetched_bytes_total 5`,
		`tidepool_disk_bytes 6`,
		`tidepool_log_dropped_total 8`,
		`tidepool_disk_scanned 1`,
		`tidepool_upstream_requests_total{upstream="docker.io"} 7`,
		`tidepool_upstream_limited_total{kind="pulls",upstream="docker.io"} 1`,
		`tidepool_upstream_limited_total{kind="requests",upstream="docker.io"} 2`,
		`tidepool_upstream_unasked_total{upstream="docker.io"} 3`,
		`tidepool_upstream_pulls_remaining{account="acme",endpoint="https://registry-1.docker.io",upstream="docker.io"} 76`,
		`tidepool_upstream_pulls_blocked_until_timestamp_seconds{account="acme",endpoint="https://registry-1.docker.io",upstream="docker.io"} 1e+09`,
		`tidepool_upstream_pace{endpoint="https://registry-1.docker.io",upstream="docker.io"} 1.5`,
		`tidepool_upstream_quiet_until_timestamp_seconds{endpoint="https://quay.io",upstream="quay.io"} 2e+09`,
		`tidepool_upstream_endpoint_up{endpoint="https://quay.io",upstream="quay.io"} 0`,
		`tidepool_upstream_endpoint_circuit{endpoint="https://quay.io",state="open",upstream="quay.io"} 1`,
		`tidepool_upstream_endpoint_circuit{endpoint="https://quay.io",state="closed",upstream="quay.io"} 0`,
		`tidepool_upstream_offline{upstream="docker.io"} 0`,
		`tidepool_upstream_offline{upstream="quay.io"} 1`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, w.Body)
		}
	}
	if strings.Contains(w.Body.String(), `tidepool_upstream_pull_limit{account="",endpoint="https://quay.io"`) {
		t.Error("a limit that was not told is shown")
	}
}
