package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// DefaultPort is where members gossip, over UDP and TCP, unless told otherwise: the one memberlist has.
const DefaultPort = 7946

// Options say who a member is and where it meets the others. The zero value is a cluster within this process, on
// loopback.
type Options struct {
	// Name is unique in the cluster: see CheckName. Empty: ProcessName. A member keeps its place on the ring by its
	// name, so where the store outlives the process the name had better do so, too.
	Name string
	// Bind is where this member listens for gossip, host:port, UDP and TCP; port 0: a free one. Empty: 127.0.0.1:7946.
	Bind string
	// Advertise is where the others reach it, an address or address:port. Empty: what Bind says, or the host's private
	// address where that is all of them.
	Advertise string
	// Secrets are the cluster's: see ReadSecrets. Without one members on loopback that are in this process share one
	// that nobody else knows, and any other address is refused.
	Secrets [][]byte
	// Label keeps clusters with the same secrets apart. It is no secret. Empty: "tidepool".
	Label string
	// Networks are where members may be; none: anywhere. It is a second fence, and the secret is the first.
	Networks []netip.Prefix
	// Join are members to begin with: addresses, or names that resolve to one or several, each with a port or with this
	// member's own. None of them needs to be there yet.
	Join []string
	// PeerAddr is where the others reach this member's peer listener, host:port; without a host, or with 0.0.0.0 or
	// [::], at the address it gossips from.
	PeerAddr string
	Zone     string // what fails together: at most 63 bytes
	Weight   int    // of this member's share, 1 to MaxWeight; 0: 1
	Version  string // of the program, for people: at most 63 bytes
	// Heard is called with each event that another member says, one at a time, until ctx ends, when it must return: while
	// it is under way, those that follow wait, and those that find no room are told again when members meet. nil: none.
	Heard func(ctx context.Context, e Event)
	// Rejoin is how often members that are not there are tried again; 0: three seconds.
	Rejoin time.Duration
	// Transport carries the gossip; nil: UDP and TCP at Bind.
	Transport memberlist.Transport
	// Lookup resolves the names in Join; nil: as the system does.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	Log    *zap.Logger // nil: silence
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// withDefaults fills in what is not said and refuses what cannot work.
func (o Options) withDefaults() (Options, error) {
	o.Name = cmp.Or(o.Name, ProcessName())
	o.Bind = cmp.Or(o.Bind, net.JoinHostPort("127.0.0.1", strconv.Itoa(DefaultPort)))
	o.Label = cmp.Or(o.Label, "tidepool")
	o.Weight = cmp.Or(o.Weight, 1)
	o.Rejoin = cmp.Or(o.Rejoin, rejoinEvery)
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if err := CheckName(o.Name); err != nil {
		return o, err
	}
	if err := checkMember(o.member(netip.IPv4Unspecified())); err != nil {
		return o, fmt.Errorf("cluster: the others could not read what this member says of itself: check peer address %q (host:port), "+
			"zone %q and version %q (at most %d printable bytes), weight %d (1 to %d)", o.PeerAddr, o.Zone, o.Version, maxText, o.Weight, MaxWeight)
	}
	for _, seed := range o.Join {
		if err := CheckSeed(seed); err != nil {
			return o, err
		}
	}
	if len(o.Secrets) == 0 {
		if err := o.onlyLoopback(); err != nil {
			return o, err
		}
		o.Networks = loopback
	}
	o.Secrets = orProcess(o.Secrets)
	return o, checkSecrets(o.Secrets)
}

// member is what o says of this one.
func (o Options) member(from netip.Addr) Member {
	return Member{Name: o.Name, Addr: reachable(o.PeerAddr, from), Zone: o.Zone, Weight: o.Weight, Version: o.Version}
}

// onlyLoopback refuses what would leave this machine.
func (o Options) onlyLoopback() error {
	for _, addr := range append([]string{o.Bind, o.Advertise, o.PeerAddr}, o.Join...) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		ip, err := netip.ParseAddr(host)
		if addr != "" && host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return fmt.Errorf("cluster: %s is beyond loopback, where a cluster needs a secret: "+
				"give all members the same file with at least 16 random bytes, such as from openssl rand -base64 32", addr)
		}
	}
	return nil
}

// config is memberlist's, beyond its defaults for a local network.
func (o Options) config() (*memberlist.Config, error) {
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label = o.Name, o.Label
	c.Transport = o.Transport
	c.DeadNodeReclaimTime = time.Millisecond // who is back has a new address, in Kubernetes each time; 0 would be never
	c.TCPTimeout = streamTime
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true // nothing in plain, in or out: that is for migrations
	c.EnableCompression = false                                 // states are small, and what is not unpacked cannot blow up
	for _, n := range o.Networks {
		c.CIDRsAllowed = append(c.CIDRsAllowed, net.IPNet{
			IP: n.Masked().Addr().AsSlice(), Mask: net.CIDRMask(n.Bits(), n.Addr().BitLen())})
	}
	var err error
	if c.BindAddr, c.BindPort, err = splitAddr(o.Bind, DefaultPort); err != nil {
		return nil, fmt.Errorf("cluster: cannot listen for gossip at %q: %w", o.Bind, err)
	}
	c.AdvertisePort = c.BindPort
	if o.Advertise != "" {
		if c.AdvertiseAddr, c.AdvertisePort, err = splitAddr(o.Advertise, c.BindPort); err != nil {
			return nil, fmt.Errorf("cluster: cannot tell the others to reach this member at %q: %w", o.Advertise, err)
		}
	}
	c.Keyring, err = keyring(o.Secrets)
	return c, err
}

// splitSeed reads whom to join, with or without a port.
func splitSeed(s string, port uint16) (string, string) {
	if host, p, err := net.SplitHostPort(s); err == nil {
		return host, p
	}
	return s, strconv.Itoa(int(port))
}

// CheckSeed says what is wrong with whom to join.
func CheckSeed(seed string) error {
	if host, port := splitSeed(seed, DefaultPort); !isHostPort(net.JoinHostPort(host, port)) {
		return fmt.Errorf("cluster: cannot join %q: give an address or a name, with a port or without", seed)
	}
	return nil
}

// CheckAdvertise says what is wrong with where the others are to reach this member.
func CheckAdvertise(addr string) error {
	if _, _, err := splitAddr(addr, DefaultPort); err != nil {
		return fmt.Errorf("cluster: cannot tell the others to reach this member at %q: %w", addr, err)
	}
	return nil
}

// splitAddr reads an address with or without a port.
func splitAddr(s string, port int) (string, int, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String(), int(ap.Port()), nil
	}
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.String(), port, nil
	}
	host, p, err := net.SplitHostPort(s)
	if n, bad := strconv.ParseUint(p, 10, 16); err == nil && bad == nil && slices.Contains([]string{"", "localhost"}, host) {
		return map[string]string{"": "0.0.0.0", "localhost": "127.0.0.1"}[host], int(n), nil
	}
	return "", 0, errors.New("it wants address:port, the address as a number")
}
