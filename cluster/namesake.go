package cluster

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// namesakesAfter is how long two must have claimed one name for it to be a trouble. A member that is back at another
// address is contested until all believe in the death of what it was: 12 seconds among 300.
const namesakesAfter = 30 * time.Second

// namesakes are two members that have one name, as both go on saying so.
type namesakes struct {
	mu            sync.Mutex // below the members' and memberlist's: nothing is done under it that waits
	name          string
	first, second netip.AddrPort
	since, last   time.Time
}

// heard notes that second claimed the name of first.
func (n *namesakes) heard(first, second *memberlist.Node, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	over := now.Sub(n.last) >= contestedFor
	if !over && n.name != first.Name {
		return // one after the other: whoever has given those two names of their own is told of these
	}
	if over {
		n.since = now
	}
	n.name, n.first, n.second, n.last = first.Name, address(first), address(second), now
}

// trouble says whose name it is, where that lasts.
func (n *namesakes) trouble(now time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now.Sub(n.last) >= contestedFor || n.last.Sub(n.since) < namesakesAfter {
		return nil
	}
	return fmt.Errorf("two members have the name %s, at %s and at %s, so that each is taken for the other: give each its own "+
		"(--cluster-name; a copied data directory has that of its original in it)", n.name, n.first, n.second)
}
