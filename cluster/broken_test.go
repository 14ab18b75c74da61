package cluster

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// TestBreakingMember: a member whose answers begin well and break off each time keeps nobody from what the registry has.
func TestBreakingMember(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(6, 3, 300<<10)
		c := newTown(t, w, 3)
		h := c.nodes[0].server.Handler
		c.nodes[0].server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(breaking{w}, r) })
		began := time.Now()
		c.pullAll(c.nodes[1:], refs)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// breaking breaks off in the first bytes of a body.
type breaking struct{ http.ResponseWriter }

func (b breaking) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b breaking) Write(p []byte) (int, error) {
	_, _ = b.ResponseWriter.Write(p[:len(p)/2])
	panic(http.ErrAbortHandler)
}

// TestDoubtedWithoutRegistry: what a member sent wrong once can be had of the members all the same when the registry is
// down: of others, and of itself once it is well.
func TestDoubtedWithoutRegistry(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(6, 3, 300<<10)
		c := newTown(t, w, 3)
		var lies atomic.Bool
		honest := c.nodes[0].server.Handler
		c.nodes[0].server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if lies.Load() {
				lying{honest}.ServeHTTP(w, r)
			} else {
				honest.ServeHTTP(w, r)
			}
		})
		c.pullAll(c.nodes, refs)
		time.Sleep(2 * time.Minute)
		lies.Store(true)
		for _, ref := range refs {
			_ = c.nodes[1].pull(t.Context(), w, ref) // it may be cut off
		}
		lies.Store(false)
		w.mu.Lock()
		w.down = true
		w.mu.Unlock()
		time.Sleep(time.Minute)
		c.pullAll(c.nodes[1:], refs)
	})
}

// TestRefusedSoon: where the registry is down the asking of two members does not multiply.
func TestRefusedSoon(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(3, 3, 100<<10)
		c := newTown(t, w, 2)
		w.down, w.slow = true, 15*time.Second
		for _, ref := range refs {
			w.forget()
			began := time.Now()
			err := c.nodes[0].pull(t.Context(), w, ref)
			if !errors.Is(err, cache.ErrUnavailable) {
				t.Error(err)
			}
			// What one member does by itself is four times 15 seconds.
			if took, n := time.Since(began), w.gets[ref.String()]; took > 90*time.Second || n > 5 {
				t.Errorf("%s: refused after %v and %d requests", ref, took, n)
			}
		}
	})
}
