package origintest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
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

	origin  *Origin
	tls     *tls.Config
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	running *http.Server
	over    sync.WaitGroup // Serve and every handler
}

// Listen serves o on a free port of 127.0.0.1, over TLS where t is not nil.
func Listen(o *Origin, t *TLS) (*Server, error) {
	s := &Server{origin: o, dial: (&net.Dialer{}).DialContext, URL: "http://"}
	if t != nil {
		var err error
		if s.CA, s.tls, err = t.config(); err != nil {
			return nil, fmt.Errorf("make a certificate: %w", err)
		}
		s.URL = "https://"
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.URL += l.Addr().String()
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
	s.serve(l)
	t.Cleanup(s.Close)
	return s
}

// Server returns an http.Server of this origin that counts its connections and can be paced by them.
func (o *Origin) Server() *http.Server {
	return &http.Server{
		Handler:  o,
		ErrorLog: log.New(io.Discard, "", 0), // faults are meant
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, pacerKey{}, &pacer{})
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			o.log.change(func() { o.log.note(c, s) })
		},
	}
}

// note keeps the books of open connections.
func (j *journal) note(c net.Conn, s http.ConnState) {
	if j.conns == nil {
		j.conns = map[net.Conn]struct{}{}
	}
	j.conns[c] = struct{}{}
	if s == http.StateClosed || s == http.StateHijacked {
		delete(j.conns, c)
	}
}

func (s *Server) serve(l net.Listener) {
	srv := s.origin.Server()
	srv.Handler = s.counted(srv.Handler)
	s.running = srv
	if s.tls != nil {
		srv.TLSConfig = s.tls.Clone()
	}
	s.over.Go(func() {
		// It ends by Close, or because the listener was closed under it: nobody to tell.
		if s.tls != nil {
			_ = srv.ServeTLS(l, "", "")
		} else {
			_ = srv.Serve(l)
		}
	})
}

// counted lets Close wait for handlers, which http.Server does not.
func (s *Server) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.over.Add(1)
		defer s.over.Done()
		h.ServeHTTP(w, r)
	})
}

// Close breaks every connection, frees the port and waits until all is over. It may be called twice.
func (s *Server) Close() {
	_ = s.running.Close() // of no interest: it is gone
	s.over.Wait()
}

// Reopen serves again at the address that Close freed: the hub is back.
func (s *Server) Reopen() error {
	addr := s.Addr()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("reopen %s: %w", addr, err)
	}
	s.serve(l)
	return nil
}

// Addr is the host and port of URL.
func (s *Server) Addr() string {
	_, addr, _ := cutScheme(s.URL)
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

// errRefused is what dialling an address says where nobody listens.
var errRefused = errors.New("connection refused")
