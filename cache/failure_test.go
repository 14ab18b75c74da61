package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What a source may do in the middle, what comes of it, and what it may cost.
func TestBreaks(t *testing.T) {
	const size, half = 4 << 20, 2 << 20
	data := noise(1, size)
	limited := func(wait time.Duration) func() error {
		return func() error { return &LimitedError{Registry: "docker.io", Until: time.Now().Add(wait)} }
	}
	always := func(err error) func() error { return func() error { return err } }
	for _, x := range []struct {
		name   string
		cut    int64         // where each answer breaks, from its beginning
		breaks int           // how many answers break
		then   func() error  // what is answered after that, so many times; nil: nothing of the kind
		times  int           //
		want   error         // nil: all is well in the end
		gets   int           // requests made
		within time.Duration // virtual
	}{
		{name: "cut once", cut: half, breaks: 1, gets: 2, within: time.Second},
		{name: "cut at once", cut: 1, breaks: 1, gets: 2, within: time.Second},
		{name: "cut always", cut: 100 << 10, breaks: 1000, gets: 41, within: 10 * time.Second},
		{name: "a trickle", cut: 1 << 10, breaks: 1000, want: io.ErrUnexpectedEOF, gets: 2 * tries, within: 5 * time.Second},
		{name: "down for a moment", cut: half, breaks: 1, then: always(ErrUnavailable), times: 6, gets: 8, within: 20 * time.Second},
		{name: "down for good", cut: half, breaks: 1, then: always(ErrUnavailable), times: 1000, want: ErrUnavailable,
			gets: 1 + moreTries + tries, within: 30 * time.Second},
		{name: "no kind of error", cut: half, breaks: 1, then: always(io.ErrNoProgress), times: 1, gets: 3, within: time.Second},
		{name: "limited for a moment", cut: half, breaks: 1, then: limited(5 * time.Second), times: 1, gets: 3, within: 6 * time.Second},
		{name: "limited for long", cut: half, breaks: 1, then: limited(time.Hour), times: 1, want: ErrLimited, gets: 2, within: time.Second},
		{name: "limited", cut: half, breaks: 1, then: always(&LimitedError{}), times: 2, gets: 4, within: 2 * time.Second},
		{name: "gone", cut: half, breaks: 1, then: always(ErrNotFound), times: 1, want: ErrNotFound, gets: 2, within: time.Second},
		{name: "denied", cut: half, breaks: 1, then: always(ErrDenied), times: 1, want: ErrDenied, gets: 2, within: time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			ref := h.put("docker.io", "library/a", data)
			h.turn = func(r request) turn {
				switch {
				case r.n < x.breaks:
					return turn{cut: r.want.Off + x.cut}
				case r.n < x.breaks+x.times:
					return turn{err: x.then()}
				}
				return turn{}
			}
			c := open(t, h, Options{ScrubRate: -1})
			began := time.Now()
			n, _, err := pull(t.Context(), c, ref, data)
			gets, _ := h.asked()
			if took := time.Since(began); !errors.Is(err, x.want) || err != nil && x.want == nil || gets != x.gets || took > x.within {
				t.Errorf("%s: %d bytes, %v; %d requests in %v", x.name, n, err, gets, took)
			}
			sent := h.bytes(ref.Digest)
			if x.want == nil && sent != size {
				t.Errorf("%s: %d bytes sent", x.name, sent)
			}
			h.set(func(h *hub) { h.turn = nil }) // the next pull works, and goes on where the first one ended
			if n, _, err := pull(t.Context(), c, ref, data); err != nil {
				t.Errorf("%s: after: %d bytes, %v", x.name, n, err)
			}
			if again := h.bytes(ref.Digest); again > size+tries<<10 {
				t.Errorf("%s: %d bytes sent in all", x.name, again)
			}
		})
	}
}

// A first answer that says no is the client's at once.
func TestRefusals(t *testing.T) {
	data := noise(2, 1<<20)
	for _, x := range []struct {
		err  error
		gets int
	}{
		{ErrNotFound, 1}, {ErrDenied, 1}, {&LimitedError{Registry: "docker.io"}, 1}, {ErrUnsupported, 1}, {ErrCorrupt, 1},
		{&LimitedError{Until: time.Date(2000, 1, 1, 0, 1, 0, 0, time.UTC)}, 1}, {ErrUnavailable, tries},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			ref := h.put("docker.io", "library/a", data)
			h.turn = func(request) turn { return turn{err: x.err} }
			c := open(t, h, Options{ScrubRate: -1})
			for range 2 {
				h.opens = nil
				_, err := c.Open(t.Context(), ref, Whole)
				if gets, _ := h.asked(); !errors.Is(err, x.err) || gets != x.gets {
					t.Errorf("%v: %v after %d requests", x.err, err, gets)
				}
			}
		})
	}
}

// A source that stalls holds nobody who has had enough of it, and loses nothing.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		data := noise(3, 4<<20)
		ref := h.put("docker.io", "library/a", data)
		h.turn = func(r request) turn {
			if r.n == 0 {
				return turn{cut: 2 << 20, stall: true}
			}
			return turn{}
		}
		dir := ramDir(t)
		c := open(t, h, Options{Dir: dir, ScrubRate: -1})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				off, n := int64(0), int64(-1)
				if i > 0 {
					off, n = int64(i)<<20, 1<<20+1 // i = 1: held but for a byte; i = 2: not at all
				}
				if _, _, err := fetch(ctx, c, ref, off, n, bytes.NewReader(data)); !errors.Is(err, context.Canceled) {
					t.Errorf("%d: %v", i, err)
				}
			})
			synctest.Wait() // the first one's request is the one that stalls
		}
		began := time.Now()
		cancel()
		wg.Wait()
		if took := time.Since(began); took > 0 {
			t.Errorf("woken after %v", took)
		}
		shut(t, c) // in the middle of the stall
		c = open(t, h, Options{Dir: dir, ScrubRate: -1})
		if n, _, err := pull(t.Context(), c, ref, data); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if sent := h.bytes(ref.Digest); sent != int64(len(data)) {
			t.Errorf("%d bytes sent: %q", sent, h.opens)
		}
	})
}

// Close ends what is under way; the next process goes on with what was held.
func TestCloseDuringFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = time.Millisecond
		blob := newSynthetic(4, 32<<20)
		ref := h.have("docker.io", "library/a", blob.digest, blob)
		dir := ramDir(t)
		var wg sync.WaitGroup
		for range 3 {
			c := open(t, h, Options{Dir: dir, ScrubRate: -1})
			for _, off := range []int64{0, 0, 8 << 20, 20 << 20} {
				wg.Go(func() {
					n := int64(-1)
					if off > 0 {
						n = 4 << 20
					}
					if n, _, err := fetch(t.Context(), c, ref, off, n, blob); err != nil && !errors.Is(err, ErrClosed) {
						t.Errorf("%d bytes from %d: %v", n, off, err)
					}
				})
			}
			time.Sleep(20 * time.Millisecond)
			shut(t, c)
			wg.Wait()
			if _, err := c.Open(t.Context(), ref, Whole); !errors.Is(err, ErrClosed) && err != nil {
				t.Errorf("after Close: %v", err)
			}
		}
		h.set(func(h *hub) { h.pace = 0 })
		c := open(t, h, Options{Dir: dir, ScrubRate: -1})
		if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if sent := h.bytes(ref.Digest); sent > blob.size+pieceSize*16 {
			t.Errorf("%d bytes sent for %d", sent, blob.size)
		}
	})
}

// A client that leaves does not end the flight.
func TestClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = time.Millisecond
		data := noise(5, 8<<20)
		ref := h.put("docker.io", "library/a", data)
		c := open(t, h, Options{ScrubRate: -1})
		b, err := c.Open(t.Context(), ref, Whole)
		if err != nil {
			t.Fatal(err)
		}
		gone := errors.New("gone")
		if err := b.SendRange(t.Context(), refusing{gone}, 0, -1); !errors.Is(err, gone) {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if c.Stats().Landed != 1 {
			t.Error("not landed")
		}
	})
}

// refusing is a client that has gone.
type refusing struct{ err error }

func (r refusing) Write([]byte) (int, error) { return 0, r.err }

// A no to one repository or caller is nothing to another who follows the same download.
func TestAnothersAnswer(t *testing.T) {
	data := noise(6, 8<<20)
	bob := func(ctx context.Context) context.Context { return WithCaller(ctx, "bob") }
	self := func(ctx context.Context) context.Context { return ctx }
	for _, no := range []error{ErrNotFound, ErrDenied, &LimitedError{Registry: "docker.io"}} {
		for _, x := range []struct {
			repo string
			as   func(context.Context) context.Context
		}{{"library/b", self}, {"library/a", bob}} {
			for _, at := range []int64{0, 4 << 20} {
				synctest.Test(t, func(t *testing.T) {
					h := newHub()
					h.pace = time.Millisecond
					a, b := h.put("docker.io", "library/a", data), h.put("docker.io", x.repo, data)
					first := asked{a, ""}
					h.turn = func(r request) turn {
						switch {
						case asked{r.ref, r.caller} != first:
							return turn{}
						case at == 0 || r.n > 0:
							return turn{err: no, wait: 10 * time.Millisecond}
						}
						return turn{cut: at}
					}
					c := open(t, h, Options{ScrubRate: -1})
					var wg sync.WaitGroup
					for i := range 4 {
						wg.Go(func() {
							if _, _, err := pull(t.Context(), c, a, data); !errors.Is(err, no) {
								t.Errorf("%v at %d: %d: %v", no, at, i, err)
							}
						})
					}
					time.Sleep(time.Millisecond)
					for i := range 4 {
						wg.Go(func() {
							if n, _, err := pull(x.as(t.Context()), c, b, data); err != nil {
								t.Errorf("%v at %d: another %d: %d bytes, %v", no, at, i, n, err)
							}
						})
					}
					wg.Wait()
					if sent := h.bytes(a.Digest); sent != int64(len(data)) {
						t.Errorf("%v at %d: %d bytes sent: %q", no, at, sent, h.opens)
					}
				})
			}
		}
	}
}

// Who may not have it gets nothing of a running flight.
func TestJoinWithoutPermission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = time.Millisecond
		blob := newSynthetic(7, 8<<20)
		ref := h.have("docker.io", "acme/secret", blob.digest, blob)
		c := open(t, h, Options{ScrubRate: -1, Private: func(string) bool { return true }})
		var wg sync.WaitGroup
		wg.Go(func() {
			if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
		time.Sleep(5 * time.Millisecond)
		h.head = func(r request) error {
			if r.caller != "" {
				return ErrDenied
			}
			return nil
		}
		other := ref
		other.Repo = "evil/other"
		for i, x := range []struct {
			ctx context.Context
			ref Ref
			err error
		}{{t.Context(), other, ErrNotFound}, {WithCaller(t.Context(), "eve"), ref, ErrDenied}} {
			for _, want := range []Want{Whole, {Off: 0, N: 1}, {Off: 6 << 20, N: 1000}, {N: -1, HeldOnly: true}} {
				err := x.err
				if want.HeldOnly {
					err = ErrNotHeld
				}
				if _, e := c.Open(x.ctx, x.ref, want); !errors.Is(e, err) {
					t.Errorf("%d: %+v: %v", i, want, e)
				}
			}
			if found, err := c.Stat(x.ctx, x.ref); !errors.Is(err, x.err) {
				t.Errorf("%d: %+v, %v", i, found, err)
			}
		}
		if found, err := c.Stat(t.Context(), ref); err != nil || found.Size != blob.size || found.From != FromFlight {
			t.Errorf("its own: %+v, %v", found, err)
		}
		wg.Wait()
		if s := c.Stats(); s.Landed != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A hub that says one size and then another is not believed, and not for ever disbelieved.
func TestSizeChanges(t *testing.T) {
	const size = 4 << 20
	data := noise(8, size)
	for _, lie := range []int64{size - 1<<20, size + 1, size * 2, 1} {
		for when := range 2 {
			synctest.Test(t, func(t *testing.T) {
				h := newHub()
				ref := h.put("docker.io", "library/a", data)
				h.turn = func(r request) turn {
					x := turn{}
					if r.n == 0 {
						x.cut = size / 4
					}
					if r.n == when {
						x.size = lie
					}
					return x
				}
				c := open(t, h, Options{ScrubRate: -1})
				if n, _, err := pull(t.Context(), c, ref, data); err == nil || n > size {
					t.Errorf("%d, %d: %d bytes, %v", lie, when, n, err)
				}
				h.set(func(h *hub) { h.turn = nil })
				if n, _, err := pull(t.Context(), c, ref, data); err != nil {
					t.Errorf("%d, %d: after: %d bytes, %v", lie, when, n, err)
				}
			})
		}
	}
}

// A source that breaks over ranges is asked for the whole.
func TestRangesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		blob := newSynthetic(9, 16<<20)
		ref := h.have("docker.io", "library/a", blob.digest, blob)
		h.turn = func(r request) turn {
			if r.want != Whole {
				return turn{err: fmt.Errorf("bad request: %w", ErrUnavailable)}
			}
			return turn{}
		}
		c := open(t, h, Options{ScrubRate: -1})
		if n, _, err := fetch(t.Context(), c, ref, 12<<20, 1000, blob); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}
