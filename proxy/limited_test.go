package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy"
)

// limits is a store that has nothing, for an upstream that limits until a time and knows nothing either.
type limits struct {
	until time.Time
	whose string
	asked atomic.Int32
}

func (l *limits) say() error {
	l.asked.Add(1)
	if time.Now().Before(l.until) {
		return &cache.LimitedError{Registry: "docker.io", Whose: l.whose, Until: l.until}
	}
	return fmt.Errorf("docker.io/library/a:3: %w", cache.ErrNotFound) // a success would need content
}

func (l *limits) Stat(context.Context, cache.Ref) (cache.Found, error) { return cache.Found{}, l.say() }
func (l *limits) Open(context.Context, cache.Ref, cache.Want) (*cache.Blob, error) {
	return nil, l.say()
}

// Each kind of client is told in the way after which it stops, and all of them are told what there is to know.
func TestLimitedByClient(t *testing.T) {
	const bare, named, mirrored = "/v2/library/a/manifests/3", "/v2/docker.io/library/a/manifests/3", "/v2/library/a/manifests/3?ns=docker.io"
	for _, c := range []struct {
		userAgent, target string
		status            int
		code, client      string
		fallback          proxy.Fallback
	}{
		{"docker/20.10.24+dfsg1 go/go1.19.8 UpstreamClient(Docker-Client/20.10.24)", bare, 403, "TOOMANYREQUESTS", "docker", proxy.FallbackYes},
		{"docker/28.0.1 go/go1.23 containerd-client/2.0.3 storage-driver/overlayfs", mirrored, 403, "TOOMANYREQUESTS", "docker", proxy.FallbackMaybe},
		{"docker/28.0.1", named, 403, "TOOMANYREQUESTS", "docker", proxy.FallbackNo},
		{"containerd/v2.1.4", mirrored, 403, "TOOMANYREQUESTS", "containerd", proxy.FallbackMaybe},
		{"containerd/1.6.20~ds1", named, 403, "TOOMANYREQUESTS", "containerd", proxy.FallbackNo},
		{"buildkit/v0.19", mirrored, 403, "TOOMANYREQUESTS", "buildkit", proxy.FallbackYes},
		{"buildkit/v0.19", named, 403, "TOOMANYREQUESTS", "buildkit", proxy.FallbackNo},
		{"containers/5.24.1 (github.com/containers/image)", named, 403, "DENIED", "containers", proxy.FallbackMaybe},
		{"libpod/4.3.1", named, 403, "DENIED", "containers", proxy.FallbackMaybe},
		{"Buildah/1.28.2", named, 403, "DENIED", "containers", proxy.FallbackMaybe},
		{"cosign/v2.4 (linux; amd64) go-containerregistry/v0.20.2", named, 403, "DENIED", "go-containerregistry", proxy.FallbackNo},
		{"oras/1.2.0", named, 403, "TOOMANYREQUESTS", "oras", proxy.FallbackNo},
		{"Helm/3.17.0", named, 403, "TOOMANYREQUESTS", "helm", proxy.FallbackNo},
		{"curl/8.0", named, 429, "TOOMANYREQUESTS", "other", proxy.FallbackNo},
		{"", mirrored, 429, "TOOMANYREQUESTS", "other", proxy.FallbackMaybe},
	} {
		var seen proxy.Exchange
		store := &limits{until: time.Now().Add(time.Hour), whose: "192.0.2.1"}
		h := &proxy.Handler{Store: store, Names: names, Hold: 10 * time.Second, Observe: func(x proxy.Exchange) { seen = x }}
		r := httptest.NewRequest(http.MethodGet, c.target, nil)
		r.Header.Set("User-Agent", c.userAgent)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status || code(w.Body.String()) != c.code || w.Header().Get("Retry-After") == "" {
			t.Errorf("%q: %d %s %v", c.userAgent, w.Code, w.Body, w.Header())
		}
		if !strings.Contains(w.Body.String(), "docker.io limits 192.0.2.1 until 2") ||
			!strings.Contains(w.Header().Get("Cache-Status"), "detail=limited") {
			t.Errorf("%q: does not say what limits whom until when: %s %v", c.userAgent, w.Body, w.Header())
		}
		if want := (proxy.Refused{Client: c.client, Fallback: c.fallback}); seen.Limited == nil || *seen.Limited != want {
			t.Errorf("%q: %v, want %v", c.userAgent, seen.Limited, want)
		}
		if n := store.asked.Load(); n != 1 || seen.Held != 0 {
			t.Errorf("%q: the store was asked %d times in %v", c.userAgent, n, seen.Held)
		}
	}
}

// Who asks shortly before a limit ends waits for that, and asks once more; who would wait longer is refused at once.
func TestHeld(t *testing.T) {
	for name, c := range map[string]struct {
		hold, left time.Duration // left: until the limit ends; 0: nobody knows
		asked      int32
		status     int
	}{
		"ends in time":     {10 * time.Second, 9 * time.Second, 2, 404},
		"ends just then":   {10 * time.Second, 10 * time.Second, 2, 404},
		"ends too late":    {10 * time.Second, 10*time.Second + 1, 1, 429},
		"nobody is held":   {0, time.Second, 1, 429},
		"without a time":   {10 * time.Second, 0, 1, 429},
		"the time is over": {10 * time.Second, -time.Second, 2, 429},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen proxy.Exchange
				store := proxy.Store(&limits{until: time.Now().Add(c.left)})
				asked := &store.(*limits).asked
				if c.left <= 0 {
					f := &always{err: &cache.LimitedError{Registry: "docker.io"}}
					if c.left < 0 {
						f.err.Until = time.Now().Add(c.left)
					}
					store, asked = f, &f.asked
				}
				h := &proxy.Handler{Store: store, Names: names, Hold: c.hold, Observe: func(x proxy.Exchange) { seen = x }}
				began := time.Now()
				res, body := ask(t, h, http.MethodGet, "/v2/a/manifests/3")
				took := time.Since(began)
				if res.StatusCode != c.status || asked.Load() != c.asked {
					t.Errorf("%d %s after %d times", res.StatusCode, body, asked.Load())
				}
				if took > c.hold || c.asked == 2 && took < c.left || c.asked == 1 && took > 0 || seen.Held != took {
					t.Errorf("took %v, held %v", took, seen.Held)
				}
			})
		})
	}
}

// always fails in the same way each time.
type always struct {
	err   *cache.LimitedError
	asked atomic.Int32
}

func (c *always) Stat(context.Context, cache.Ref) (cache.Found, error) {
	c.asked.Add(1)
	return cache.Found{}, c.err
}

func (c *always) Open(context.Context, cache.Ref, cache.Want) (*cache.Blob, error) {
	c.asked.Add(1)
	return nil, c.err
}

// Who leaves waits no more.
func TestHeldLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &limits{until: time.Now().Add(9 * time.Second)}
		var seen proxy.Exchange
		h := &proxy.Handler{Store: store, Names: names, Hold: 10 * time.Second, Observe: func(x proxy.Exchange) { seen = x }}
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, leave)
		func() {
			defer func() { _ = recover() }() // the connection is to be cut
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/a/manifests/3", nil))
		}()
		if seen.Status != 499 || seen.Took != 2*time.Second || store.asked.Load() != 1 {
			t.Errorf("%d after %v, asked %d times", seen.Status, seen.Took, store.asked.Load())
		}
	})
}

// Of a thousand who come while nothing may be asked, as many wait as one machine can bear; the others hear at once.
// Those who waited do not ask in one moment.
func TestHeldAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &limits{until: time.Now().Add(5 * time.Second)}
		h := &proxy.Handler{Store: store, Names: names, Hold: 10 * time.Second}
		began := time.Now()
		var mu sync.Mutex
		status, when := map[int]int{}, map[time.Duration]int{}
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/a/manifests/3", nil))
				mu.Lock()
				defer mu.Unlock()
				status[w.Code]++
				when[time.Since(began).Truncate(100*time.Millisecond)]++
			})
		}
		all.Wait()
		if status[404] != 512 || status[429] != 488 || when[0] != 488 {
			t.Errorf("%v at %v", status, when)
		}
		for at, n := range when {
			if at > 0 && n > 150 {
				t.Errorf("%d asked again within 100 ms, %v after the begin", n, at)
			}
		}
		if last := time.Since(began); last > 6*time.Second+time.Millisecond {
			t.Errorf("the last waited for %v", last)
		}
		if _, body := ask(t, h, http.MethodGet, "/v2/a/manifests/3"); code(body) != "MANIFEST_UNKNOWN" {
			t.Error(body)
		}
	})
}
