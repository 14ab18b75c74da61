package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// Registry clients send a few hundred bytes of header; a token of an identity provider may take some thousand.
	maxHeader = 16 << 10
	// A header fits into one packet: who takes longer is slow on purpose.
	headerTimeout = 5 * time.Second
	// Clients pull layer after layer: a minute bridges the pauses of unpacking.
	idleTimeout = time.Minute
	// HTTP/2, spoken over TLS, is for clients that pull a layer per stream.
	maxStreams = 250
	// The deadlines of answers end streams of HTTP/2, and not a connection that takes nothing at all any more.
	stuckTimeout = grace
)

// Server returns a server for h that no client can wear down: it bounds what a header may be and how long it may take.
// There is no limit on the whole of an answer, because layers may be large and lines slow; each stretch of an answer
// has its own. What net/http has to complain of goes to log.
func Server(h http.Handler, log *zap.Logger) *http.Server {
	s := &http.Server{
		Handler:                      h,
		MaxHeaderBytes:               maxHeader,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams, WriteByteTimeout: stuckTimeout},
		DisableGeneralOptionsHandler: true,
		ConnContext:                  withConn,
	}
	if log != nil {
		s.ErrorLog = zap.NewStdLog(log.Named("http"))
	}
	return s
}

// Limit returns a listener that closes the connections which an address opens beyond perClient; 0: it closes none. An
// IPv6 client is its /64, of which it has every address. TCP connections stay such, so that files go to them by
// sendfile. log hears of those that are closed, once a minute; nil: nobody does.
func Limit(l net.Listener, perClient int, log *zap.Logger) net.Listener {
	if perClient <= 0 {
		return l
	}
	if log == nil {
		log = zap.NewNop()
	}
	return &limited{Listener: l, most: perClient, log: log, open: make(map[netip.Prefix]int)}
}

// limited is a listener that counts. No address is in open with a count of 0.
type limited struct {
	net.Listener
	most int
	log  *zap.Logger
	told time.Time // when log last heard of a refusal; Accept's alone

	mu   sync.Mutex // guards open
	open map[netip.Prefix]int
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			return c, nil
		}
		who := network(c.RemoteAddr())
		if l.take(who) {
			return &counted{TCPConn: tcp, release: sync.OnceFunc(func() { l.give(who) })}, nil
		}
		_ = tcp.SetLinger(0) // no state is kept for it in the kernel either
		_ = tcp.Close()
		l.refused(who)
	}
}

// refused tells who has too many connections: to the client it looks like a network that fails.
func (l *limited) refused(who netip.Prefix) {
	if now := time.Now(); now.Sub(l.told) >= time.Minute {
		l.told = now
		l.log.Warn("a client has too many connections, more are closed at once; if it is a load balancer or a gateway, "+
			"raise connections_per_client", zap.Stringer("client", who), zap.Int("most", l.most))
	}
}

func (l *limited) take(who netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who] >= l.most {
		return false
	}
	l.open[who]++
	return true
}

func (l *limited) give(who netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who]--; l.open[who] == 0 {
		delete(l.open, who)
	}
}

// counted is a connection that is counted until it closes. It keeps the ReadFrom of TCP connections.
type counted struct {
	*net.TCPConn
	release func()
}

func (c *counted) Close() error {
	defer c.release()
	return c.TCPConn.Close()
}

// network is who is counted as one client.
func network(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
