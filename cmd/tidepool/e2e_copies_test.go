package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// stock is a registry with images, each of which is pulled once through a cluster.
type stock struct {
	*origintest.Origin
	images []*origintest.Image
}

func newStock(n int) *stock {
	s := &stock{Origin: origintest.New()}
	for i := range n {
		s.images = append(s.images, s.PutImage(fmt.Sprintf("library/kept%d", i), "1", origintest.Spec{Seed: uint64(500 + i), Layers: []origintest.Layer{{Size: 300 << 10, Form: origintest.Raw}, {Size: 2 << 20, Form: origintest.Raw}}}))
	}
	return s
}

// pull has every one of some members asked for everything.
func (s *stock) pull(t *testing.T, members []*tidepool) {
	t.Helper()
	var all sync.WaitGroup
	for _, p := range members {
		for i, img := range s.images {
			all.Go(func() {
				base := fmt.Sprintf("http://%s/v2/library/kept%d/", p.addr, i)
				if err := getOnce(base+"manifests/1", img.Top.Content); err != nil {
					t.Error(err)
				}
				for _, b := range img.Blobs {
					if err := getOnce(base+"blobs/"+b.Digest.String(), b.Content); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
}

// once fails where anything was sent more than once, or more often than members that are well have left one another alone.
func (s *stock) once(t *testing.T, when string, well []*tidepool) {
	t.Helper()
	left := leftAlone(t, well...)
	for _, img := range s.images {
		for _, b := range img.Blobs {
			if n := s.Sent(b.Digest).Most(); n < 1 || n > 1+left {
				t.Errorf("%s: %s was sent %d times; left alone: %d", when, b.Digest, n, left)
			}
		}
	}
}

// given is how many things p has given to other members.
func given(t *testing.T, p *tidepool) (n uint64) {
	t.Helper()
	res, err := http.Get("http://" + p.admin + "/api/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var s struct {
		Cluster struct{ Copies struct{ Given uint64 } }
	}
	must(t, json.NewDecoder(res.Body).Decode(&s))
	return s.Cluster.Copies.Given
}

// TestClusterCopies: with two copies of everything a member may die without warning, and with one a member may leave in
// good order: nothing is fetched again for that.
func TestClusterCopies(t *testing.T) {
	t.Parallel()
	needs(t)
	t.Run("replicas", func(t *testing.T) {
		t.Parallel()
		s := newStock(8)
		c := gather(t, 3, origintest.Serve(t, s.Origin).URL, "--replicas", "2")
		s.pull(t, c.members)
		eventually(t, "each thing has two copies", func() bool {
			sum := uint64(0)
			for _, p := range c.members {
				sum += given(t, p)
			}
			return sum >= 8*4 // a manifest, its config and two layers each
		})
		c.members[0].kill()
		s.pull(t, c.members[1:])
		c.settle(2)
		s.pull(t, c.members[1:])
		s.once(t, "one of three was killed", c.members[1:])
	})
	t.Run("leave", func(t *testing.T) {
		t.Parallel()
		s := newStock(8)
		c := gather(t, 3, origintest.Serve(t, s.Origin).URL)
		s.pull(t, c.members[:1])
		c.members[0].stop(t)
		c.settle(2)
		s.pull(t, c.members[1:])
		s.once(t, "one of three has left", c.members[1:])
	})
}
