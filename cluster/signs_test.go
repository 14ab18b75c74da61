package cluster

import (
	"net/http"
	"testing"
	"time"
)

// TestGoneWhileItAsks: who waits for a member that has said that it asks its registry, and then dies with its host, goes
// another way, and soon: nothing breaks, and nothing comes.
func TestGoneWhileItAsks(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(5, 3, 100<<10)
		c := newTown(t, w, 3)
		c.nodes[2].server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			<-r.Context().Done()
		})
		began := time.Now()
		c.pullAll(c.nodes[:2], refs)
		if took := time.Since(began); took < signLate || took > 2*signLate {
			t.Errorf("it took %v", took)
		}
	})
}

// TestSigns: a registry that thinks for much longer than a member may be silent is waited for at its owner.
func TestSigns(t *testing.T) {
	for _, slow := range []time.Duration{2 * time.Second, 5 * signLate} {
		inBubble(t, slow.String(), func(t *testing.T) {
			w := newWorld()
			w.slow = slow
			refs := w.corpus(4, 2, 100<<10)
			c := newTown(t, w, 4)
			c.pullAll(c.nodes, refs)
			if n, what := most(w.gets); n != 1 {
				t.Errorf("%s was fetched %d times", what, n)
			}
			if s := c.nodes[0].router.Stats(); s.Silent > 0 || s.Held > 0 {
				t.Errorf("members were taken for dead: %+v", s)
			}
		})
	}
}
