package main

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// Four ways in, and the names that docker.io has: one cache. Whoever comes second, by whichever way, costs nothing.
func TestWaysInShareOneCache(t *testing.T) {
	ways := func(repo, rest string) [][]string {
		short := strings.TrimPrefix(repo, "library/")
		return [][]string{
			{"/v2/" + repo + "/" + rest}, {"/v2/" + short + "/" + rest},
			{"/v2/" + repo + "/" + rest + "?ns=docker.io"}, {"/v2/" + short + "/" + rest + "?ns=docker.io"},
			{"/v2/" + repo + "/" + rest + "?ns=index.docker.io"}, {"/v2/" + repo + "/" + rest + "?ns=registry-1.docker.io"},
			{"/v2/docker.io/" + repo + "/" + rest}, {"/v2/docker.io/" + short + "/" + rest},
			{"/v2/index.docker.io/" + repo + "/" + rest}, {"/v2/registry-1.docker.io/" + repo + "/" + rest},
			{"/docker.io/v2/" + repo + "/" + rest}, {"/docker.io/v2/" + short + "/" + rest},
			{"/v2/" + repo + "/" + rest, "Host", "hub.mirror.corp"}, {"/v2/" + repo + "/" + rest, "Host", "anything.else"},
		}
	}
	bubble(t, "docker.io", func(t *testing.T) {
		img := origintest.Build(origintest.Spec{})
		rests := []string{"manifests/latest", "manifests/" + img.Top.Digest.String(), "blobs/" + img.Blobs[0].Digest.String()}
		contents := []*origintest.Content{img.Top.Content, img.Top.Content, img.Blobs[0].Content}
		for first := range ways(repo, "") {
			o := origintest.New()
			o.Put(repo, "latest", img)
			w := inBubble(t, o, plan{file: "hosts: {hub.mirror.corp: docker.io}\n"})
			for i, rest := range rests {
				way := ways(repo, rest)[first]
				w.get(way[0], way[1:]...).brings(t, contents[i])
			}
			o.Forget()
			for i, rest := range rests {
				for _, way := range ways(repo, rest) {
					if a := w.get(way[0], way[1:]...); a.status != 200 || !slices.Equal(a.body, contents[i].Bytes()) {
						t.Errorf("%v: %v", way, a)
					}
				}
			}
			if n := o.Count(); n != 0 {
				t.Errorf("after %v, the others cost %v", ways(repo, rests[0])[first], asked(o))
			}
			w.close()
		}
	})
}

// A name leads to one upstream, and where that does not have it to no other; and only those who are configured are
// ever dialled.
func TestOneNameOneUpstream(t *testing.T) {
	bubble(t, "no fall-through", func(t *testing.T) {
		one, other, n := origintest.New(), origintest.New(), new(origintest.Net)
		other.PutImage("library/app", "latest", origintest.Spec{})
		other.PutImage("one.test/app", "latest", origintest.Spec{})
		origintest.ServeIn(t, n, "one.test:80", one)
		origintest.ServeIn(t, n, "other.test:80", other)
		var mu sync.Mutex
		dialled := map[string]bool{}
		w := fill(t, plan{
			net:  n,
			hubs: map[string]string{"docker.io": "http://one.test", "one.test": "http://one.test", "other.test": "http://other.test"},
			world: world{dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				dialled[addr] = true
				mu.Unlock()
				return n.DialContext(ctx, network, addr)
			}},
		})
		for _, path := range []string{
			"/v2/app/manifests/latest", "/v2/one.test/app/manifests/latest", "/v2/app/manifests/latest?ns=one.test",
			"/v2/other.test/app/manifests/latest?ns=one.test", "/one.test/v2/other.test/app/manifests/latest",
		} {
			w.get(path, "X-Forwarded-Host", "other.test", "Forwarded", "host=other.test").refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
		}
		for _, path := range []string{
			"/v2/nowhere.test/app/manifests/latest", "/v2/app/manifests/latest?ns=nowhere.test", "/nowhere.test/v2/app/manifests/latest",
			"/v2/app/manifests/latest?ns=one.test:81", "/v2/app/manifests/latest?ns=http://other.test",
		} {
			if a := w.get(path); a.status < 400 || a.status >= 500 || a.code() == "" {
				t.Errorf("%s: %v", path, a)
			}
		}
		if len(dialled) != 1 || !dialled["one.test:80"] || other.Count() > 0 {
			t.Errorf("dialled %v", dialled)
		}
	})
}

// A tidepool whose upstream is itself, or another that leads back to it, says so at once instead of going round.
func TestLoop(t *testing.T) {
	bubble(t, "itself", func(t *testing.T) {
		n := new(origintest.Net)
		w := fill(t, plan{net: n, hubs: map[string]string{"docker.io": "http://127.0.0.1:5000"}})
		w.loops(t)
	})
	bubble(t, "each other", func(t *testing.T) {
		n := new(origintest.Net)
		one := fill(t, plan{net: n, hubs: map[string]string{"docker.io": "http://127.0.0.1:6000"}})
		two := fill(t, plan{net: n, hubs: map[string]string{"docker.io": "http://127.0.0.1:5000"},
			flags: map[string][]string{"listen": {"127.0.0.1:6000"}, "admin": {"127.0.0.1:6001"}}})
		one.loops(t)
		two.loops(t)
	})
}

// loops checks that every way of asking ends soon, with words that help.
func (w *pool) loops(t *testing.T) {
	t.Helper()
	d := otherDigest
	for _, path := range []string{manifestPath("latest"), manifestPath(d), "/v2/" + repo + "/blobs/" + d,
		"/v2/" + repo + "/tags/list", "/v2/" + repo + "/referrers/" + d} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := w.do(method, path)
			if a.status < 500 || a.took > 3*time.Second {
				t.Errorf("%s %s: %v after %v", method, path, a, a.took)
			}
			if method == http.MethodGet && !strings.Contains(string(a.body), "loop") {
				t.Errorf("%s: does not say what is wrong: %s", path, a.body)
			}
			time.Sleep(2 * time.Second)
		}
	}
}

// A chain of tidepools is none: each keeps what goes through it, and what it costs the hub is what one would.
func TestChain(t *testing.T) {
	bubble(t, "two", func(t *testing.T) {
		o, n := origintest.New(), new(origintest.Net)
		img := o.PutImage(repo, "latest", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}})
		far := inBubble(t, o, plan{net: n})
		near := fill(t, plan{net: n, hubs: map[string]string{"docker.io": "http://127.0.0.1:5000"},
			flags: map[string][]string{"listen": {"127.0.0.1:6000"}, "admin": {"127.0.0.1:6001"}}})
		near.pulls("latest", img)
		if want := len(img.Manifests) + len(img.Blobs); o.Count(origintest.GET) != want || o.Count() != want {
			t.Errorf("%v", asked(o))
		}
		o.When().Drop()
		far.pulls("latest", img)
		far.close()
		near.pulls("latest", img)
	})
}

// Clients and upstreams by IPv4 and by IPv6, in every combination.
func TestBothFamilies(t *testing.T) {
	families := map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"}
	for client, listen := range families {
		for hub, at := range families {
			t.Run(client+" client, "+hub+" upstream", func(t *testing.T) {
				l, err := net.Listen("tcp", at)
				if err != nil {
					t.Skipf("this machine has no %s: %v", hub, err)
				}
				o := origintest.New()
				img := o.PutImage(repo, "latest", origintest.Spec{})
				server := o.Server()
				done := make(chan struct{})
				go func() { defer close(done); _ = server.Serve(l) }()
				t.Cleanup(func() { _ = server.Close(); <-done })
				w := fill(t, plan{hubs: map[string]string{"docker.io": "http://" + l.Addr().String()},
					flags: map[string][]string{"listen": {listen}, "admin": {"off"}}})
				w.pulls("latest", img)
			})
		}
	}
}

// No upstream at the start: it starts, says what is wrong, and pulls as soon as there is one. With what it holds it
// needs none.
func TestStartWithoutUpstream(t *testing.T) {
	bubble(t, "down", func(t *testing.T) {
		o, n := origintest.New(), new(origintest.Net)
		img := o.PutImage(repo, "latest", origintest.Spec{})
		w := fill(t, plan{net: n})
		w.admin("/readyz").is(t, http.StatusOK)
		w.get(manifestPath("latest")).refuses(t, http.StatusBadGateway, "UNAVAILABLE")
		hub := origintest.ServeIn(t, n, "hub.test:80", o)
		time.Sleep(2 * time.Second)
		w.pulls("latest", img)
		w.close()
		hub.Close()
		w.open()
		w.pulls("latest", img)
		time.Sleep(time.Hour)
		w.pulls("latest", img)
	})
}

// From the moment that it is told to stop, /readyz sends clients elsewhere, while those who still come are served.
func TestReadyEndsFirst(t *testing.T) {
	bubble(t, "drain", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		blob := o.PutBlob(repo, origintest.Synthetic(1, 1<<20))
		w := inBubble(t, o, plan{flags: map[string][]string{"shutdown-delay": {"10s"}}})
		stall := o.When(origintest.Of(blob.Digest())).StallAt(512 << 10)
		running := make(chan error)
		go func() { running <- w.fetch(t.Context(), blob, 0, -1) }()
		<-stall.Reached()
		w.admin("/readyz").is(t, http.StatusOK)
		stopped := make(chan struct{})
		go func() { defer close(stopped); w.close() }()
		time.Sleep(5 * time.Second)
		w.admin("/readyz").is(t, http.StatusServiceUnavailable)
		w.admin("/livez").is(t, http.StatusOK)
		w.pulls("latest", img)
		time.Sleep(7 * time.Second)
		if a := w.get(manifestPath("latest")); a.err == nil {
			t.Errorf("somebody new was served: %v", a)
		}
		stall.Release()
		if err := <-running; err != nil {
			t.Errorf("cut off: %v", err)
		}
		<-stopped
	})
}
