package upstream

import (
	"net"
	"sync"

	"github.com/tidepool-oci/tidepool/cache"
)

// conns are the connections that are open, so that none outlives its owner.
type conns struct {
	mu     sync.Mutex // guards all below
	open   map[*conn]struct{}
	closed bool
}

// conn is a connection that is known to conns.
type conn struct {
	net.Conn
	owner *conns
}

// add takes c over, or closes it where it comes too late.
func (s *conns) add(c net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return nil, cache.ErrClosed
	}
	if s.open == nil {
		s.open = map[*conn]struct{}{}
	}
	known := &conn{c, s}
	s.open[known] = struct{}{}
	return known, nil
}

// Close closes the connection; nobody else will.
func (c *conn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// close closes every connection, now and from now on.
func (s *conns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.open {
		_ = c.Conn.Close()
	}
	s.open = nil
}
