package origintest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// Net is a network in memory: listeners by address, connections by net.Pipe, so that servers and clients can live in
// one testing/synctest bubble. The zero value is ready.
type Net struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener
}

// Listen takes an address, "hub.test:80".
func (n *Net) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, fmt.Errorf("listen %s: address in use", addr)
	}
	l := newPipeListener(addr)
	l.closed = func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.listeners[addr] == l {
			delete(n.listeners, addr)
		}
	}
	if n.listeners == nil {
		n.listeners = map[string]*pipeListener{}
	}
	n.listeners[addr] = l
	return l, nil
}

// DialContext connects to an address that somebody listens on; else it is refused, as by a host that is up.
func (n *Net) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: pipeAddr(addr), Err: syscall.ECONNREFUSED}
	}
	return l.dial(ctx)
}

// Pipe returns a listener and the function that connects to it, whatever the address.
func Pipe() (net.Listener, func(ctx context.Context, network, addr string) (net.Conn, error)) {
	l := newPipeListener("pipe")
	return l, func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) }
}

type pipeListener struct {
	addr   pipeAddr
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
	closed func()
}

func newPipeListener(addr string) *pipeListener {
	return &pipeListener{addr: pipeAddr(addr), conns: make(chan net.Conn), done: make(chan struct{}), closed: func() {}}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: l.addr, Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept implements net.Listener.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *pipeListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.closed()
	})
	return nil
}

// Addr implements net.Listener.
func (l *pipeListener) Addr() net.Addr { return l.addr }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }
