// Package clustertest is a network in memory for clusters under test: it loses and delays packets by a seed, is cut
// and heals when told, and keeps to virtual time in a testing/synctest bubble.
package clustertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// queue is how many packets wait at an address, as in a socket's buffer: one more is lost.
const queue = 1024

// Net is a network. Hosts are told apart by their address without the port.
type Net struct {
	mu       sync.Mutex
	random   *rand.Rand
	loss     float64
	min, max time.Duration
	cut      map[[2]netip.Addr]bool // from, to
	at       map[netip.AddrPort]*Transport
	streams  map[*stream]bool
	tap      func([]byte)
	dials    map[netip.AddrPort]int
}

// New is a network without loss or delay.
func New(seed uint64) *Net {
	return &Net{
		random: rand.New(rand.NewPCG(seed, seed)), cut: map[[2]netip.Addr]bool{}, at: map[netip.AddrPort]*Transport{},
		streams: map[*stream]bool{}, dials: map[netip.AddrPort]int{},
	}
}

// Lose loses that part of all packets from now on; streams lose nothing.
func (n *Net) Lose(part float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = part
}

// Delay has each packet, and the beginning of each stream, take between min and max.
func (n *Net) Delay(min, max time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.min, n.max = min, max
}

// Cut keeps all of hosts a from reaching hosts b, and, unless oneWay, b from reaching a. Streams across break.
func (n *Net) Cut(a, b []netip.Addr, oneWay bool) {
	n.mu.Lock()
	for _, from := range a {
		for _, to := range b {
			n.cut[[2]netip.Addr{from, to}] = true
			if !oneWay {
				n.cut[[2]netip.Addr{to, from}] = true
			}
		}
	}
	var broken []*stream
	for s := range n.streams {
		if n.cut[[2]netip.Addr{s.from, s.to}] || n.cut[[2]netip.Addr{s.to, s.from}] {
			broken = append(broken, s)
		}
	}
	n.mu.Unlock()
	for _, s := range broken { // each takes the lock
		s.end()
	}
}

// Tap has f see all that is sent from now on, packets and streams alike, one at a time.
func (n *Net) Tap(f func([]byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tap = f
}

func (n *Net) sees(b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tap != nil {
		n.tap(b)
	}
}

// Dials is how many streams to there were asked for, whether it answered or not.
func (n *Net) Dials(there netip.AddrPort) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[there]
}

// Heal undoes all cuts.
func (n *Net) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// Listen is the transport of one member at addr, which must be free.
func (n *Net) Listen(addr netip.AddrPort) (*Transport, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at[addr] != nil {
		return nil, fmt.Errorf("clustertest: %s is taken", addr)
	}
	t := &Transport{
		net: n, addr: addr, closed: make(chan struct{}),
		packets: make(chan *memberlist.Packet, queue), accept: make(chan net.Conn),
	}
	n.at[addr] = t
	return t, nil
}

// way says who is at to, whether what goes there from host arrives, and how long it takes.
func (n *Net) way(from netip.Addr, to netip.AddrPort) (there *Transport, open, lost bool, takes time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	takes = n.min
	if n.max > n.min {
		takes += time.Duration(n.random.Int64N(int64(n.max - n.min)))
	}
	return n.at[to], !n.cut[[2]netip.Addr{from, to.Addr()}], n.random.Float64() < n.loss, takes
}

// Transport is one member's way into the Net.
type Transport struct {
	net     *Net
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	accept  chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// FinalAdvertiseAddr is where it listens.
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.addr.Addr().AsSlice(), int(t.addr.Port()), nil
}

// WriteTo sends a packet, which may be lost.
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	t.net.sees(b)
	there, open, lost, takes := t.net.way(t.addr.Addr(), to)
	if there != nil && open && !lost {
		p := &memberlist.Packet{Buf: slices.Clone(b), From: net.UDPAddrFromAddrPort(t.addr)}
		time.AfterFunc(takes, func() {
			p.Timestamp = time.Now()
			select {
			case there.packets <- p:
			default:
			}
		})
	}
	return time.Now(), nil
}

// PacketCh is where packets arrive.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh is where streams arrive.
func (t *Transport) StreamCh() <-chan net.Conn { return t.accept }

// DialTimeout begins a stream. Nobody there refuses at once; across a cut it times out.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	t.net.mu.Lock()
	t.net.dials[to]++
	t.net.mu.Unlock()
	there, open, _, takes := t.net.way(t.addr.Addr(), to)
	_, back, _, more := t.net.way(to.Addr(), t.addr)
	if takes += more; !open || !back || takes > timeout {
		time.Sleep(timeout)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	}
	time.Sleep(takes)
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	if there == nil {
		return nil, refused
	}
	s := t.net.connect(t.addr, to)
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case there.accept <- s.b:
		return s.a, nil
	case <-there.closed:
	case <-late.C:
	}
	s.end()
	return nil, refused
}

// Shutdown frees the address.
func (t *Transport) Shutdown() error {
	t.once.Do(func() {
		t.net.mu.Lock()
		delete(t.net.at, t.addr)
		t.net.mu.Unlock()
		close(t.closed)
	})
	return nil
}

// stream is two ends of one connection.
type stream struct {
	from, to netip.Addr
	a, b     net.Conn
}

func (s *stream) end() {
	s.a.Close()
	s.b.Close()
}

func (n *Net) connect(from, to netip.AddrPort) *stream {
	a, b := net.Pipe()
	s := &stream{from: from.Addr(), to: to.Addr()}
	s.a = conn{a, n, s, net.TCPAddrFromAddrPort(to)}
	s.b = conn{b, n, s, net.TCPAddrFromAddrPort(from)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams[s] = true
	return s
}

// conn is one end, which knows the address of the other.
type conn struct {
	net.Conn
	net    *Net
	stream *stream
	remote net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.remote }

func (c conn) Write(b []byte) (int, error) {
	c.net.sees(b)
	return c.Conn.Write(b)
}

func (c conn) Close() error {
	c.net.mu.Lock()
	delete(c.net.streams, c.stream)
	c.net.mu.Unlock()
	return c.Conn.Close()
}
