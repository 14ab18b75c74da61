package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/proxy/admin"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// recorder is a network that counts who opens a connection, and may swallow every attempt to.
type recorder struct {
	origintest.Net
	dials atomic.Int64
	hole  atomic.Bool
}

func (n *recorder) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.dials.Add(1)
	if n.hole.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return n.DialContext(ctx, network, addr)
}

// offline switches offline mode as an operator does, and returns what the answer says of it.
func (w *pool) offline(upstream, body string) (status int, all bool) {
	w.t.Helper()
	url := strings.TrimSuffix("http://"+w.adminAddr.String()+"/api/v1/offline/"+upstream, "/")
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPut, url, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	var doc struct {
		Schema  int
		Offline bool
	}
	if err := json.NewDecoder(res.Body).Decode(&doc); err != nil || doc.Schema != 1 {
		w.t.Errorf("no JSON of schema 1: %v", err)
	}
	return res.StatusCode, doc.Offline
}

// servesOffline checks that img is served under a tag, of whatever age, that nothing else is, and that nobody waits or
// is asked.
func (w *pool) servesOffline(t *testing.T, n *recorder, img, other *origintest.Image) {
	t.Helper()
	dials := n.dials.Load()
	for _, age := range []time.Duration{0, 10 * time.Minute, 0, time.Hour} {
		time.Sleep(age)
		began := time.Now()
		a := w.get(manifestPath("latest"))
		a.brings(t, img.Top.Content)
		if age > time.Minute && (a.header.Get("Warning") == "" || a.header.Get("Age") == "") {
			t.Errorf("does not say that it is stale: %v", a.header)
		}
		w.pulls("latest", img)
		for path, code := range map[string]string{
			manifestPath("other"): "MANIFEST_UNKNOWN", digestPath(other.Top.Digest): "MANIFEST_UNKNOWN",
			blobPath(other.Blobs[0].Digest): "BLOB_UNKNOWN", "/v2/library/none/tags/list": "NAME_UNKNOWN",
		} {
			a := w.get(path)
			a.refuses(t, http.StatusNotFound, code)
			a.has(t, "Retry-After", "", "Cache-Status", "tidepool; detail=offline")
			if !strings.Contains(string(a.body), "offline") || !strings.Contains(string(a.body), "while online") {
				t.Errorf("does not say why, or what to do: %s", a.body)
			}
		}
		list := w.get("/v2/" + repo + "/tags/list") // of what is held
		if list.is(t, http.StatusOK); string(list.body) != `{"name":"library/app","tags":["latest"]}` {
			t.Errorf("%s", list.body)
		}
		list.has(t, "Cache-Status", "tidepool; hit; detail=memory", "Age", "")
		if list.header.Get("Warning") == "" {
			t.Error("does not say that the list may be another")
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("somebody waited: %v", took)
		}
		w.admin("/healthz?verbose").is(t, http.StatusOK)
		w.admin("/metrics").is(t, http.StatusOK)
	}
	if n := n.dials.Load() - dials; n > 0 {
		t.Errorf("%d connections were opened", n)
	}
}

func TestOffline(t *testing.T) {
	bubble(t, "switched", func(t *testing.T) {
		n, o := new(recorder), origintest.New()
		img, other := o.PutImage(repo, "latest", origintest.Spec{}), o.PutImage(repo, "other", origintest.Spec{Seed: 1})
		core, lines := observer.New(zap.InfoLevel)
		w := inBubble(t, o, plan{net: &n.Net, world: world{dial: n.dial}, log: zap.New(core)})
		w.pulls("latest", img)
		for _, upstream := range []string{"", "docker.io"} {
			if status, all := w.offline(upstream, `{"offline": true}`); status != http.StatusOK || all != (upstream == "") {
				t.Errorf("%d, all: %v", status, all)
			}
			w.servesOffline(t, n, img, other)
			if a := w.admin("/healthz?verbose"); !strings.Contains(string(a.body), "[~] upstream docker.io: offline") {
				t.Errorf("%s", a.body)
			}
			w.offline(upstream, `{"offline": false}`)
		}
		time.Sleep(time.Minute) // longer than a name sulks
		w.pulls("other", other)
		if n := lines.FilterMessage("offline mode was switched").Len(); n != 4 {
			t.Errorf("%d lines for 4 changes", n)
		}
		if n := lines.FilterLoggerName("upstream").Len(); n != 4 {
			t.Errorf("%d lines of the upstreams", n)
		}
	})
	for name, p := range map[string]plan{
		"by the file": {file: "offline: true"},
		"one":         {file: "upstreams: {docker.io: {offline: true}}"},
		"by the flag": {flags: map[string][]string{"offline": {"true"}}},
	} {
		bubble(t, name, func(t *testing.T) {
			n, o := new(recorder), origintest.New()
			img, other := o.PutImage(repo, "latest", origintest.Spec{}), o.PutImage(repo, "other", origintest.Spec{Seed: 1})
			p.net, p.world.dial = &n.Net, n.dial
			before := inBubble(t, o, plan{net: p.net, world: p.world})
			before.pulls("latest", img)
			before.close()
			p.dir = before.plan.dir
			fill(t, p).servesOffline(t, n, img, other)
		})
	}
}

// What is held is pinned and warmed offline, whatever its age: that nobody is asked about it is as the operator wants it.
// What refers to it, and is not held, is pinned with it once its registry can be asked.
func TestPinnedOffline(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		signed := o.PutArtifact(repo, img.Top.Descriptor, "application/vnd.dev.sigstore.bundle.v0.3+json", origintest.Synthetic(8, 1<<10))
		w := inBubble(t, o)
		w.pulls("latest", img)
		w.offline("docker.io", `{"offline": true}`)
		time.Sleep(100 * 24 * time.Hour)
		for range 2 { // it is new, and it is there already
			ends, _ := w.warms(admin.WarmOrder{Images: []string{"app"}, Pin: true})
			if ended(t, ends, app+":latest", "unchanged", ""); !ends[app+":latest"].Pinned {
				t.Errorf("%+v", ends)
			}
		}
		ends, _ := w.warms(admin.WarmOrder{Images: []string{"app", "none"}})
		ended(t, ends, app+":latest", "unchanged", "")
		ended(t, ends, "docker.io/library/none:latest", "failed", "offline")
		if _, list := w.pinned(); len(list.Pins) != 1 || !list.Pins[0].Whole {
			t.Errorf("%+v", list)
		}
		w.offline("docker.io", `{"offline": false}`)
		w.warms(admin.WarmOrder{Images: []string{"app"}, Pin: true, Referrers: "never"})
		if w.store.Holds(signed.Top.Digest) {
			t.Error("its signature was asked for")
		}
		w.warms(admin.WarmOrder{Images: []string{"app"}, Pin: true})
		if !w.store.Holds(signed.Top.Digest) {
			t.Error("its signature is not here")
		}
		costs(t, o, "once that is pinned", func() { w.warms(admin.WarmOrder{Images: []string{"app"}, Pin: true}) })
	})
}

// A hub that swallows every packet: what is held is served as ever, and of what is not, one request waits for the
// time-out and the hundred after it for nothing, whatever they ask for.
func TestCircuitAtTheDoor(t *testing.T) {
	bubble(t, "black hole", func(t *testing.T) {
		n, o := new(recorder), origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		w := inBubble(t, o, plan{net: &n.Net, world: world{dial: n.dial}})
		w.pulls("latest", img)
		n.hole.Store(true)
		o.When().Hang()
		time.Sleep(2 * time.Minute) // the connections that were open are closed
		if a := w.get(manifestPath("nothing")); a.took != 5*time.Second {
			t.Errorf("the first: %v after %v", a, a.took)
		}
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				path := []string{manifestPath("more"), blobPath(origintest.Synthetic(uint64(i), 9).Digest())}[i%2]
				a := w.get(path)
				if a.refuses(t, http.StatusBadGateway, "UNAVAILABLE"); a.took > 0 || !strings.Contains(string(a.body), "asked again at") {
					t.Errorf("%v after %v: %s", a, a.took, a.body)
				}
			})
		}
		all.Wait()
		w.pulls("latest", img)
		if a := w.admin("/healthz?verbose"); !strings.Contains(string(a.body), "(circuit open until ") {
			t.Errorf("%s", a.body)
		}
		if a := w.admin("/metrics"); !strings.Contains(string(a.body), `tidepool_upstream_endpoint_circuit{endpoint="http://hub.test",state="open",upstream="docker.io"} 1`) {
			t.Error("the metrics do not say that the circuit is open")
		}
	})
}
