package proxy

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Clients may take us for their proxy: they come as they would to a registry, with the login that they have for it. No
// other host is ever dialled for them. A client that asks for a tunnel (CONNECT) to a host that is an upstream's speaks
// TLS with ourselves in it, and what it asks for in it is read as if it had come by that host's name.

// Tunnels are the connections that began with CONNECT. They come in by a listener, so that the server of the door can
// serve them as it does all others, with the same limits, and ends them when it ends.
type Tunnels struct {
	certificate func(host string) (*tls.Certificate, error)
	conns       chan net.Conn
	shut        chan struct{}
	once        sync.Once
}

// NewTunnels returns tunnels at whose end certificate's are shown.
func NewTunnels(certificate func(host string) (*tls.Certificate, error)) *Tunnels {
	return &Tunnels{certificate: certificate, conns: make(chan net.Conn), shut: make(chan struct{})}
}

// Listener is where those come in who speak TLS in a tunnel. To close it refuses all that would come later.
func (t *Tunnels) Listener() net.Listener {
	return tls.NewListener(tunnelEnds{t}, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) { // of resumed sessions too
			host := hello.Conn.(*tunnel).host
			if hello.ServerName != "" && !strings.EqualFold(hello.ServerName, host) {
				return nil, fmt.Errorf("%q is asked for in a tunnel to %s", hello.ServerName, host)
			}
			return nil, nil
		},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return t.certificate(hello.Conn.(*tunnel).host)
		},
	})
}

// tunnelEnds is the listener below TLS.
type tunnelEnds struct{ *Tunnels }

func (t tunnelEnds) Accept() (net.Conn, error) {
	select {
	case c := <-t.conns:
		return c, nil
	case <-t.shut:
		return nil, net.ErrClosed
	}
}

func (t tunnelEnds) Close() error {
	t.once.Do(func() { close(t.shut) })
	return nil
}

// Addr names the way in, for messages.
func (t tunnelEnds) Addr() net.Addr { return inTunnel{} }

type inTunnel struct{}

func (inTunnel) Network() string { return "tcp" }
func (inTunnel) String() string  { return "the end of tunnels (CONNECT)" }

// tunnel is a connection whose client believes to be at target.
type tunnel struct {
	net.Conn
	target   string // as Names.Forward has it
	host     string // of target, without a port
	registry string
	early    []byte // what the client sent before it was answered
}

func (t *tunnel) Read(p []byte) (int, error) {
	if len(t.early) == 0 {
		return t.Conn.Read(p)
	}
	n := copy(p, t.early)
	if t.early = t.early[n:]; len(t.early) == 0 {
		t.early = nil
	}
	return n, nil
}

// tunnelOf is the tunnel that a request came by; nil: it came by none.
func tunnelOf(r *http.Request) *tunnel {
	c, ok := r.Context().Value(connKey{}).(*tls.Conn)
	if !ok {
		return nil
	}
	t, _ := c.NetConn().(*tunnel)
	return t
}

// target is host as Names.Forward has it: with its port only where that is not the one that the scheme means.
func target(host, port string) string { return strings.TrimSuffix(strings.ToLower(host), ":"+port) }

// stands is the upstream that the host means to which the client believes it speaks; "": that is none's.
func (n *Names) stands(r *http.Request) string {
	if t := tunnelOf(r); t != nil {
		return t.registry
	}
	if n.Forward != nil && r.URL.Host != "" {
		return n.Forward[target(r.URL.Host, "80")]
	}
	return n.byHost(r.Host)
}

var misdirected = verdict{421, "UNSUPPORTED", refused} // RFC 9110, section 15.5.20

// forward does what a proxy is asked to; over: the request is answered, or err says why it is not.
//
//go:noinline
func (h *Handler) forward(a *answer) (over bool, err error) {
	if h.Tunnels == nil {
		return false, nil
	}
	r, to := a.r, a.r.URL.Host
	switch t := tunnelOf(r); {
	case t != nil && target(r.Host, "443") != t.target:
		return true, refuse(misdirected, "this is a tunnel to %s, and %q is none of its names", t.host, short(r.Host))
	case t != nil:
		return false, nil
	case r.Method == http.MethodConnect && r.ContentLength != 0:
		return true, errBody // what follows would be read twice: as a body, and as what goes through the tunnel
	case r.Method == http.MethodConnect:
		return true, h.dig(a)
	case to != "" && (r.URL.Scheme != "http" || h.Names.stands(r) == ""):
		return true, noProxy(to)
	}
	return false, nil
}

func noProxy(to string) error {
	return refuse(denied, "%q is no upstream of this tidepool, which is a proxy to those alone: "+
		"name the host in the client's NO_PROXY, or add it under upstreams in tidepool's configuration", short(to))
}

// dig has the rest of a's connection be a tunnel to where the client wants.
func (h *Handler) dig(a *answer) error {
	t := &tunnel{target: target(a.r.URL.Host, "443")}
	if t.registry = h.Names.Forward[t.target]; t.registry == "" {
		return noProxy(a.r.URL.Host)
	}
	t.host = t.target
	if host, _, err := net.SplitHostPort(t.target); err == nil {
		t.host = host
	}
	t.host = strings.Trim(t.host, "[]") // of an IPv6 address
	conn, buffered, err := http.NewResponseController(a.w).Hijack()
	if err != nil {
		return err
	}
	a.begun, a.first, a.status = true, time.Now(), http.StatusOK
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	t.Conn, t.early = conn, append(t.early, early...)
	return h.Tunnels.enter(t)
}

// enter hands t to who serves it. It is closed if nobody does.
func (t *Tunnels) enter(c *tunnel) error {
	_ = c.SetWriteDeadline(time.Now().Add(headerTimeout)) // the kernel has room for a line, unless somebody means harm
	_, err := c.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
	if err == nil {
		err = c.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		_ = c.Close()
		return err
	}
	select {
	case t.conns <- c:
		return nil
	case <-t.shut:
		return c.Close()
	}
}
