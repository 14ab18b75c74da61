package sim

import (
	"bytes"
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

// network joins hosts by streams in memory. What was sent across a cut waits for it to heal, as it does in the buffers
// of a kernel that sends again; who calls across a cut hears nothing.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener // by host
	cuts      map[way]bool
	dark      map[string]bool // hosts without power: nothing comes from there, or arrives
	lines     map[*line]bool
	changed   chan struct{} // closed, and made anew, with each change of where one can get to
}

// way is a direction between two hosts.
type way struct{ from, to string }

// travel is what bytes are on their way for: that of a rack or two.
const travel = 300 * time.Microsecond

func newNetwork() *network {
	return &network{listeners: map[string]*listener{}, cuts: map[way]bool{}, dark: map[string]bool{}, lines: map[*line]bool{}, changed: make(chan struct{})}
}

// open says whether what is sent arrives, and what to wait for if not.
func (n *network) open(from, to string) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.cuts[way{from, to}] && !n.dark[from] && !n.dark[to], n.changed
}

// connected says whether two hosts can talk.
func (n *network) connected(a, b string) bool {
	there, _ := n.open(a, b)
	back, _ := n.open(b, a)
	return there && back
}

func (n *network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *network) cut(ways ...way) {
	n.change(func() {
		for _, w := range ways {
			n.cuts[w] = true
		}
	})
}

func (n *network) heal() { n.change(func() { clear(n.cuts) }) }

// break ends all lines of a host, as its kernel does when a process dies, or when it is asked about lines of before its
// start. Across a cut, or where the host is dark, nobody hears of it.
func (n *network) hangUp(host string) {
	n.mu.Lock()
	var mine []*line
	for l := range n.lines {
		if l.from == host || l.to == host {
			mine = append(mine, l)
		}
	}
	n.mu.Unlock()
	for _, l := range mine {
		l.end()
	}
}

// power turns a host on or off.
func (n *network) power(host string, on bool) {
	n.change(func() { n.dark[host] = !on })
	if on {
		n.hangUp(host)
	}
}

// listen takes the one port of a host.
func (n *network) listen(host string) *listener {
	l := &listener{net: n, host: host, conns: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[host] = l
	return l
}

// dialer calls from a host; where is the host of an address.
func (n *network) dialer(from string, where func(addr string) string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		to := where(addr)
		for { // the call is repeated until it arrives
			there, changed := n.open(from, to)
			back, _ := n.open(to, from)
			if there && back {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		time.Sleep(2 * travel)
		n.mu.Lock()
		l := n.listeners[to]
		n.mu.Unlock()
		refused := &net.OpError{Op: "dial", Net: "sim", Addr: address(addr), Err: syscall.ECONNREFUSED}
		if l == nil {
			return nil, refused
		}
		a, b := n.connect(from, to)
		select {
		case l.conns <- b:
			return a, nil
		case <-l.done:
			return nil, refused
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// line is a stream between two hosts, and what is on its way on it.
type line struct {
	net      *network
	from, to string
	ends     [4]net.Conn // the caller's, its kernel's, the other kernel's, the listener's
	over     chan struct{}
	once     sync.Once
}

func (n *network) connect(from, to string) (a, b net.Conn) {
	l := &line{net: n, from: from, to: to, over: make(chan struct{})}
	l.ends[0], l.ends[1] = net.Pipe()
	l.ends[2], l.ends[3] = net.Pipe()
	n.mu.Lock()
	n.lines[l] = true
	n.mu.Unlock()
	go l.carry(from, to, l.ends[1], l.ends[2])
	go l.carry(to, from, l.ends[2], l.ends[1])
	return l.ends[0], l.ends[3]
}

// buffered is how many pieces are on their way, or wait for a cut to heal, before who sends has to wait: more than any
// body here, so that nobody waits in the midst of hanging up, which net/http does under a lock.
const buffered = 1024

// carry takes what comes out of src to dst, where the way is open.
func (l *line) carry(from, to string, src, dst net.Conn) {
	under := make(chan []byte, buffered)
	go func() {
		defer close(under)
		buf := make([]byte, 16<<10)
		for {
			n, err := src.Read(buf)
			if n > 0 {
				select {
				case under <- bytes.Clone(buf[:n]):
				case <-l.over:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range under {
		if !l.wait(from, to) {
			return
		}
		time.Sleep(travel)
		if _, err := dst.Write(p); err != nil {
			break
		}
	}
	if l.wait(from, to) {
		l.end()
	}
}

// wait waits until the way is open, and reports whether the line still is.
func (l *line) wait(from, to string) bool {
	for {
		open, changed := l.net.open(from, to)
		if open {
			return true
		}
		select {
		case <-changed:
		case <-l.over:
			return false
		}
	}
}

func (l *line) end() {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.lines, l)
		l.net.mu.Unlock()
		close(l.over)
		for _, c := range l.ends {
			_ = c.Close() // of a pipe: it does not fail
		}
	})
}

type listener struct {
	net   *network
	host  string
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		if l.net.listeners[l.host] == l {
			delete(l.net.listeners, l.host)
		}
		close(l.done)
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return address(l.host) }

type address string

func (address) Network() string  { return "sim" }
func (a address) String() string { return string(a) }
