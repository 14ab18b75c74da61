// Package hubtest is an internet of registries for tests: hosts by their real names and over TLS, behind a proxy on
// loopback, with the logins that the real ones have, in front of content that another registry serves.
//
// Its invariant: whatever is asked of a name is asked of the handler that a test has put there, and of nobody else; and
// every pass that a host accepts is one that a login of its own kind has given out.
package hubtest

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// Internet leads every name to a handler of this process. The zero value is not one: use Serve.
type Internet struct {
	ca     *origintest.CA
	hosts  *http.Server // all of them
	proxy  *http.Server
	addr   string // of hosts
	public string // of proxy

	mu      sync.Mutex // guards what follows
	by      map[string]http.Handler
	certs   map[string]*tls.Certificate
	strange []string
}

// Serve starts an internet without hosts, which ends with the test.
func Serve(t origintest.TB) *Internet {
	t.Helper()
	ca, err := origintest.NewCA()
	if err != nil {
		t.Fatalf("make a certificate authority: %v", err)
	}
	n := &Internet{ca: ca, by: map[string]http.Handler{}, certs: map[string]*tls.Certificate{}}
	quiet := log.New(io.Discard, "", 0) // connections are broken on purpose
	n.hosts = &http.Server{Handler: http.HandlerFunc(n.host), ErrorLog: quiet, TLSConfig: &tls.Config{GetCertificate: n.certificate}}
	n.proxy = &http.Server{Handler: http.HandlerFunc(n.connect), ErrorLog: quiet}
	n.addr = n.listen(t, func(l net.Listener) error { return n.hosts.ServeTLS(l, "", "") })
	n.public = n.listen(t, n.proxy.Serve)
	t.Cleanup(func() {
		_ = n.proxy.Close() // of no interest: they are gone
		_ = n.hosts.Close()
	})
	return n
}

func (n *Internet) listen(t origintest.TB, serve func(net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	go serve(l) // until Close
	return l.Addr().String()
}

// Host puts h at a name, "ghcr.io", or with another port than 443, "nexus.corp:8082".
func (n *Internet) Host(name string, h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.by[name] = h
}

// Proxy is the address for HTTPS_PROXY.
func (n *Internet) Proxy() string { return "http://" + n.public }

// Roots are the certificates that a client has to trust, as PEM, for SSL_CERT_FILE.
func (n *Internet) Roots() []byte { return n.ca.PEM() }

// Strange are the names that were asked for and are nobody's.
func (n *Internet) Strange() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.strange
}

func (n *Internet) lookUp(name string) http.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	name = strings.TrimSuffix(name, ":443")
	if n.by[name] == nil {
		n.strange = append(n.strange, name)
	}
	return n.by[name]
}

func (n *Internet) host(w http.ResponseWriter, r *http.Request) {
	h := n.lookUp(r.Host)
	if h == nil {
		w.WriteHeader(http.StatusMisdirectedRequest)
		return
	}
	h.ServeHTTP(w, r)
}

func (n *Internet) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.certs[hello.ServerName]; c != nil {
		return c, nil
	}
	c, err := n.ca.Issue(time.Now().Add(24*time.Hour), hello.ServerName)
	n.certs[hello.ServerName] = &c
	return &c, err
}

// connect is the proxy: it tunnels to hosts and to nobody else.
func (n *Internet) connect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect || n.lookUp(r.Host) == nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	to, err := net.Dial("tcp", n.addr)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer to.Close()
	w.WriteHeader(http.StatusOK)
	from, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer from.Close()
	go func() {
		_, _ = io.Copy(to, buffered) // it ends when either side does
		_ = to.Close()
	}()
	_, _ = io.Copy(from, to)
}
