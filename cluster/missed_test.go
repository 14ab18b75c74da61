package cluster

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// deaf has a member take nothing of a kind while it is true. It is for a member that nobody has asked anything yet.
func (n *node) deaf(path string) *atomic.Bool {
	hears, deaf := n.server.Handler, new(atomic.Bool)
	n.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path && deaf.Load() {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		hears.ServeHTTP(w, r)
	})
	return deaf
}

// TestMissedCopies: what a member did not take when it landed is offered again soon, though the ring stays as it is.
func TestMissedCopies(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTownOf(t, w, 2, 2)
		deaf := c.nodes[1].deaf(takePath)
		time.Sleep(time.Hour) // the rounds after the start are over
		deaf.Store(true)
		refs := w.corpus(4, 3, 100<<10)
		c.pullAll(c.nodes[:1], refs)
		time.Sleep(time.Minute)
		deaf.Store(false)
		if x := c.kept(c.nodes); x > 1.9 {
			t.Fatalf("%.2f copies are kept: everything was taken", x)
		}
		time.Sleep(2 * againAfter)
		if x := c.kept(c.nodes); x < 1.99 || x > 2.01 {
			t.Errorf("%.2f copies are kept", x)
		}
	})
}

// TestNamesNotHeard: that names were told to nobody is known to who tells them.
func TestNamesNotHeard(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTownOf(t, w, 2, 2)
		deaf := c.nodes[1].deaf(namesPath)
		deaf.Store(true)
		c.pullAll(c.nodes[:1], []cache.Ref{w.image("library/app", "1")})
		if c.nodes[0].copies.giveNames(t.Context()) {
			t.Error("all has been told, and nobody has heard it")
		}
		deaf.Store(false)
		if !c.nodes[0].copies.giveNames(t.Context()) {
			t.Error("not all has been told, and everybody has heard it")
		}
	})
}

// TestGivenPinsAreForgotten: of pins that are made anew again and again not every one is remembered for ever.
func TestGivenPinsAreForgotten(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		c := newTownOf(t, newWorld(), 2, 2)
		given := map[string]time.Time{"long ago": time.Now(), "just now": time.Now().Add(roundEvery)}
		c.nodes[0].copies.givePins(t.Context(), c.nodes[0].view.Load(), given)
		if len(given) != 1 || given["just now"].IsZero() {
			t.Errorf("%v", given)
		}
	})
}
