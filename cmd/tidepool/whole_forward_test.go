package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

var forwarding = map[string][]string{"forward-proxy": {"true"}}

// dials notes where a tidepool connects to.
type dials struct {
	mu  sync.Mutex
	all []string
}

func (d *dials) by(n *origintest.Net) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d.mu.Lock()
		d.all = append(d.all, addr)
		d.mu.Unlock()
		return n.DialContext(ctx, network, addr)
	}
}

// only checks that nothing but addr was ever dialled.
func (d *dials) only(t *testing.T, addr string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.ContainsFunc(d.all, func(a string) bool { return a != addr }) {
		t.Errorf("dialled %v", d.all)
	}
}

// trusted is what a client makes of the authority in w's data directory.
func (w *pool) trusted(name string) *tls.Config {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.plan.dir, forwardCert))
	if err != nil {
		w.t.Fatal(err)
	}
	all := x509.NewCertPool()
	all.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: all, ServerName: name}
}

// proxied is a client that has w for its proxy, by HTTP/2 in the tunnels or not.
func (w *pool) proxied(h2 bool) *http.Client {
	c := w.newClient()
	tr := c.Transport.(*http.Transport)
	tr.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(w.url) }
	tr.TLSClientConfig, tr.ForceAttemptHTTP2 = w.trusted(""), h2
	return c
}

// tunnel is a connection after CONNECT, and the answer to that.
func (w *pool) tunnel(target string) (net.Conn, *http.Response) {
	w.t.Helper()
	conn, res, err := w.dig(target)
	if err != nil {
		w.t.Fatal(err)
	}
	return conn, res
}

// dig is tunnel where there may be none.
func (w *pool) dig(target string) (net.Conn, *http.Response, error) {
	w.t.Helper()
	dial := new(net.Dialer).DialContext
	if w.plan.net != nil {
		dial = w.plan.net.DialContext
	}
	conn, err := dial(w.t.Context(), "tcp", w.addr.String())
	if err != nil {
		return nil, nil, err
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\nProxy-Authorization: Basic c2VjcmV0\r\n\r\n", target); err != nil {
		return nil, nil, err
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), &http.Request{Method: http.MethodConnect})
	if err != nil || res.StatusCode == http.StatusOK { // the answer ends with its head
		return conn, res, err
	}
	var body bytes.Buffer
	_, _ = io.CopyN(&body, conn, 1<<10) // until the end
	res.Body = io.NopCloser(&body)
	return conn, res, nil
}

// As a proxy it is the registry itself, under each of its names, and one cache with all other ways in.
func TestForwardProxy(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		bubble(t, proto, func(t *testing.T) {
			o, n, d := origintest.New(), new(origintest.Net), new(dials)
			img := o.PutImage("library/app", "latest", origintest.Spec{})
			w := inBubble(t, o, plan{net: n, flags: forwarding, world: world{dial: d.by(n)}, file: "hosts: {hub.mirror.corp: docker.io}\n"})
			w.client = w.proxied(proto == "HTTP/2.0")
			for _, host := range []string{"https://registry-1.docker.io", "https://index.docker.io:443", "https://Docker.io", "https://hub.test",
				"https://hub.mirror.corp", "http://registry-1.docker.io", "http://docker.io:80"} {
				for _, path := range []string{"/v2/app/", "/v2/library/app/"} {
					w.get(host+path+"manifests/latest").brings(t, img.Top.Content)
					w.get(host+path+"manifests/"+img.Top.Digest.String()).brings(t, img.Top.Content)
					w.get(host+path+"blobs/"+img.Blobs[0].Digest.String()).brings(t, img.Blobs[0].Content)
				}
				w.get(host+"/v2/").is(t, http.StatusOK)
			}
			// The path has no registry: the name has decided.
			w.get("https://registry-1.docker.io/v2/ghcr.io/app/manifests/latest").refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
			if want := []string{"/v2/library/app/manifests/latest", "/v2/library/app/blobs/" + img.Blobs[0].Digest.String()}; o.Count(origintest.Repo("library/app")) != len(want) {
				t.Errorf("asked %v", asked(o))
			}
			res, err := w.ask(t.Context(), http.MethodGet, "https://docker.io/v2/")
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.Proto != proto {
				t.Errorf("spoken is %s", res.Proto)
			}
			d.only(t, "hub.test:80")
		})
	}
}

// Nobody is led anywhere else, by no spelling, and nothing is dialled.
func TestForwardProxyIsNotOpen(t *testing.T) {
	bubble(t, "refused", func(t *testing.T) {
		n, d := new(origintest.Net), new(dials)
		w := inBubble(t, origintest.New(), plan{net: n, flags: forwarding, world: world{dial: d.by(n)}, file: "any_upstream: true\n"})
		for _, target := range []string{"evil.test:443", "registry-1.docker.io:22", "registry-1.docker.io:80", "127.0.0.1:5001", "hub.test.:443",
			"registry-1.docker.io:443:443", "user@registry-1.docker.io:443", "xregistry-1.docker.io:443", "[::1]:443", "/v2/", ":443"} {
			_, res := w.tunnel(target)
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != http.StatusForbidden && res.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %d %s", target, res.StatusCode, body)
			}
		}
		_, res := w.tunnel("evil.test:443")
		if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "NO_PROXY") {
			t.Errorf("%d %s", res.StatusCode, body)
		}
		w.client = w.proxied(false)
		if a := w.get("https://evil.test/v2/"); a.err == nil || !strings.Contains(a.err.Error(), "Forbidden") {
			t.Errorf("%v", a)
		}
		for _, u := range []string{"http://evil.test/v2/app/manifests/latest", "http://docker.io:81/v2/", "http://127.0.0.1:5001/metrics"} {
			w.get(u).refuses(t, http.StatusForbidden, "DENIED")
		}
		w.get("https://docker.io/v2/app/manifests/latest", "Host", "ghcr.io").refuses(t, http.StatusMisdirectedRequest, "UNSUPPORTED")
		w.do(http.MethodConnect, "https://docker.io/v2/").is(t, http.StatusMethodNotAllowed)
		if d.only(t, "hub.test:80"); len(d.all) > 0 {
			t.Errorf("dialled %v", d.all)
		}
	})
	bubble(t, "off", func(t *testing.T) {
		w := inBubble(t, origintest.New())
		if _, res := w.tunnel("registry-1.docker.io:443"); res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%d", res.StatusCode)
		}
		if _, err := os.Stat(filepath.Join(w.plan.dir, forwardKey)); err == nil {
			t.Error("there is an authority all the same")
		}
	})
}

// What is not the TLS of the host that the tunnel is to ends it, silence too.
func TestNonsenseInTunnels(t *testing.T) {
	bubble(t, "nonsense", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage("library/app", "latest", origintest.Spec{})
		w := inBubble(t, o, plan{flags: forwarding})
		conn, _ := w.tunnel("docker.io:443")
		if err := tls.Client(conn, &tls.Config{ServerName: "ghcr.io", InsecureSkipVerify: true}).HandshakeContext(t.Context()); err == nil {
			t.Error("a handshake for another host is shaken")
		}
		for _, text := range []string{"", "rubbish\r\n\r\n", "GET /v2/ HTTP/1.1\r\nHost: docker.io\r\n\r\n", "\x16\x03\x01\xff\xff", strings.Repeat("\x16", 64<<10)} {
			conn, _ := w.tunnel("docker.io:443")
			go func() { _, _ = io.WriteString(conn, text) }() // it may be closed before all is read
			began := time.Now()
			answer, _ := io.ReadAll(conn)
			if took := time.Since(began); took > 6*time.Second || bytes.Contains(answer, []byte(" 200 ")) {
				t.Errorf("%.20q: after %v, %q", text, took, answer)
			}
		}
		conn, _ = w.tunnel("docker.io:443") // after the handshake the door's own limits hold
		inside := tls.Client(conn, w.trusted("docker.io"))
		began := time.Now()
		if _, err := io.WriteString(inside, "GET /v2/ HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, _ = io.ReadAll(inside); time.Since(began) > 6*time.Second {
			t.Errorf("half a request is waited for for %v", time.Since(began))
		}
		w.client = w.proxied(true)
		w.get("https://docker.io/v2/app/manifests/latest").brings(t, img.Top.Content)
	})
}

// A tidepool that ends waits for what is being pulled in tunnels, for no other tunnel, and keeps its authority.
func TestShutdownUnderTunnels(t *testing.T) {
	bubble(t, "drain", func(t *testing.T) {
		o := origintest.New()
		blob := o.PutBlob("library/app", origintest.Synthetic(1, 1<<20))
		w := inBubble(t, o, plan{flags: forwarding})
		before := w.trusted("")
		for _, file := range []string{forwardKey, forwardCert} {
			if info, err := os.Stat(filepath.Join(w.plan.dir, file)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
		}
		_, _ = w.tunnel("docker.io:443") // in which nothing is said
		idle, pulling := w.proxied(true), w.proxied(true)
		for _, c := range []*http.Client{idle, pulling} {
			w.client = c
			w.get("https://docker.io/v2/").is(t, http.StatusOK)
		}
		stall := o.When(origintest.Of(blob.Digest())).StallAt(512 << 10)
		pulled := make(chan answered, 1)
		go func() { pulled <- w.get("https://docker.io/v2/app/blobs/" + blob.Digest().String()) }()
		select {
		case <-stall.Reached():
		case a := <-pulled:
			t.Fatalf("it did not begin: %v", a)
		}
		stopped := make(chan error)
		go func() { stopped <- w.stop(context.WithoutCancel(t.Context())) }()
		time.Sleep(10 * time.Second)
		select {
		case err := <-stopped:
			t.Fatalf("it ended before the pull: %v", err)
		default:
		}
		stall.Release()
		(<-pulled).brings(t, blob)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		pulling.CloseIdleConnections()
		idle.CloseIdleConnections()
		w.open()
		w.client = w.proxied(false)
		w.client.Transport.(*http.Transport).TLSClientConfig = before
		w.get("https://docker.io/v2/").is(t, http.StatusOK)
	})
}

// Through a tunnel the client's own login arrives: who may has it, who may not does not, held or not, and is told what to
// do in the client's words.
func TestLoginsInTunnels(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		bubble(t, fmt.Sprint("HTTP/2: ", h2), func(t *testing.T) {
			h := callers(t, false, func(p *plan) { p.flags = forwarding })
			h.client = h.proxied(h2)
			for range 2 {
				for _, ref := range []string{"latest", h.img.Top.Digest.String()} {
					u := "https://corp.test/v2/" + secretRepo + "/manifests/" + ref
					h.get(u, as("bob")...).is(t, http.StatusForbidden)
					a := h.get(u)
					a.refuses(t, http.StatusUnauthorized, "UNAUTHORIZED")
					a.has(t, "Www-Authenticate", `Basic realm="tidepool"`)
					if !strings.Contains(string(a.body), "log in to corp.test itself") {
						t.Errorf("%s", a.body)
					}
					h.get(u, as("alice")...).brings(t, h.img.Top.Content)
				}
			}
			h.get("https://corp.test/v2/").is(t, http.StatusUnauthorized)
			h.get("https://docker.io/v2/").is(t, http.StatusOK)
		})
	}
}

// throughTunnels leads what is asked of w to where its Host says, by w as the proxy.
type throughTunnels struct {
	*http.Transport
	w *pool
}

func (u throughTunnels) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.URL.Host == u.w.adminAddr.String() {
		return u.Transport.RoundTrip(r)
	}
	if r.URL.Scheme, r.URL.Host = "https", r.Host; r.Host == u.w.addr.String() {
		r.URL.Host = "corp.test"
	}
	r.Host = ""
	return u.Transport.RoundTrip(r)
}

// All ways of asking, of all callers, in tunnels.
func TestCallersInTunnelsAreKeptApart(t *testing.T) {
	t.Parallel()
	bubble(t, "HTTP/2", func(t *testing.T) {
		callers(t, false, func(p *plan) {
			p.flags = forwarding
			p.wrap = func(w *pool, _ *http.Transport) http.RoundTripper {
				tr := w.proxied(true).Transport.(*http.Transport)
				tr.Proxy = func(r *http.Request) (*url.URL, error) {
					if r.URL.Scheme == "http" { // operators come in without
						return nil, nil
					}
					return url.Parse(w.url)
				}
				return throughTunnels{tr, w}
			}
		}).areKeptApart(false)
	})
}

// A proxy that is reached by TLS itself leads on too, to clients that would speak HTTP/2 with it and cannot.
func TestForwardProxyOverTLS(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{Layers: []origintest.Layer{{Size: 2 << 20, Form: origintest.Raw}}})
	d := newDoors(t)
	p := plan{hubs: map[string]string{"docker.io": origintest.Serve(t, o).URL}, flags: forwarding}
	d.open(&p)
	p.file = strings.Replace(p.file, "corp.test", "", 1)
	w := fill(t, p)
	for _, h2 := range []bool{false, true} {
		w.client = w.proxied(h2)
		both := w.client.Transport.(*http.Transport).TLSClientConfig.RootCAs
		both.AppendCertsFromPEM(d.ca.PEM())
		for _, b := range img.Blobs {
			w.get("https://docker.io/v2/app/blobs/"+b.Digest.String()).brings(t, b.Content)
		}
		if a := w.get("https://evil.test/v2/"); a.err == nil {
			t.Errorf("%v", a)
		}
		w.client.CloseIdleConnections()
	}
}

// A tunnel is one of its client's connections for as long as it lasts.
func TestTunnelsAreCounted(t *testing.T) {
	w := fill(t, plan{hubs: map[string]string{"docker.io": origintest.Serve(t, origintest.New()).URL}, flags: forwarding,
		file: "connections_per_client: 2\n"})
	for range 20 {
		first, second := w.comesIn(), w.comesIn()
		third, err := net.Dial("tcp", w.addr.String())
		if err == nil { // the kernel may have told of its end by now
			_, _ = io.WriteString(third, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
			_, err = third.Read(make([]byte, 1))
			_ = third.Close()
		}
		if err == nil {
			t.Error("a third connection is answered")
		}
		for _, c := range []net.Conn{first, second} {
			_, _ = io.WriteString(c, "rubbish\r\n\r\n")
			_, _ = io.ReadAll(c)
			_ = c.Close()
		}
	}
}

// comesIn is a tunnel, as soon as the end of earlier ones has been noticed.
func (w *pool) comesIn() net.Conn {
	w.t.Helper()
	for began := time.Now(); ; {
		c, res, err := w.dig("docker.io:443")
		if err == nil && res.StatusCode != http.StatusOK {
			w.t.Fatalf("no tunnel: %s", res.Status)
		}
		if err == nil {
			return c
		}
		if time.Since(began) > time.Minute {
			w.t.Fatalf("no tunnel ends: %v", err)
		}
	}
}
