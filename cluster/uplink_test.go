package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
)

// TestOwnerWithoutUplink: what its owner cannot fetch, because it is cut off from the registry, is fetched by who is
// asked for it and is not.
func TestOwnerWithoutUplink(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		refs := w.corpus(5, 3, 100<<10)
		c := newTown(t, w, 3)
		c.nodes[2].router.Next = nowhere{}
		c.pullAll(c.nodes[:2], refs)
		for _, n := range c.nodes[:2] {
			if n.router.Stats().Hub == 0 {
				t.Error(n.Name, "asked the registry for nothing")
			}
		}
	})
}

// TestRegistryDown: where nobody reaches the registry, a question that its owner cannot answer costs two more, however
// many members there are.
func TestRegistryDown(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTown(t, w, 9)
		for _, n := range c.nodes {
			n.router.Next = nowhere{}
		}
		for seed := range uint64(20) {
			ref, n := w.blob(1000, seed), c.nodes[seed%9]
			before := n.router.Stats().Asked
			if _, err := n.router.Open(t.Context(), ref, cache.Whole); !errors.Is(err, cache.ErrUnavailable) {
				t.Fatal(err)
			}
			if asked := n.router.Stats().Asked - before; asked > 3 {
				t.Errorf("%d members were asked for what nobody has", asked)
			}
		}
	})
}

// nowhere is a registry that cannot be reached.
type nowhere struct{}

func (nowhere) Resolve(_ context.Context, ref cache.Ref, _ cache.Want) (cache.Answer, error) {
	return cache.Answer{}, fmt.Errorf("%s: no way: %w", ref, cache.ErrUnavailable)
}

func (n nowhere) Open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	return n.Resolve(ctx, ref, want)
}
