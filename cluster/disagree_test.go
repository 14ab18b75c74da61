package cluster

import (
	"fmt"
	"testing"
	"time"
)

// TestHalfHeard: while some members have heard of a change and others have not, in whichever way, nobody waits for
// nobody, every pull ends, and nothing is fetched more than twice: by who owned it, and by who owns it.
func TestHalfHeard(t *testing.T) {
	for _, change := range []string{"one joins", "one is gone"} {
		for heard := range 1 << 3 { // of the three that stay
			inBubble(t, fmt.Sprintf("%s, %03b", change, heard), func(t *testing.T) {
				w := newWorld()
				w.slow, w.pace = time.Second, 20*time.Millisecond
				refs := w.corpus(3, 2, 200<<10)
				c := newTown(t, w, 4)
				few, all := map[string]Member{}, map[string]Member{}
				for i, n := range c.nodes {
					if all[n.Name] = n.Member; i < 3 {
						few[n.Name] = n.Member
					}
				}
				before, after, asked := few, all, c.nodes
				if change == "one is gone" {
					before, after, asked = all, few, c.nodes[:3]
					_ = c.nodes[3].server.Close()
				}
				c.nodes[3].sees(all)
				for i, n := range c.nodes[:3] {
					if n.sees(before); heard>>i&1 == 1 {
						n.sees(after)
					}
				}
				began := time.Now()
				c.pullAll(asked, refs)
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("it took %v", took)
				}
				if n, what := most(w.gets); n > 2 {
					t.Errorf("%s was fetched %d times", what, n)
				}
			})
		}
	}
}
