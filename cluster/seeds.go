package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// seedGrace is how long a name to join may lead nowhere before that is a trouble. The name of a headless service has no
// address until the first pod has one, and name servers remember for half a minute that there was none.
const seedGrace = time.Minute

// unfound are the names to join that lead nowhere.
type unfound struct {
	mu    sync.Mutex // guards names, for a moment
	names map[string]deadEnd
}

// deadEnd is what became of a name to join.
type deadEnd struct {
	since, last time.Time // the first and the last look-up in vain: of many members each looks seldom
	why         error
}

// note notes what a look-up came to; nil: the name leads somewhere.
func (u *unfound) note(name string, err error, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	was, again := u.names[name]
	switch {
	case err == nil:
		delete(u.names, name)
		return
	case u.names == nil:
		u.names = map[string]deadEnd{}
		fallthrough
	case !again:
		was.since = now
	}
	was.last, was.why = now, err
	u.names[name] = was
}

// trouble names those that have led nowhere for longer than seedGrace, in order of their names.
func (u *unfound) trouble() (all []error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for name, n := range u.names {
		if n.last.Sub(n.since) >= seedGrace {
			all = append(all, fmt.Errorf("%q, which it was told to join, leads to no member (%w): see that the name is right (--join, cluster.join) "+
				"and that this host's name server knows it; it is looked up again all the time", name, n.why))
		}
	}
	slices.SortFunc(all, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return all
}

var errNoAddress = errors.New("it has no address")

// seeds resolves o.Join anew: after a restart of all, names lead to other addresses.
func (m *Members) seeds(ctx context.Context) []netip.AddrPort {
	var found []netip.AddrPort
	for _, seed := range m.o.Join {
		host, p := splitSeed(seed, m.here.Port())
		port, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			continue // withDefaults lets none pass
		}
		for _, ip := range m.resolve(ctx, host) {
			found = append(found, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
		}
	}
	return found
}

// resolve finds the addresses of a host to join, and notes where it has none.
func (m *Members) resolve(ctx context.Context, host string) []netip.Addr {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}
	}
	looking, cancel := context.WithTimeout(ctx, streamTime)
	defer cancel()
	ips, err := m.o.Lookup(looking, host)
	if ctx.Err() != nil {
		return nil // this member ends, which says nothing of the name
	}
	if err == nil && len(ips) == 0 {
		err = errNoAddress
	}
	if err != nil {
		m.o.Log.Debug("cluster: cannot resolve a name to join", zap.String("name", host), zap.Error(err))
		err = lookupFault(err)
	}
	m.unfound.note(host, err, time.Now())
	return ips
}

// lookupFault is what a look-up failed of, without what is another each time, such as a port.
func lookupFault(err error) error {
	var dns *net.DNSError
	switch {
	case !errors.As(err, &dns):
		return err
	case dns.IsNotFound:
		return errors.New("no such host")
	case dns.IsTimeout:
		return errors.New("the name server does not answer in time")
	}
	return errors.New("the name server cannot be asked, or cannot say")
}
