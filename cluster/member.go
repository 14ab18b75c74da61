// Package cluster makes many tidepools one cache: its members find each other by gossip, agree without a vote on who
// owns what, and prove to each other who they are.
//
// Its invariant: gossip carries hints only. Who believes a wrong one, or misses a right one, takes a detour and asks
// once more than needed, and serves no wrong byte and loses none.
//
// A Members is this process among the others; it publishes a View, which holds a Ring; an Identity is what this member
// shows to the others, and wants to see of them, before a byte is exchanged.
package cluster

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

// State says what a member may be asked for.
type State uint8

// The three states of a member that is alive. One that is gone has none: it is in no View.
const (
	Joining  State = iota // it looks over its store, and owns nothing yet
	Ready                 // it owns its share of the ring
	Draining              // it ends what it has begun, and owns nothing any more
)

// String gives the state as status and metrics spell it.
func (s State) String() string {
	switch s {
	case Joining:
		return "joining"
	case Ready:
		return "ready"
	default:
		return "draining"
	}
}

// Member is what one member says of itself to all others.
type Member struct {
	Name    string // unique in the cluster, and the name in its certificate
	Addr    string // host:port of its peer listener; empty where it has none
	Zone    string // what fails together: a rack, a site; empty where that is not known
	Weight  int    // its share of the ring relative to the others', 1 to MaxWeight
	State   State
	Version string // of the program, for people
}

// MaxWeight bounds what one member can claim of the ring, and the memory the ring takes at all others.
const MaxWeight = 64

// maxName is the longest label of a host name (RFC 1035, section 2.3.4): Kubernetes' names of pods keep to it.
const maxName = 63

// CheckName says why name cannot be a member's. A name stands in certificates, where upper and lower case are one, a
// star matches others, and what looks like an address is compared as one: so it has lower-case letters, digits, dots,
// dashes and underscores, at most 63 of them, begins and ends with a letter or digit, and is no address.
func CheckName(name string) error {
	if len(name) == 0 || len(name) > maxName {
		return fmt.Errorf("cluster: the member's name %.80q has %d characters: give it 1 to %d", name, len(name), maxName)
	}
	for i, c := range []byte(name) {
		word := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !word && (i == 0 || i == len(name)-1 || c != '-' && c != '.' && c != '_') {
			return fmt.Errorf("cluster: the member's name %q cannot stand in a certificate: use a-z, 0-9 and, within, - . _", name)
		}
	}
	if _, err := netip.ParseAddr(name); err == nil || strings.Contains(name, "..") {
		return fmt.Errorf("cluster: the member's name %q reads as an address: give it a name", name)
	}
	return nil
}

// ProcessName is a random name, the same for as long as this process runs. A member whose store outlives the process
// had better have a name that does, too: its place on the ring goes by its name.
var ProcessName = sync.OnceValue(func() string { return "tidepool-" + strings.ToLower(rand.Text()[:12]) })
