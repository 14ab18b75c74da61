package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// guard decides which servers a hub's connections may reach. The address decides, after its name was resolved and for
// each connection anew, so that no name leads inside: only a server that the operator wrote down may be private.
type guard struct {
	registry string
	written  hosts // by the operator: endpoints, realms, redirect hosts
	known    hosts // belonging to well-known registries: may be reached through a proxy that resolves names for us

	proxy    func(*http.Request) (*url.URL, error)
	proxies  sync.Map // the servers that proxy named, by host:port; as few as the operator has proxies
	dialer   net.Dialer
	network  func(ctx context.Context, network, addr string) (net.Conn, error) // in place of dialer
	resolver *net.Resolver
	timeout  time.Duration
	conns    *conns
	offline  offline
}

// errInside is why the guard refused.
var errInside = errors.New("refused to go there")

const (
	// A registry that lost its power says nothing more: probes find that out while nothing is asked of it, so that idle
	// connections to what is gone are not tried first when another has taken its address.
	probeAfter, probeEvery, probes = 15 * time.Second, 5 * time.Second, 3
	// silence is how long what a registry was sent may go without its kernel's word for it: as long as probes take.
	silence = probeAfter + probes*probeEvery
)

func newGuard(registry string, o Options, open *conns) *guard {
	keepAlive := net.KeepAliveConfig{Enable: true, Idle: probeAfter, Interval: probeEvery, Count: probes}
	return &guard{
		registry: registry,
		proxy:    o.Proxy,
		dialer:   net.Dialer{KeepAliveConfig: keepAlive, Resolver: o.Resolver},
		network:  o.Dial,
		resolver: o.Resolver,
		timeout:  o.Timeouts.Connect,
		conns:    open,
	}
}

// tooLate is the error for a connection that was not made in time.
type tooLate struct {
	addr  string
	after time.Duration
}

func (e *tooLate) Error() string {
	return fmt.Sprintf("no connection to %s within %v", e.addr, e.after)
}

func (e *tooLate) Timeout() bool { return true }

// dial connects to addr, a host and a port, unless that would lead inside, or nobody is to be asked. Where this machine
// has no room for another connection, it waits a moment for some.
func (g *guard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := g.offline.err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, g.timeout, &tooLate{addr, g.timeout})
	defer cancel()
	c, err := g.connect(ctx, network, addr)
	var lack error // of room here
	for n := 1; n < scarceTries && scarce(err) != ""; n++ {
		if lack = err; !pause(ctx, scarcePause) {
			break
		}
		c, err = g.connect(ctx, network, addr)
	}
	switch {
	case err != nil && lack != nil:
		return nil, lack
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	}
	return g.conns.add(c)
}

func (g *guard) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	_, isProxy := g.proxies.Load(addr)
	trusted := isProxy || g.written.has(host, port)
	switch {
	case g.network == nil:
		d := g.dialer
		d.ControlContext = func(_ context.Context, _, address string, socket syscall.RawConn) error {
			if !trusted {
				if err := g.checkText(host, address); err != nil {
					return err
				}
			}
			return bound(socket)
		}
		return d.DialContext(ctx, network, addr)
	case g.resolver == nil:
		if !trusted {
			if err := g.checkText(host, addr); err != nil {
				return nil, err
			}
		}
		return g.network(ctx, network, addr)
	default:
		return g.resolveAndDial(ctx, network, host, port, trusted)
	}
}

// bound makes the kernel give up a connection after silence.
func bound(socket syscall.RawConn) error {
	var err error
	if e := socket.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}

// resolveAndDial is connect over a network that knows addresses only.
func (g *guard) resolveAndDial(ctx context.Context, network, host, port string, trusted bool) (net.Conn, error) {
	addrs, err := g.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, a := range addrs {
		if !trusted {
			if err := g.check(host, a); err != nil {
				failed = err
				continue
			}
		}
		c, err := g.network(ctx, network, net.JoinHostPort(a.Unmap().String(), port))
		if err == nil {
			return c, nil
		}
		failed = err
	}
	return nil, failed
}

// checkText is check for an address with a port, as dialers have it. A name passes: it is no address yet.
func (g *guard) checkText(host, address string) error {
	text, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return nil
	}
	return g.check(host, a)
}

func (g *guard) check(host string, a netip.Addr) error {
	if !private(a) || g.written.hasAddr(a) {
		return nil
	}
	is := "a private address"
	if host != a.String() {
		is = "at the private address " + a.String()
	}
	return fmt.Errorf("%w: %s is %s; if that is meant, add %q to redirect_hosts under upstreams.%s",
		errInside, host, is, host, g.registry)
}

// choose is proxy with the guard's word: a proxy resolves names out of our sight, so what it is asked for must be
// known by name.
func (g *guard) choose(r *http.Request) (*url.URL, error) {
	p, err := g.proxy(r)
	if err != nil || p == nil {
		return p, err
	}
	o := originOf(r.URL)
	if !g.written.has(o.host, o.port) && !g.known.has(o.host, o.port) {
		return nil, fmt.Errorf("%w: %s would be asked through a proxy, which hides where it leads; "+
			"if that is meant, add %q to redirect_hosts under upstreams.%s", errInside, o, o.host, g.registry)
	}
	g.proxies.Store(proxyAddr(p), true)
	return p, nil
}

func proxyAddr(p *url.URL) string {
	o := originOf(p)
	if o.port == "" {
		o.port = "1080" // socks5
	}
	return o.hostport()
}

// inside are the networks that no public registry lives in, beyond those that net/netip knows: "this" network,
// carrier-grade NAT (which also holds a cloud's metadata service), protocol assignments, benchmarks, the reserved
// rest, IPv6's site-local, and the host that Azure puts into every virtual network.
var inside = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("fec0::/10"),
}

// wrappers are the IPv6 networks whose addresses hold an IPv4 address, and where in it.
var wrappers = []struct {
	net netip.Prefix
	at  int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
	{netip.MustParsePrefix("::/96"), 12},        // IPv4-compatible
}

// private reports whether a is an address that only an operator may send us to.
func private(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsPrivate() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return true
	}
	for _, p := range inside {
		if p.Contains(a) {
			return true
		}
	}
	for _, w := range wrappers {
		if w.net.Contains(a) {
			b := a.As16()
			return private(netip.AddrFrom4([4]byte(b[w.at : w.at+4])))
		}
	}
	return false
}
