package origintest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// TB is the part of testing.TB that is needed here.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Server is an origin that is being served at an address.
type Server struct {
	URL string // "http://127.0.0.1:1234"
	CA  *CA    // who signed the certificate; nil: plain http

	origin *Origin
	tls    *tls.Config
	http1  bool
	listen func() (net.Listener, error) // at the same address, again
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)

	mu      sync.Mutex // guards what follows
	closed  bool
	running *http.Server
	over    sync.WaitGroup // Serve, every connection and every handler
}

// Listen serves o on a free port of 127.0.0.1, over TLS where t is not nil.
func Listen(o *Origin, t *TLS) (*Server, error) {
	s := &Server{origin: o, dial: (&net.Dialer{}).DialContext, URL: "http://"}
	if t != nil {
		var err error
		if s.CA, s.tls, err = t.config(); err != nil {
			return nil, fmt.Errorf("make a certificate: %w", err)
		}
		s.URL, s.http1 = "https://", t.HTTP1
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	s.URL += addr
	s.listen = func() (net.Listener, error) { return net.Listen("tcp", addr) }
	s.serve(l)
	return s, nil
}

// Serve serves o on a free port of 127.0.0.1 until the test is over.
func Serve(t TB, o *Origin) *Server {
	t.Helper()
	return serve(t, o, nil)
}

// ServeTLS serves o by HTTP/2 and HTTP/1.1 over TLS until the test is over.
func ServeTLS(t TB, o *Origin, options TLS) *Server {
	t.Helper()
	return serve(t, o, &options)
}

func serve(t TB, o *Origin, options *TLS) *Server {
	t.Helper()
	s, err := Listen(o, options)
	if err != nil {
		t.Fatalf("serve the origin: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// ServeIn serves o in a Net as the plain http host addr ("hub.test:80") until the test is over.
func ServeIn(t TB, n *Net, addr string, o *Origin) *Server {
	t.Helper()
	l, err := n.Listen(addr)
	if err != nil {
		t.Fatalf("serve the origin: %v", err)
	}
	s := &Server{origin: o, dial: n.DialContext, URL: "http://" + addr}
	s.listen = func() (net.Listener, error) { return n.Listen(addr) }
	s.serve(l)
	t.Cleanup(s.Close)
	return s
}

// Dead returns the URL of a host that refuses every connection until the test is over: nobody listens on its port, and
// nobody else can, be it another test that asks for any free one, because a socket holds it.
func Dead(t TB) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatalf("make a socket: %v", err)
	}
	unix.CloseOnExec(fd)
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	return fmt.Sprintf("http://127.0.0.1:%d", addr.(*unix.SockaddrInet4).Port)
}

// Server returns an http.Server of this origin that knows its connections: they are counted and can be paced.
func (o *Origin) Server() *http.Server {
	return &http.Server{
		Handler:  o,
		ErrorLog: log.New(io.Discard, "", 0), // faults are meant
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, wireKey{}, &wire{conn: c})
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			o.log.change(func() { o.log.note(c, s) })
		},
	}
}

// wireKey finds the connection that a request came by in its context.
type wireKey struct{}

// wire is a connection and its timetable.
type wire struct {
	conn  net.Conn
	pacer pacer
}

// reset makes the connection end with a reset instead of a farewell.
func (w *wire) reset() {
	c := w.conn
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		// Of no interest where it fails: the connection is gone.
		_ = t.SetLinger(0)
	}
}

func (s *Server) serve(l net.Listener) {
	srv := s.origin.Server()
	srv.Handler = s.counted(srv.Handler)
	srv.ConnState = s.watched(srv.ConnState)
	srv.TLSConfig = s.tls.Clone()
	if s.http1 {
		srv.Protocols = new(http.Protocols)
		srv.Protocols.SetHTTP1(true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.running = false, srv
	s.over.Go(func() {
		// It ends by Close, or because the listener was closed under it: nobody to tell.
		if s.tls != nil {
			_ = srv.ServeTLS(l, "", "")
		} else {
			_ = srv.Serve(l)
		}
	})
}

// watched lets Close wait for connections. One that was accepted while the server closed is broken here: http.Server
// forgets it.
func (s *Server) watched(next func(net.Conn, http.ConnState)) func(net.Conn, http.ConnState) {
	return func(c net.Conn, state http.ConnState) {
		next(c, state)
		switch state {
		case http.StateNew:
			s.over.Add(1)
			if s.isClosed() {
				_ = c.Close() // of no interest: nobody uses it
			}
		case http.StateClosed, http.StateHijacked:
			s.over.Done()
		}
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// counted lets Close wait for handlers: over HTTP/2 they may outlive their connection.
func (s *Server) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.enter() {
			panic(http.ErrAbortHandler)
		}
		defer s.over.Done()
		h.ServeHTTP(w, r)
	})
}

// enter counts a handler, unless Close has begun to wait.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.over.Add(1)
	}
	return !s.closed
}

// Close breaks every connection, frees the address and waits until all is over. It may be called twice.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.running.Close() // of no interest: it is gone
	s.over.Wait()
}

// Reopen serves again at the address that Close freed: the hub is back.
func (s *Server) Reopen() error {
	l, err := s.listen()
	if err != nil {
		return fmt.Errorf("reopen %s: %w", s.URL, err)
	}
	s.serve(l)
	return nil
}

// Addr is the host and port of URL.
func (s *Server) Addr() string {
	_, addr, _ := strings.Cut(s.URL, "://")
	return addr
}

// Roots are the certificates that a client has to trust; nil for plain http.
func (s *Server) Roots() *x509.CertPool {
	if s.CA == nil {
		return nil
	}
	return s.CA.Pool()
}

// Client returns a client of its own that reaches the server, trusts it, decodes nothing and follows no redirects.
func (s *Server) Client() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: s.dial, DisableCompression: true, ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{RootCAs: s.Roots()},
		},
	}
}
