package upstream_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// canary is a secret that must turn up nowhere but where it belongs.
const canary = "s3cr3t-c4n4ry-5d41402abc4b2a76"

// raw serves what no registry would answer and returns its address.
func raw(t testing.TB, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// keyPEM is the private key of a certificate as files have it.
func keyPEM(t testing.TB, pair tls.Certificate) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// front is a listener before a TLS server.
type front struct {
	net.Listener
	to      string
	refused atomic.Int64
	wg      sync.WaitGroup
}

// http2Only sends away whoever does not offer HTTP/2, as servers do that speak nothing else.
func http2Only(t testing.TB, to string) *front {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{Listener: l, to: to}
	f.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); f.wg.Wait() })
	return f
}

func (f *front) serve(c net.Conn) {
	defer c.Close()
	hello := make([]byte, 16<<10)
	n, err := c.Read(hello) // a ClientHello comes in one piece over loopback
	if err != nil {
		return
	}
	if !bytes.Contains(hello[:n], []byte("\x02h2")) {
		f.refused.Add(1)
		c.Write([]byte{21, 3, 3, 0, 2, 2, 120}) // alert, fatal, no_application_protocol (RFC 7301 section 3.2)
		return
	}
	splice(c, f.to, hello[:n])
}

// splice joins c and a new connection to addr until either ends.
func splice(c net.Conn, addr string, first []byte) {
	up, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer up.Close()
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(c, up); c.Close() })
	up.Write(first)
	io.Copy(up, c)
	up.Close()
	wg.Wait()
}

// proxy is an HTTP proxy that knows CONNECT, and leads everybody to one server.
type proxy struct {
	url   *url.URL
	mu    sync.Mutex
	names []string
}

func connectProxy(t testing.TB, to string) *proxy {
	p := &proxy{}
	var wg sync.WaitGroup
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.names = append(p.names, r.Host)
		p.mu.Unlock()
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			splice(c, to, nil)
		})
	}))
	t.Cleanup(func() { s.Close(); wg.Wait() })
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	p.url = u
	return p
}

func (p *proxy) choose(*http.Request) (*url.URL, error) { return p.url, nil }

func (p *proxy) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.names)
}
