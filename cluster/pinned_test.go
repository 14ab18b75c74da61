package cluster

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// older is a member of a version that knows no such question.
type older struct{ http.Handler }

func (o older) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == pinnedPath {
		http.NotFound(w, r)
		return
	}
	o.Handler.ServeHTTP(w, r)
}

// TestPinned: any member learns who pins what, by tag, by digest and in a repository; and who does not say.
func TestPinned(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(2, 2, 100<<10)
		c := newTownOf(t, w, 5, 2)
		c.nodes[4].server.Handler = older{c.nodes[4].server.Handler}
		c.pullAll(c.nodes, refs)
		mine := c.nodes[0]
		mine.pin(t, refs[:3])
		time.Sleep(2 * time.Minute) // until another has a copy
		image, layer := refs[0], refs[1]
		whole := image
		whole.Tag = ""
		other := refs[3]
		scopes := []cache.Ref{image, other, whole, {Registry: layer.Registry, Repo: layer.Repo, Kind: cache.KindManifest, Digest: layer.Digest}}
		for range mostThings { // asked in two parts
			scopes = append(scopes, other)
		}
		pins, silent := c.nodes[3].router.Remotes.Pinned(t.Context(), c.nodes[3].view.Load(), append(scopes, image))
		if !slices.Equal(silent, []string{"m4"}) {
			t.Errorf("silent are %v", silent)
		}
		by := map[int][]string{}
		for _, p := range pins {
			home, owner := HomeOf(p)
			if home != "m0" || owner != "test" || p.Ref != image || p.Parts != nil {
				t.Errorf("%+v, of %s for %s", p, home, owner)
			}
			by[p.Scope] = append(by[p.Scope], p.Member)
		}
		for _, scope := range []int{0, 2, 3, len(scopes)} {
			if !slices.Contains(by[scope], "m0") {
				t.Errorf("pinned of %v at %v", scope, by[scope])
			}
			delete(by, scope)
		}
		if len(by) > 0 {
			t.Errorf("and pinned is %v", by)
		}
	})
}

// TestPinnedForMany: all are told of that have pinned an image and are gone, be they half a hundred, and the names as long as
// they come.
func TestPinnedForMany(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		c := newTown(t, newWorld(), 2)
		n := c.nodes[1]
		long := func(n int) string { return strings.Repeat("x", n) }
		ref := cache.Ref{Registry: long(59) + ".com", Repo: "a/" + long(250), Kind: cache.KindManifest, Tag: long(128)}
		for i := range mostPinned {
			if err := n.store.Pin(t.Context(), cache.Pin{Ref: ref, Owner: HeldFor(fmt.Sprint(long(maxName-2), i), "rules")}); err != nil {
				t.Fatal(err)
			}
		}
		scopes := slices.Repeat([]cache.Ref{ref}, mostScopes+1)
		pins, silent := c.nodes[0].router.Remotes.Pinned(t.Context(), c.nodes[0].view.Load(), scopes)
		if len(pins) != len(scopes)*mostPinned || len(silent) > 0 || mostPinned < 50 {
			t.Errorf("%d pins of %d; silent are %v", len(pins), len(scopes)*mostPinned, silent)
		}
		b, err := json.Marshal(pinnedOf(pins[0].Pin))
		if size := len(b) * mostScopes * mostPinned; err != nil || size > mostReply*9/10 {
			t.Errorf("an answer has %d bytes, %v", size, err)
		}
	})
}
