package cache

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// aged is a hub with a tag that has been pulled once, and a cache with a rule for it. For tests in a bubble.
type aged struct {
	t   *testing.T
	hub *hub
	ref Ref
	c   *Cache
}

func newAged(t *testing.T, rule Aging) *aged {
	t.Helper()
	h := newHub()
	a := &aged{t: t, hub: h, ref: h.tag("docker.io", "library/a", "1", manifestOf(1))}
	a.c = open(t, h, Options{Aging: func(Ref) Aging { return rule }})
	a.pulls("never seen", 1, NotAged)
	a.asked("never seen", 1, 0)
	return a
}

// pulls checks which manifest the tag brings, and how its age was dealt with.
func (a *aged) pulls(when string, n int, how Aged) {
	a.t.Helper()
	got, found, err := readTag(a.t, a.c, a.ref)
	if err != nil || !bytes.Equal(got, manifestOf(n)) || found.Aged != how {
		a.t.Errorf("%s: %q, aged %d, %v; want manifest %d, aged %d", when, got, found.Aged, err, n, how)
	}
}

// asked checks how many requests the hub has seen.
func (a *aged) asked(when string, gets, heads int) {
	a.t.Helper()
	synctest.Wait()
	if g, h := a.hub.asked(); g != gets || h != heads {
		a.t.Errorf("%s: %d GETs and %d HEADs, want %d and %d", when, g, h, gets, heads)
	}
}

func (a *aged) moves(n int) { a.hub.tag("docker.io", "library/a", "1", manifestOf(n)) }

// TestGrace: past its freshness a tag is served at once, and asked for behind the answer, once for all.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAged(t, Aging{Fresh: 5 * time.Minute, Grace: time.Hour, Stale: Forever})
		a.hub.set(func(h *hub) { h.head = func(request) error { time.Sleep(10 * time.Second); return nil } })
		a.moves(2)
		time.Sleep(6 * time.Minute)
		began := time.Now()
		together(100, func(int) { a.pulls("in its grace", 1, ServedAged) })
		if took := time.Since(began); took > 0 {
			t.Errorf("they waited %v", took)
		}
		time.Sleep(time.Minute)
		a.asked("behind the answers", 2, 1)
		a.pulls("asked for", 2, NotAged)
		time.Sleep(2 * time.Hour)
		a.pulls("past its grace", 2, Unconfirmed) // the hub takes ten seconds, and nobody waits for more than two
		time.Sleep(time.Minute)
		a.pulls("asked for again", 2, NotAged)
		a.asked("at the end", 2, 2)
	})
}

// TestGraceInAnOutage: the grace is served through it, and the hub is not asked at each pull.
func TestGraceInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAged(t, Aging{Fresh: 5 * time.Minute, Grace: time.Hour, Stale: Forever})
		a.hub.set(func(h *hub) { h.down = true })
		time.Sleep(6 * time.Minute)
		for range 100 {
			a.pulls("down", 1, ServedAged)
			time.Sleep(100 * time.Millisecond)
		}
		if _, heads := a.hub.asked(); heads > 3 {
			t.Errorf("%d HEADs in ten seconds", heads)
		}
	})
}

// TestForever and never.
func TestForeverAndNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAged(t, Aging{Fresh: Forever})
		a.moves(2)
		time.Sleep(2 * 24 * time.Hour)
		a.pulls("two days later", 1, NotAged)
		a.asked("two days later", 1, 0)
	})
	synctest.Test(t, func(t *testing.T) {
		a := newAged(t, Aging{Stale: Forever})
		a.pulls("at once", 1, Unchanged)
		a.moves(2)
		a.pulls("moved", 2, Changed)
		a.asked("moved", 2, 2)
	})
}

// TestStaleBound: what is known will do for so long and no longer.
func TestStaleBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAged(t, Aging{Fresh: 5 * time.Minute, Stale: time.Hour})
		a.hub.set(func(h *hub) { h.down = true })
		time.Sleep(time.Hour)
		a.pulls("an hour old", 1, Unconfirmed)
		time.Sleep(10 * time.Minute)
		if _, _, err := readTag(t, a.c, a.ref); !errors.Is(err, ErrUnavailable) {
			t.Errorf("past the bound: %v", err)
		}
		a.hub.set(func(h *hub) { h.down = false })
		time.Sleep(time.Minute)
		a.pulls("it answers again", 1, Unchanged)
	})
}

// TestGone: a tag that its hub has no more is gone, unless the rule keeps it; what is denied is not kept.
func TestGone(t *testing.T) {
	for _, keep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a := newAged(t, Aging{Fresh: 5 * time.Minute, Stale: Forever, Keep: keep})
			a.hub.set(func(h *hub) { clear(h.tags) })
			for range 3 {
				time.Sleep(6 * time.Minute)
				if keep {
					a.pulls("kept", 1, Unconfirmed)
				} else if _, _, err := readTag(t, a.c, a.ref); !errors.Is(err, ErrNotFound) {
					t.Errorf("gone: %v", err)
				}
			}
			a.hub.set(func(h *hub) { h.head = func(request) error { return ErrDenied } })
			time.Sleep(6 * time.Minute)
			if _, _, err := readTag(t, a.c, a.ref); keep && !errors.Is(err, ErrDenied) {
				t.Errorf("denied: %v", err)
			}
		})
	}
}

// TestKeptInPrivate: what credentials were told is believed for a day, also of a tag that is kept: many registries say
// that something is gone where somebody may no longer see it.
func TestKeptInPrivate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		ref := h.tag("docker.io", "acme/secret", "1", manifestOf(1))
		c := open(t, h, Options{Private: func(string) bool { return true }, ScrubRate: -1,
			Aging: func(Ref) Aging { return Aging{Fresh: 5 * time.Minute, Stale: Forever, Keep: true} }})
		if _, _, err := readTag(t, c, ref); err != nil {
			t.Fatal(err)
		}
		h.set(func(h *hub) { clear(h.tags) })
		time.Sleep(time.Hour)
		if found, err := c.Stat(t.Context(), ref); err != nil || found.Aged != Unconfirmed {
			t.Errorf("an hour later: aged %d, %v", found.Aged, err)
		}
		time.Sleep(privateLink)
		if found, err := c.Stat(t.Context(), ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("a day later: %v, %v", found.Digest, err)
		}
	})
}

// TestAbsence: a hub is believed for half a minute that it has no such tag, for each caller by himself.
func TestAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		c := open(t, h, Options{})
		ref := Ref{Registry: "docker.io", Repo: "library/a", Kind: KindManifest, Tag: "1"}
		for range 50 {
			if _, _, err := readTag(t, c, ref); !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			if _, err := c.Stat(t.Context(), ref); !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			time.Sleep(500 * time.Millisecond)
		}
		if _, err := c.Stat(WithCaller(t.Context(), "bob"), ref); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if gets, heads := h.asked(); gets != 1 || heads != 1 {
			t.Errorf("%d GETs, %d HEADs", gets, heads)
		}
		h.tag("docker.io", "library/a", "1", manifestOf(1))
		time.Sleep(6 * time.Second)
		if got, _, err := readTag(t, c, ref); err != nil || !bytes.Equal(got, manifestOf(1)) {
			t.Errorf("pushed: %q, %v", got, err)
		}
	})
}

// TestMovesWithItsContent: a hub that says where a tag has moved and does not hand it out, as one whose limit on pulls
// is reached, leaves clients with what is held. When it does, one GET brings the new one.
func TestMovesWithItsContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAged(t, Aging{Fresh: 5 * time.Minute, Stale: Forever})
		a.hub.set(func(h *hub) {
			h.turn = func(request) turn { return turn{err: &LimitedError{Registry: "docker.io"}} }
		})
		a.moves(2)
		time.Sleep(6 * time.Minute)
		for range 3 {
			a.pulls("limited", 1, Unconfirmed)
			if found, err := a.c.Stat(t.Context(), a.ref); err != nil || found.Digest != Sum(manifestOf(1)) {
				t.Errorf("a HEAD names %v, which nobody can have: %v", found.Digest, err)
			}
		}
		a.asked("limited", 2, 1)
		a.hub.set(func(h *hub) { h.turn = nil })
		time.Sleep(6 * time.Minute)
		a.pulls("no more", 2, Changed)
		a.asked("no more", 3, 2)
	})
}

// TestToAndFro: a tag that moves back costs no GET, for what it was is held.
func TestToAndFro(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAged(t, Aging{Fresh: 5 * time.Minute, Stale: Forever})
		for i := range 6 {
			a.moves(2 - i%2)
			time.Sleep(6 * time.Minute)
			a.pulls("moved", 2-i%2, Changed)
		}
		a.asked("at the end", 2, 6)
	})
}

// TestLiveUrgency: a download is as urgent as it is to the most urgent who waits for it, at each moment.
func TestLiveUrgency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = time.Second
		ref := h.put("docker.io", "library/a", noise(1, 10*pieceSize))
		c := open(t, h, Options{ScrubRate: -1})
		pull := func(u Urgency) (leave func()) {
			ctx, cancel := context.WithCancel(WithUrgency(t.Context(), u))
			b, err := c.Open(ctx, ref, Whole)
			if err != nil {
				t.Fatal(err)
			}
			return func() { cancel(); _ = b.Close() }
		}
		leave := pull(Warming)
		live := func() Urgency {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, f := range c.flights {
				return UrgencyOf(f.ctx)
			}
			t.Fatal("it is not in flight")
			return 0
		}
		if u := live(); u != Warming {
			t.Errorf("begun to warm: %d", u)
		}
		leaveToo := pull(Interactive)
		if u := live(); u != Interactive {
			t.Errorf("with a client: %d", u)
		}
		leaveToo()
		if u := live(); u != Warming {
			t.Errorf("the client has left: %d", u)
		}
		leave()
		if u := live(); u != Warming {
			t.Errorf("nobody waits: %d", u)
		}
		time.Sleep(time.Minute)
	})
}
