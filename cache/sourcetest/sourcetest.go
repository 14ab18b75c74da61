// Package sourcetest is the suite that every cache.Source must pass: a hub, a peer, the router between them.
//
// Its invariant: it demands only what the comments of cache.Source promise, of a source behind which all is well.
package sourcetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
)

// Run tests the sources that open makes. Each test has one of its own, with the whole stock behind it.
func Run(t *testing.T, open func(t *testing.T, s *Stock) cache.Source) {
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"resolve a tag", (*suite).resolveTag},
		{"resolve a digest", (*suite).resolveDigest},
		{"open a tag", (*suite).openTag},
		{"open a digest", (*suite).openDigest},
		{"open from an offset", (*suite).openFrom},
		{"open a range", (*suite).openRange},
		{"not found", (*suite).notFound},
		{"unchanged", (*suite).unchanged},
		{"tags", (*suite).tags},
		{"referrers", (*suite).referrers},
		{"held only", (*suite).heldOnly},
		{"cancelled before", (*suite).cancelledBefore},
		{"cancelled within", (*suite).cancelledWithin},
		{"many at once", (*suite).many},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := stock()
			test.run(&suite{t, s, open(t, s)})
		})
	}
}

type suite struct {
	*testing.T
	*Stock
	src cache.Source
}

// verb is one of Source's two.
type verb func(context.Context, cache.Ref, cache.Want) (cache.Answer, error)

// verbs are both, by name.
func (s *suite) verbs() map[string]verb {
	return map[string]verb{"resolve": s.src.Resolve, "open": s.src.Open}
}

func (s *suite) resolveTag() {
	m := s.tagged()
	a, err := s.src.Resolve(s.Context(), s.Stock.tag(m.Tags[0]), cache.Whole)
	s.described(a, err, m.MediaType, m.Digest, len(m.Data))
	s.bodiless(a)
}

func (s *suite) resolveDigest() {
	for _, m := range s.Repos[0].Manifests {
		a, err := s.src.Resolve(s.Context(), s.ref(cache.KindManifest, m.Digest), cache.Whole)
		s.described(a, err, m.MediaType, m.Digest, len(m.Data))
		s.bodiless(a)
	}
	for _, b := range s.Repos[0].Blobs {
		a, err := s.src.Resolve(s.Context(), s.ref(cache.KindBlob, b.Digest), cache.Whole)
		s.described(a, err, "", b.Digest, len(b.Data))
		s.bodiless(a)
	}
}

func (s *suite) openTag() {
	m := s.tagged()
	a, err := s.src.Open(s.Context(), s.Stock.tag(m.Tags[0]), cache.Whole)
	s.described(a, err, m.MediaType, m.Digest, len(m.Data))
	s.brings(a, m.Data, cache.Whole)
}

func (s *suite) openDigest() {
	for _, m := range s.Repos[0].Manifests {
		a, err := s.src.Open(s.Context(), s.ref(cache.KindManifest, m.Digest), cache.Whole)
		s.described(a, err, m.MediaType, m.Digest, len(m.Data))
		s.brings(a, m.Data, cache.Whole)
	}
	for _, b := range s.Repos[0].Blobs {
		a, err := s.src.Open(s.Context(), s.ref(cache.KindBlob, b.Digest), cache.Whole)
		s.described(a, err, "", b.Digest, len(b.Data))
		s.brings(a, b.Data, cache.Whole)
	}
}

func (s *suite) openFrom() {
	for _, off := range []int64{1, 4096, large / 2, large - 1} {
		s.part(cache.Want{Off: off, N: -1})
	}
}

func (s *suite) openRange() {
	for _, want := range []cache.Want{
		{Off: 0, N: 1}, {Off: 0, N: large}, {Off: 4095, N: 4098}, {Off: large / 2, N: 1 << 20}, {Off: large - 1, N: 1},
	} {
		s.part(want)
	}
}

// part opens a part of the large blob.
func (s *suite) part(want cache.Want) {
	s.Helper()
	b := s.layer()
	a, err := s.src.Open(s.Context(), s.ref(cache.KindBlob, b.Digest), want)
	s.described(a, err, "", b.Digest, len(b.Data))
	s.brings(a, b.Data, want)
}

func (s *suite) notFound() {
	app, other := s.Repos[0], s.Repos[1]
	absent := cache.Sum([]byte("absent"))
	nowhere := cache.Ref{Registry: s.Registry, Repo: "test/nowhere", Kind: cache.KindManifest, Tag: "latest"}
	noTags := cache.Ref{Registry: s.Registry, Repo: "test/nowhere", Kind: cache.KindTags}
	for what, ref := range map[string]cache.Ref{
		"a tag":                       s.Stock.tag("absent"),
		"a manifest":                  s.ref(cache.KindManifest, absent),
		"a blob":                      s.ref(cache.KindBlob, absent),
		"a repository":                nowhere,
		"the tags of no repository":   noTags,
		"a tag of another repository": s.Stock.tag(other.Manifests[0].Tags[0]),
		"another repository's blob":   s.ref(cache.KindBlob, other.Blobs[0].Digest),
		"another's manifest":          s.ref(cache.KindManifest, other.Manifests[0].Digest),
		"a blob as a manifest":        s.ref(cache.KindManifest, app.Blobs[1].Digest),
	} {
		for name, do := range s.verbs() {
			a, err := do(s.Context(), ref, cache.Whole)
			if !errors.Is(err, cache.ErrNotFound) {
				s.Errorf("%s %s (%s): %v, want ErrNotFound", name, what, ref, err)
			}
			s.discard(a)
		}
	}
}

func (s *suite) unchanged() {
	m := s.tagged()
	for what, ref := range map[string]cache.Ref{
		"a tag":     s.Stock.tag(m.Tags[0]),
		"tags":      {Registry: s.Registry, Repo: s.Repos[0].Name, Kind: cache.KindTags},
		"referrers": s.ref(cache.KindReferrers, m.Digest),
	} {
		for name, do := range s.verbs() {
			a, err := do(s.Context(), ref, cache.Want{N: -1, Known: cache.Sum([]byte("of old"))})
			if err != nil {
				s.Errorf("%s %s, known another: %v", name, what, err)
				continue
			}
			known := a.Digest
			s.discard(a)
			a, err = do(s.Context(), ref, cache.Want{N: -1, Known: known})
			if !errors.Is(err, cache.ErrUnchanged) {
				s.Errorf("%s %s, known: %v, want ErrUnchanged", name, what, err)
			}
			s.discard(a)
		}
	}
}

func (s *suite) tags() {
	var want []string
	for _, m := range s.Repos[0].Manifests {
		want = append(want, m.Tags...)
	}
	slices.Sort(want)
	var got struct {
		Name string
		Tags []string
	}
	s.list(cache.Ref{Registry: s.Registry, Repo: s.Repos[0].Name, Kind: cache.KindTags}, "application/json", &got)
	if got.Name != s.Repos[0].Name || !slices.Equal(got.Tags, want) {
		s.Errorf("%+v, want the tags %v of %s", got, want, s.Repos[0].Name)
	}
}

func (s *suite) referrers() {
	s.referring(s.tagged().Digest)
	s.referring(s.Repos[0].Manifests[1].Digest) // it has none
	s.referring(cache.Sum([]byte("absent")))    // nor has this: an empty index, no refusal
}

func (s *suite) referring(subject cache.Digest) {
	s.Helper()
	var want, got []cache.Digest
	for _, m := range s.Repos[0].Manifests {
		if m.subject == subject {
			want = append(want, m.Digest)
		}
	}
	var doc struct {
		SchemaVersion int
		MediaType     string
		Manifests     []struct {
			descriptor
			ArtifactType string
			Annotations  map[string]string
		}
	}
	s.list(s.ref(cache.KindReferrers, subject), typeIndex, &doc)
	if doc.SchemaVersion != 2 || doc.MediaType != typeIndex || doc.Manifests == nil {
		s.Errorf("the referrers of %s are no index: %+v", subject, doc)
	}
	for _, d := range doc.Manifests {
		got = append(got, d.Digest)
		if d.ArtifactType == "" || d.Annotations["number"] == "" || d.MediaType != typeImage || d.Size == 0 {
			s.Errorf("%+v lacks something", d)
		}
	}
	if !equalSets(got, want) {
		s.Errorf("the referrers of %s are %v, want %v", subject, got, want)
	}
}

func equalSets(a, b []cache.Digest) bool {
	text := func(ds []cache.Digest) (out []string) {
		for _, d := range ds {
			out = append(out, d.String())
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(text(a), text(b))
}

// list opens a list twice, which must give the same bytes, and reads it.
func (s *suite) list(ref cache.Ref, mediaType string, into any) {
	s.Helper()
	var first []byte
	for range 2 {
		a, err := s.src.Open(s.Context(), ref, cache.Whole)
		if err != nil || a.Body == nil {
			s.Fatalf("open %s: %v, body %v", ref, err, a.Body)
		}
		b := s.read(a)
		if a.MediaType != mediaType || !a.Digest.Names(b) || a.Size >= 0 && a.Size != int64(len(b)) {
			s.Errorf("%s: %+v for %d bytes of %s", ref, a.Desc, len(b), mediaType)
		}
		if len(first) > 0 && !bytes.Equal(first, b) {
			s.Errorf("%s: other bytes the second time", ref)
		}
		first = b
	}
	if err := json.Unmarshal(first, into); err != nil {
		s.Errorf("%s: %v", ref, err)
	}
}

// heldOnly is a question that may be declined, never answered wrongly.
func (s *suite) heldOnly() {
	b := s.layer()
	want := cache.Want{N: -1, HeldOnly: true}
	a, err := s.src.Open(s.Context(), s.ref(cache.KindBlob, b.Digest), want)
	if errors.Is(err, cache.ErrNotHeld) {
		return
	}
	s.described(a, err, "", b.Digest, len(b.Data))
	s.brings(a, b.Data, want)
}

func (s *suite) cancelledBefore() {
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	for name, do := range s.verbs() {
		a, err := do(ctx, s.ref(cache.KindBlob, s.layer().Digest), cache.Whole)
		if err == nil {
			s.Errorf("%s: an answer to one who is gone", name)
		}
		s.discard(a)
	}
}

func (s *suite) cancelledWithin() {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	a, err := s.src.Open(ctx, s.ref(cache.KindBlob, s.layer().Digest), cache.Whole)
	if err != nil {
		s.Fatal(err)
	}
	defer a.Body.Close()
	step := make([]byte, 1<<10)
	if _, err := io.ReadFull(a.Body, step); err != nil {
		s.Fatal(err)
	}
	cancel()
	for err == nil {
		runtime.Gosched() // it may be another goroutine that has to notice
		_, err = a.Body.Read(step)
	}
	if err == io.EOF {
		s.Error("the body goes on to its end, though its context is over")
	}
}

func (s *suite) many() {
	m, b := s.tagged(), s.layer()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			a, err := s.src.Open(s.Context(), s.Stock.tag(m.Tags[i]), cache.Whole)
			if s.described(a, err, m.MediaType, m.Digest, len(m.Data)) {
				s.brings(a, m.Data, cache.Whole)
			}
			want := cache.Want{Off: int64(i) << 19, N: 1 << 19}
			a, err = s.src.Open(s.Context(), s.ref(cache.KindBlob, b.Digest), want)
			if s.described(a, err, "", b.Digest, len(b.Data)) {
				s.brings(a, b.Data, want)
			}
		})
	}
	all.Wait()
}
