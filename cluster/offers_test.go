package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// TestLyingOffer: what a member offers and does not have, or has otherwise, is neither kept nor fetched from the registry.
func TestLyingOffer(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTown(t, w, 2)
		liar, victim := c.nodes[0], c.nodes[1]
		liar.server.Handler = lying{liar.server.Handler}
		var ref cache.Ref
		for seed := uint64(0); ref.Repo == "" || liar.view.Load().Ring.Owners(KeyOf(ref), 1)[0].Name != liar.Name; seed++ {
			ref = w.blob(300<<10, seed)
		}
		ctx := cache.WithKeep(t.Context())
		b, err := liar.store.Open(ctx, ref, cache.Whole)
		if err == nil {
			err = errors.Join(b.Prove(ctx), b.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		w.forget()
		absent := ref.At(cache.Sum([]byte("nobody has this")))
		for _, ref := range []cache.Ref{ref, absent} {
			err := liar.copies.give(t.Context(), victim.Member, thingOf(ref, 300<<10), false)
			if err == nil || victim.store.Holds(ref.Digest) {
				t.Errorf("%s: %v, held: %t", ref, err, victim.store.Holds(ref.Digest))
			}
		}
		w.none(t, "offered")
		if err := victim.pull(t.Context(), w, ref); err != nil && !errors.Is(err, cache.ErrCorrupt) {
			t.Error(err)
		}
	})
}

// roomless is a store that cannot keep anything.
type roomless struct{ *cache.Cache }

func (roomless) Holds(cache.Digest) bool { return false }

// TestNoRoomToTake: what could not be kept was not taken, or its last keeper would let go of it.
func TestNoRoomToTake(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		ref := w.blob(1<<20, 1)
		c := newTown(t, w, 2)
		c.pullAll(c.nodes, []cache.Ref{ref})
		x := &Taker{Store: roomless{c.nodes[0].store}}
		if err := x.fetch(t.Context(), ref, c.nodes[1].Name, false); !errors.Is(err, cache.ErrNoRoom) {
			t.Errorf("%v, want %v", err, cache.ErrNoRoom)
		}
	})
}

// FuzzOffer: whatever a member sends instead of an offer is refused, and nothing of it is kept.
func FuzzOffer(f *testing.F) {
	for path, doc := range map[string]any{
		offerPath: offer{Things: []thing{{Registry: "docker.io", Repo: "library/a", Kind: "blob", Digest: cache.Sum(nil).String(), Size: 5}}},
		takePath:  offer{Things: []thing{{Registry: "docker.io", Repo: "library/a", Kind: "blob", Digest: cache.Sum(nil).String(), Size: 5}}, Hurry: true},
		namesPath: []named{{Registry: "docker.io", Repo: "library/a", Tag: "1", Digest: cache.Sum(nil).String(), AsOf: time.Unix(5, 0)}},
		pinPath:   pinned{Image: thing{Registry: "docker.io", Repo: "library/a", Kind: "manifest", Tag: "1"}, Owner: "a", At: time.Unix(5, 0)},
		pinnedPath: pinQuestion{Scopes: []thing{
			{Registry: "docker.io", Repo: "library/a", Kind: "manifest", Tag: "1"}, {Registry: "docker.io", Repo: "library/a", Kind: "manifest"},
		}},
	} {
		b, err := json.Marshal(doc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(path, b)
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		if !slices.Contains([]string{offerPath, takePath, namesPath, pinPath, pinnedPath}, path) {
			return
		}
		s := &shelf{t: t}
		rec := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodPost, "https://member.test"+path, bytes.NewReader(body))
		if !(&Taker{Store: s}).serve(rec, req, "m1") {
			t.Fatal("not an offer?")
		}
		if rec.Code != http.StatusOK && s.pinned > 0 {
			t.Error("refused, and pinned all the same")
		}
	})
}

// shelf is a store that holds nothing, and checks what it is asked.
type shelf struct {
	t                      *testing.T
	asked, learned, pinned int
}

func (s *shelf) check(ref cache.Ref) {
	s.t.Helper()
	if err := ref.Check(); err != nil {
		s.t.Errorf("%+v: %v", ref, err)
	}
}

func (s *shelf) Open(_ context.Context, ref cache.Ref, _ cache.Want) (*cache.Blob, error) {
	s.check(ref)
	s.asked++
	return nil, cache.ErrNotHeld
}

func (s *shelf) Stat(context.Context, cache.Ref) (cache.Found, error) {
	return cache.Found{}, cache.ErrNotHeld
}
func (s *shelf) Holds(cache.Digest) bool { return false }
func (s *shelf) Rank(cache.Digest, bool) {}
func (s *shelf) Room() float64           { return 1 }
func (s *shelf) Pins() []cache.Pin       { return nil }

func (s *shelf) PinsIn(scope cache.Ref) []cache.Pin {
	if scope.Tag == "" && scope.Digest.IsZero() {
		scope.Tag = "any"
	}
	s.check(scope)
	return nil
}

func (s *shelf) Learn(ref cache.Ref, d cache.Desc, _ time.Time) {
	s.check(ref)
	if d.Digest.IsZero() || d.Size < 0 {
		s.t.Errorf("%+v", d)
	}
	s.learned++
}

func (s *shelf) Pin(_ context.Context, p cache.Pin) error {
	s.check(p.Ref)
	s.pinned++
	return nil
}
