package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// One question for all who ask at a time.
func TestOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		data := noise(1, 1<<20)
		one, two := h.put("docker.io", "library/a", data), h.put("docker.io", "library/b", data)
		other := h.put("ghcr.io", "library/a", data)
		c := open(t, h, Options{ScrubRate: -1})
		h.head = func(request) error { time.Sleep(time.Second); return nil }
		together(200, func(int) {
			if found, err := c.Stat(t.Context(), one); err != nil || found.Size != int64(len(data)) {
				t.Errorf("%+v, %v", found, err)
			}
		})
		if _, heads := h.asked(); heads != 1 {
			t.Errorf("cold: %q", h.heads)
		}
		for _, ref := range []Ref{one, two, other} {
			together(200, func(int) {
				if n, _, err := pull(t.Context(), c, ref, data); err != nil {
					t.Errorf("%s: %d bytes, %v", ref, n, err)
				}
			})
		}
		// A download, a yes for the other repository, a sample from the other registry.
		if gets, heads := h.asked(); gets != 2 || heads != 2 {
			t.Errorf("%q, %q", h.opens, h.heads)
		}
	})
}

// One who leaves takes the answer from nobody.
func TestQuestionOutlivesAsker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		ref := h.tag("docker.io", "library/a", "1", manifestOf(1))
		h.turn = func(request) turn { return turn{wait: time.Second} }
		c := open(t, h, Options{ScrubRate: -1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Open(ctx, ref, Whole); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, found, err := readTag(t, c, ref); err != nil || found.From != FromFlight {
			t.Errorf("%+v, %v", found, err)
		}
		if gets, _ := h.asked(); gets != 1 {
			t.Errorf("%q", h.opens)
		}
	})
}

// What Close interrupts ends as that and as nothing else.
func TestCloseWhileAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		tag := h.tag("docker.io", "library/a", "1", manifestOf(1))
		blob := h.put("docker.io", "library/a", noise(2, 100))
		h.turn = func(request) turn { return turn{wait: time.Hour} }
		c := open(t, h, Options{ScrubRate: -1})
		go func() {
			time.Sleep(time.Minute)
			shut(t, c)
		}()
		refs := []Ref{tag, tag.At(Sum(manifestOf(1))), blob}
		together(len(refs), func(i int) {
			if _, err := c.Open(t.Context(), refs[i], Whole); !errors.Is(err, ErrClosed) {
				t.Errorf("%s: %v", refs[i], err)
			}
		})
	})
}

// Callers have each their own permission, names and flights.
func TestCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		data := noise(3, 1<<20)
		blob := h.put("registry.corp", "acme/a", data)
		tag := h.tag("registry.corp", "acme/a", "1", manifestOf(1))
		c := open(t, h, Options{ScrubRate: -1, Private: func(string) bool { return true }})
		alice, bob := WithCaller(t.Context(), "alice"), WithCaller(t.Context(), "bob")
		no := func(r request) error {
			if r.caller != "alice" {
				return ErrDenied
			}
			return nil
		}
		h.head = no
		h.turn = func(r request) turn { return turn{err: no(r)} }
		refs := []Ref{blob, tag, tag.At(Sum(manifestOf(1)))}
		for _, ref := range refs {
			if _, err := c.Open(alice, ref, Whole); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		}
		for _, ref := range refs {
			for _, ctx := range []context.Context{bob, t.Context()} {
				if _, err := c.Open(ctx, ref, Whole); !errors.Is(err, ErrDenied) {
					t.Errorf("%s: %v", ref, err)
				}
				if found, err := c.Stat(ctx, ref); !errors.Is(err, ErrDenied) {
					t.Errorf("%s: %+v, %v", ref, found, err)
				}
				if _, err := c.Open(ctx, ref, Want{N: -1, HeldOnly: true}); !errors.Is(err, ErrNotHeld) {
					t.Errorf("%s: %v", ref, err)
				}
			}
		}
	})
}

// A no is a no for all of the repository: what was allowed before has to be asked for again.
func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		data := noise(4, 1<<20)
		blob := h.put("docker.io", "acme/a", data)
		elsewhere := h.put("docker.io", "acme/b", data)
		tag := h.tag("docker.io", "acme/a", "1", manifestOf(1))
		c := open(t, h, Options{ScrubRate: -1})
		for _, ref := range []Ref{blob, tag, elsewhere} {
			if _, err := c.Open(t.Context(), ref, Whole); err != nil {
				t.Fatal(err)
			}
		}
		h.head = func(r request) error {
			if r.ref.Repo == "acme/a" {
				return ErrDenied
			}
			return nil
		}
		if _, _, err := pull(t.Context(), c, blob, data); err != nil {
			t.Errorf("before: %v", err)
		}
		time.Sleep(defaultFresh)
		for range 2 {
			for _, ref := range []Ref{tag, tag.At(Sum(manifestOf(1))), blob} {
				if b, err := c.Open(t.Context(), ref, Whole); !errors.Is(err, ErrDenied) {
					t.Errorf("%s: %+v, %v", ref, b, err)
				}
			}
		}
		if _, _, err := pull(t.Context(), c, elsewhere, data); err != nil {
			t.Errorf("elsewhere: %v", err)
		}
		h.head = nil
		if _, _, err := readTag(t, c, tag); err != nil {
			t.Errorf("allowed again: %v", err)
		}
		if gets, _ := h.asked(); gets != 2 {
			t.Errorf("%q", h.opens)
		}
	})
}

// Out of reach: what is open to all is served, what is private is not, once its permission is old.
func TestOutOfReach(t *testing.T) {
	now := time.Now()
	h := newHub()
	data := noise(5, 1<<20)
	c := open(t, h, Options{Private: func(r string) bool { return r == "" || r == "registry.corp" }, Now: func() time.Time { return now }})
	for _, x := range []struct {
		registry string
		want     error
	}{{"docker.io", nil}, {"registry.corp", ErrUnavailable}} {
		h.set(func(h *hub) { h.down = false })
		blob := h.put(x.registry, "acme/a", data)
		tag := h.tag(x.registry, "acme/a", "1", manifestOf(1))
		list := Ref{Registry: x.registry, Repo: "acme/a", Kind: KindTags}
		h.lists[list] = []byte(`{"tags":["1"]}`)
		refs := []Ref{blob, tag, tag.At(Sum(manifestOf(1))), list}
		for _, ref := range refs {
			if _, err := c.Open(t.Context(), ref, Whole); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := pull(t.Context(), c, blob, data); err != nil {
			t.Fatal(err)
		}
		h.set(func(h *hub) { h.down = true })
		for _, age := range []time.Duration{time.Hour, privateLink} {
			now = now.Add(age)
			for _, ref := range refs {
				want := x.want
				if age < privateLink {
					want = nil
				}
				if _, err := c.Open(t.Context(), ref, Whole); !errors.Is(err, want) {
					t.Errorf("%s after %v: %v", ref, age, err)
				}
				if _, err := c.Stat(t.Context(), ref); !errors.Is(err, want) {
					t.Errorf("%s after %v: stat: %v", ref, age, err)
				}
			}
		}
	}
}

// A clock that is set back prolongs nothing, one that is set forward costs questions only.
func TestClock(t *testing.T) {
	now := time.Now()
	h := newHub()
	blob := h.put("registry.corp", "acme/a", noise(6, 100))
	tag := h.tag("registry.corp", "acme/a", "1", manifestOf(1))
	c := open(t, h, Options{Private: func(r string) bool { return true }, Now: func() time.Time { return now },
		Aging: func(Ref) Aging { return Aging{Fresh: Forever} }})
	refs := []Ref{blob, tag, tag.At(Sum(manifestOf(1)))}
	if _, _, err := pull(t.Context(), c, blob, noise(6, 100)); err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		for _, ref := range refs {
			if _, err := c.Open(t.Context(), ref, Whole); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		}
	}
	read()
	read()
	for i, by := range []time.Duration{-10 * 365 * 24 * time.Hour, 20 * 365 * 24 * time.Hour, -time.Hour} {
		h.set(func(h *hub) { h.heads = nil })
		now = now.Add(by)
		read()
		// For the blob and, together, the tag and its manifest.
		if gets, heads := h.asked(); gets != 2 || heads != 2 {
			t.Errorf("%d: %q, %q", i, h.opens, h.heads)
		}
		read()
		if _, heads := h.asked(); heads != 2 {
			t.Errorf("%d: asked again: %q", i, h.heads)
		}
	}
}

// What one registry has sent of a blob is no other's.
func TestPartOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = time.Millisecond
		secret := noise(7, 8<<20)
		private := h.put("registry.corp", "secret/a", secret)
		claim := h.have("evil.example", "x/y", private.Digest, lying(len(secret)))
		c := open(t, h, Options{ScrubRate: -1, Private: func(r string) bool { return r == "" || r == "registry.corp" }})
		if n, _, err := fetch(t.Context(), c, private, 1<<20, 1<<20, bytes.NewReader(secret)); err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		steal := func(when string) {
			for _, want := range []Want{{Off: 1 << 20, N: 1000}, Whole} {
				b, err := c.Open(t.Context(), claim, want)
				if err != nil {
					continue
				}
				var got bytes.Buffer
				_ = b.SendRange(t.Context(), &got, want.Off, want.N)
				if got.Len() > 0 && bytes.Contains(secret, got.Bytes()[:min(got.Len(), 100)]) {
					t.Errorf("%s: %d bytes stolen", when, got.Len())
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
			if found, err := c.Stat(t.Context(), claim); err == nil && found.From != FromUpstream && found.From != FromFlight {
				t.Errorf("%s: %+v", when, found)
			}
		}
		steal("while it is flying")
		time.Sleep(3 * linger)
		steal("parked")
		if n, _, err := pull(t.Context(), c, private, secret); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if sent := h.bytes(private.Digest); sent < int64(len(secret)) {
			t.Errorf("%d bytes sent", sent)
		}
		steal("landed")
	})
}

// A registry that claims what it has not and cannot be asked for a sample: bytes that do not come prove nothing.
func TestNoSample(t *testing.T) {
	data := noise(8, 1<<20)
	for _, x := range []struct {
		name string
		turn turn
		want error // nil: it has it after all
	}{
		{"none", turn{cut: 1, with: io.EOF}, ErrCorrupt},
		{"cut", turn{cut: 1}, ErrUnavailable},
		{"another size", turn{size: 5 << 20}, ErrCorrupt},
		{"cannot skip", turn{rigid: true}, nil},
		{"says no", turn{err: ErrDenied}, ErrDenied},
		{"has none", turn{err: ErrNotFound}, ErrNotFound},
		{"out of reach", turn{err: ErrUnavailable}, ErrUnavailable},
		{"wrong", turn{flip: 1}, ErrCorrupt},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			private := h.put("registry.corp", "secret/a", data)
			c := open(t, h, Options{ScrubRate: -1, Private: func(r string) bool { return r == "" || r == "registry.corp" }})
			if _, _, err := pull(t.Context(), c, private, data); err != nil {
				t.Fatal(err)
			}
			h.turn = func(request) turn {
				x := x.turn
				if x.cut > 0 {
					x.cut = 1 // at once, wherever the answer begins
				}
				return x
			}
			claim := h.put("evil.example", "x/y", data)
			n, _, err := pull(t.Context(), c, claim, data)
			if x.want == nil && err != nil || x.want != nil && !errors.Is(err, x.want) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %d bytes, %v", x.name, n, err)
			}
		})
	}
}

// An aged name is not asked about again and again while the upstream does not answer.
func TestNoHammering(t *testing.T) {
	for _, x := range []struct {
		err   error
		heads int // within ten minutes, by one client that asks each second for each of two tags
	}{
		{ErrUnavailable, 2 * 120},
		{ErrCorrupt, 2 * 120},
		{&LimitedError{}, 120},
		{&LimitedError{Until: time.Date(2000, 1, 1, 6, 0, 0, 0, time.UTC)}, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			c := open(t, h, Options{ScrubRate: -1})
			tags := []Ref{h.tag("docker.io", "library/a", "1", manifestOf(1)), h.tag("docker.io", "library/a", "2", manifestOf(2))}
			for _, ref := range tags {
				if _, _, err := readTag(t, c, ref); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(defaultFresh)
			h.head = func(request) error { return x.err }
			for range 600 {
				for i, ref := range tags {
					if got, found, err := readTag(t, c, ref); err != nil || !found.Stale() || !bytes.Equal(got, manifestOf(i+1)) {
						t.Fatalf("%v: %q, %+v, %v", x.err, got, found, err)
					}
				}
				time.Sleep(time.Second)
			}
			if _, heads := h.asked(); heads > x.heads {
				t.Errorf("%v: %d questions", x.err, heads)
			}
			h.head = nil
			time.Sleep(longestSulk)
			if _, found, err := readTag(t, c, tags[0]); err != nil || found.Stale() {
				t.Errorf("%v: after: %+v, %v", x.err, found, err)
			}
			if s := c.Stats(); s.Stale != 1200 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A tag that moved while its manifest went away, and one whose digest never was there.
func TestMoved(t *testing.T) {
	h := newHub()
	ref := h.tag("docker.io", "library/a", "1", manifestOf(1))
	c := open(t, h, Options{})
	if _, err := c.Stat(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	old := ref.At(Sum(manifestOf(1)))
	h.tag("docker.io", "library/a", "1", manifestOf(2))
	h.lose(old)
	got, _, err := readTag(t, c, ref)
	if err != nil || !bytes.Equal(got, manifestOf(2)) {
		t.Errorf("%q, %v", got, err)
	}
	h.set(func(h *hub) { clear(h.blobs) })
	if _, _, err := readTag(t, c, old); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
