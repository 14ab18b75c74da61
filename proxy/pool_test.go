package proxy_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// pool is a whole tidepool before a hub, without a command line.
type pool struct {
	*origintest.Origin
	hub    *origintest.Server
	store  *cache.Cache
	url    string
	client *http.Client

	mu   sync.Mutex // guards seen
	seen []proxy.Exchange
	more sync.Cond
}

// start serves what o has, as docker.io and as hub.test.
func start(t *testing.T, o *origintest.Origin, change ...func(*cache.Options)) *pool {
	t.Helper()
	p := &pool{Origin: o, hub: origintest.Serve(t, o)}
	p.more.L = &p.mu
	hubs, err := upstream.New([]upstream.Config{
		{Name: "docker.io", Endpoints: []string{p.hub.URL}},
		{Name: "hub.test", Endpoints: []string{p.hub.URL}},
		{Name: "dead.test", Endpoints: []string{origintest.Dead(t)}},
	}, upstream.Options{ID: "pool"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hubs.Close() })
	options := cache.Options{Dir: t.TempDir(), Disk: 1 << 30, ScrubRate: -1}
	for _, c := range change {
		c(&options)
	}
	if p.store, err = cache.New(t.Context(), hubs, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.store.Close() })
	p.serve(t, &proxy.Handler{Store: p.store, Names: names, ID: "pool", Observe: p.observe})
	return p
}

// serve serves h as the product does, on a port of its own.
func (p *pool) serve(t *testing.T, h http.Handler) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.listen(t, h, proxy.Limit(l, 512, nil))
}

// listen serves h at l.
func (p *pool) listen(t *testing.T, h http.Handler, l net.Listener) {
	t.Helper()
	s := proxy.Server(h, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	p.url = "http://" + l.Addr().String()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	p.client = client
	t.Cleanup(func() {
		client.CloseIdleConnections()
		_ = s.Close()
		<-done
	})
}

func (p *pool) observe(x proxy.Exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, x)
	p.more.Broadcast()
}

// last waits until n requests are over and returns the last of them.
func (p *pool) last(n int) proxy.Exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.seen) < n {
		p.more.Wait()
	}
	return p.seen[n-1]
}

// answer is a response that was read to its end.
type answer struct {
	*http.Response
	body []byte
	err  error // of reading
}

// do asks with headers given as pairs.
func (p *pool) do(t *testing.T, method, path string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	res, err := p.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	a := answer{Response: res}
	a.body, a.err = io.ReadAll(res.Body)
	return a
}

func (p *pool) get(t *testing.T, path string, headers ...string) answer {
	t.Helper()
	return p.do(t, http.MethodGet, path, headers...)
}

// is checks the status and the body.
func (a answer) is(t *testing.T, status int, body []byte) {
	t.Helper()
	if a.StatusCode != status || a.err != nil || !bytes.Equal(a.body, body) {
		t.Errorf("%s %s: %d, %d bytes (%.200q), %v; want %d and %d bytes", a.Request.Method, a.Request.URL, a.StatusCode,
			len(a.body), a.body, a.err, status, len(body))
	}
}

// has checks headers given as pairs; "" means that there must be none.
func (a answer) has(t *testing.T, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := a.Header.Get(pairs[i]); got != pairs[i+1] {
			t.Errorf("%s %s: %s is %q, want %q", a.Request.Method, a.Request.URL, pairs[i], got, pairs[i+1])
		}
	}
}

func blob(name string, d cache.Digest) string     { return "/v2/" + name + "/blobs/" + d.String() }
func manifest(name string, d cache.Digest) string { return "/v2/" + name + "/manifests/" + d.String() }
