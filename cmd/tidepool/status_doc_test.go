package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/metrics"
	"github.com/tidepool-oci/tidepool/proxy/admin"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

var update = flag.Bool("update", false, "write testdata/status.json and status.txt")

// everything is a status in which every field says something.
func everything() status {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	entries, scanned, pinned := 1234, true, int64(5<<30)
	s := status{
		Schema: 1, Build: admin.Build{Version: "1.2.3", Revision: "abc", Go: "go1"}, Now: now, Started: now.Add(-50 * time.Hour),
		Hits: hits{Memory: 6000, Disk: 3000, Flight: 500, Peer: 200, Upstream: 300},
		Saved: savedStatus{
			Start: metrics.Sum{Pulls: 10, Bytes: 20 << 20}, Last: metrics.Sum{Pulls: 300, Bytes: 7 << 30}, Ever: metrics.Sum{Pulls: 40_000, Bytes: 1 << 40},
			Since: now.AddDate(0, -2, 0),
		},
		Downloads: 2,
		Cluster: &clusterStatus{Self: "a", Ring: 7, Asked: 1000, Silent: 3, Held: 20, Spilt: 4, Hub: 300, Trouble: "members are reached by TCP but not by UDP", Copies: copiesStatus{Replicas: 2, Given: 40, Bytes: 5 << 30, Failed: 1, Hot: 6 << 20}, Members: []memberStatus{
			{Name: "a", Addr: "10.0.0.1:7947", State: "ready", Zone: "north", Weight: 1, Share: 0.51, Version: "1.2.0", Busy: new(int64(3)), Disk: 30 << 30, Budget: 40 << 30},
			{Name: "b", Addr: "10.0.0.2:7947", State: "draining", Weight: 1, Share: 0.49, Version: "1.2.1"},
		}, Lost: []lostStatus{{Name: "c", Since: now.Add(-5 * time.Minute)}}},
		Disk:   tierStatus{Used: 30 << 30, Budget: 40 << 30, Entries: &entries, Scanned: &scanned, Pinned: &pinned, Error: "read-only file system"},
		Memory: tierStatus{Used: 32 << 20, Budget: 64 << 20},
	}
	for _, u := range []upstream.Stats{{
		Registry: "docker.io", Requests: 4321, Failures: 5, LimitedPulls: 6, LimitedRequests: 7, Unasked: 8, Bytes: 3 << 30, Fetches: 2,
		Refused: []string{`"robot"`},
		Endpoints: []upstream.EndpointStats{
			{URL: "https://a.test", Up: true, Circuit: "closed", Quiet: now.Add(time.Minute), Pace: upstream.Pace{Requests: 90, Window: time.Minute},
				Accounts: []upstream.AccountStats{
					{Account: "acme", Source: "192.0.2.7", Limit: 200, Remaining: 76},
					{Limit: -1, Remaining: -1, Source: "192.0.2.7", Blocked: now.Add(5*time.Hour + 3*time.Minute)},
				}},
			{URL: "https://b.test", Circuit: "open", Until: now.Add(12 * time.Second), Error: "connection \x1b[2Jrefused"},
		},
	}, {
		Registry: "ghcr.io", Offline: true, Endpoints: []upstream.EndpointStats{{URL: "https://ghcr.io", Up: true, Circuit: "closed"}},
	}} {
		s.Upstreams = append(s.Upstreams, statusOf(u, u.Registry == "docker.io"))
	}
	return s
}

// TestStatusForms: the document and the screen are what programs and people got used to.
func TestStatusForms(t *testing.T) {
	var doc, text, colours bytes.Buffer
	s := everything()
	for _, err := range []error{printJSON(&doc, s), screen(&text, s, false), screen(&colours, s, true)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, got := range map[string][]byte{"status.json": doc.Bytes(), "status.txt": text.Bytes()} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not this (-update writes it), %v:\n%s", path, err, got)
		}
	}
	if err := screen(full{}, s, false); !errors.Is(err, errFull) {
		t.Error(err)
	}
	if strings.Contains(text.String(), "\x1b") {
		t.Error("a terminal is driven where there is no colour")
	}
	bare := strings.NewReplacer(string(good), "", string(fair), "", string(bad), "", "\x1b[0m", "").Replace(colours.String())
	if bare != text.String() || !strings.Contains(colours.String(), string(bad)+"down, asked again") {
		t.Errorf("colours change more than the colour:\n%s", &colours)
	}
}

// TestStatusOfARunning: what happened is in the document, and nothing that is secret or a client's.
func TestStatusOfARunning(t *testing.T) {
	bubble(t, "and started again", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{Layers: []origintest.Layer{{Size: 10_000}}})
		o.RateLimit(100, 6*time.Hour, "192.0.2.7")
		o.RequireBasic()
		o.Account("acme", "hunter2")
		secret := filepath.Join(dir(t, true), "secret")
		if err := os.WriteFile(secret, []byte("hunter2"), 0o600); err != nil {
			t.Fatal(err)
		}
		w := inBubble(t, o, plan{
			hubs: map[string]string{"docker.io": "http://hub.test", "quay.io": "http://nowhere.test"},
			file: "upstreams:\n  docker.io: {cleartext_login: true, credentials: [{username: acme, password_file: '" + secret + "'}]}\n  quay.io: {offline: true}\n",
		})
		w.pulls("latest", img)
		w.pulls("latest", img)
		time.Sleep(90 * time.Second)
		s := w.status(t)
		u := named(t, s, "docker.io")
		if s.Now.Sub(s.Started) != 90*time.Second || s.Hits.Memory+s.Hits.Disk < 3 || s.Hits.Upstream < 3 || s.Saved.Start.Pulls == 0 ||
			s.Saved.Start != s.Saved.Last || s.Saved.Ever != w.saved.Report().Upstreams[0].Total || s.Disk.Used < 10_000 || s.Disk.Budget != 2<<30 || *s.Disk.Entries < 3 || !*s.Disk.Scanned || s.Memory.Budget == 0 {
			t.Errorf("%+v", s)
		}
		if a := u.Endpoints[0].Accounts; len(a) != 1 || *a[0].Limit != 100 || *a[0].Remaining < 90 || *a[0].Remaining == 100 || a[0].Account != "acme" || a[0].Source != "192.0.2.7" {
			t.Errorf("%+v", a)
		}
		if u.Requests < 3 || u.Received < 10_000 || !u.Configured || !u.Endpoints[0].Up || !named(t, s, "quay.io").Offline {
			t.Errorf("%+v", s.Upstreams)
		}
		w.close()
		w.open()
		next := w.status(t)
		if a := named(t, next, "docker.io").Endpoints[0].Accounts; next.Saved.Start.Pulls != 0 || next.Saved.Ever != s.Saved.Ever ||
			len(a) != 1 || *a[0].Remaining != *u.Endpoints[0].Accounts[0].Remaining {
			t.Errorf("after a restart: %+v", next)
		}
	})
}

func (w *pool) status(t *testing.T) (s status) {
	t.Helper()
	a := w.admin("/api/v1/status")
	a.is(t, 200)
	if err := json.Unmarshal(a.body, &s); err != nil || s.Schema != 1 {
		t.Errorf("%s, %v", a.body, err)
	}
	for _, word := range []string{"hunter2", "password", "pipe", "127.0.0.1", repo} {
		if strings.Contains(string(a.body), word) {
			t.Errorf("it tells of %q: %s", word, a.body)
		}
	}
	return s
}

func named(t *testing.T, s status, name string) upstreamStatus {
	t.Helper()
	for _, u := range s.Upstreams {
		if u.Name == name {
			return u
		}
	}
	t.Fatalf("no upstream %s in %+v", name, s.Upstreams)
	return upstreamStatus{}
}
