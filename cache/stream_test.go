package cache

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// full is a disk that has no room for downloads from the nth write of one on.
func full(n int) *faulty {
	written := 0
	return &faulty{fault: func(a act) error {
		if !strings.Contains(a.name, "/partial/") && !strings.Contains(a.name, "/tmp/") || !a.writes() {
			return nil
		}
		if written++; written > n {
			return unix.ENOSPC
		}
		return nil
	}}
}

var streamed = flag.Int64("streamed", 24, "MiB that 50 clients together stream past a full disk")

// Many together on what cannot be kept: two fetches at most. In virtual time, in which a busy machine makes nobody late.
func TestTogetherWithoutRoom(t *testing.T) {
	size := *streamed << 20
	blob := newSynthetic(1, size)
	for _, x := range []struct {
		name string
		o    Options
	}{
		{"full from the start", Options{FS: full(0)}},
		{"full in the middle", Options{FS: full(int(size / pieceSize / 2))}},
		{"larger than the budget", Options{Disk: size * 3 / 4}},
		{"larger than the budget, which is below a window", Options{Disk: 10 << 20}},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			ref := h.have("docker.io", "library/a", blob.digest, blob)
			x.o.ScrubRate = -1
			c := open(t, h, x.o)
			together(50, func(i int) {
				if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
					t.Errorf("%s: %d: %d bytes, %v", x.name, i, n, err)
				}
			})
			sent := h.bytes(ref.Digest)
			if n := fromZero(h.opens); n > 2 || sent > 2*size+1<<20 {
				t.Errorf("%s: %d bytes sent, %d fetches: %q", x.name, sent, n, h.opens)
			}
			shut(t, c)
			if s := c.Stats(); s.Landed != 0 || s.Flights != 0 || s.DiskBytes != 0 {
				t.Errorf("%s: %+v", x.name, s)
			}
		})
	}
}

// A slow reader falls out, others do not wait for it, and it gets everything nevertheless.
func TestSlowReaderFallsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		blob := newSynthetic(2, 32<<20)
		ref := h.have("docker.io", "library/a", blob.digest, blob)
		c := open(t, h, Options{FS: full(0), ScrubRate: -1})
		var wg sync.WaitGroup
		read := func(pause time.Duration, most time.Duration) {
			wg.Go(func() {
				began := time.Now()
				b, err := c.Open(t.Context(), ref, Whole)
				if err != nil {
					t.Error(err)
					return
				}
				k := &check{want: blob}
				stops := 0
				k.slow = func(int) {
					if stops++; stops%100 == 0 {
						time.Sleep(pause)
					}
				}
				err = b.SendRange(t.Context(), k, 0, -1)
				if err := errors.Join(k.verdict(err, blob.size), b.Close()); err != nil {
					t.Errorf("%v: %d bytes, %v", pause, k.n, err)
				}
				if took := time.Since(began); took > most {
					t.Errorf("%v: took %v", pause, took)
				}
			})
		}
		for range 5 {
			read(0, 13*time.Second)
		}
		read(30*time.Second, time.Hour)
		wg.Wait()
		if sent := h.bytes(ref.Digest); sent > 2*blob.size {
			t.Errorf("%d bytes sent: %q", sent, h.opens)
		}
	})
}

// A reader that is alone holds nobody up, however slow it is.
func TestSlowReaderAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		blob := newSynthetic(3, 16<<20)
		ref := h.have("docker.io", "library/a", blob.digest, blob)
		c := open(t, h, Options{FS: full(0), ScrubRate: -1})
		b, err := c.Open(t.Context(), ref, Whole)
		if err != nil {
			t.Fatal(err)
		}
		k := &check{want: blob, slow: func(int) { time.Sleep(time.Second) }}
		err = b.SendRange(t.Context(), k, 0, -1)
		if err := errors.Join(k.verdict(err, blob.size), b.Close()); err != nil {
			t.Errorf("%d bytes, %v", k.n, err)
		}
		if gets, _ := h.asked(); gets != 1 {
			t.Errorf("%q", h.opens)
		}
	})
}

// Who comes late joins inside the window, and outside shares one more.
func TestLateComers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = 20 * time.Millisecond
		blob := newSynthetic(4, 32<<20)
		ref := h.have("docker.io", "library/a", blob.digest, blob)
		c := open(t, h, Options{FS: full(0), ScrubRate: -1})
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				switch {
				case i >= 20:
					time.Sleep(3 * time.Second)
				case i >= 10:
					time.Sleep(300 * time.Millisecond)
				}
				if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
					t.Errorf("%d: %d bytes, %v", i, n, err)
				}
			})
		}
		wg.Wait()
		if sent := h.bytes(ref.Digest); sent != 2*blob.size {
			t.Errorf("%d bytes sent: %q", sent, h.opens)
		}
	})
}

func TestRangesWithoutRoom(t *testing.T) {
	h := newHub()
	blob := newSynthetic(5, 16<<20)
	ref := h.have("docker.io", "library/a", blob.digest, blob)
	c := open(t, h, Options{FS: full(0)})
	together(8, func(i int) {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		for range 5 {
			if err := fetchParts(t.Context(), c, ref, somePart(r, blob.size), blob); err != nil {
				t.Error(i, err)
			}
		}
	})
	if n, _, err := fetch(t.Context(), c, ref, 1000, -1, blob); err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// Wrong bytes are never sent to the end, and what was read of them ends for all.
func TestWrongBytesWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, blind := range []bool{false, true} {
			h := newHub()
			h.blind = blind
			h.pace = time.Millisecond
			data := noise(6, 3<<20)
			ref := h.put("docker.io", "library/a", data)
			h.turn = func(request) turn { return turn{flip: 3<<20 - 1} }
			c := open(t, h, Options{FS: full(0), ScrubRate: -1})
			var wg sync.WaitGroup
			for i := range 10 {
				wg.Go(func() {
					n, _, err := pull(t.Context(), c, ref, data)
					if !errors.Is(err, ErrCorrupt) || n > len(data)-holdback {
						t.Errorf("%d: %d bytes, %v", i, n, err)
					}
				})
			}
			wg.Wait()
			h.set(func(h *hub) { h.turn = nil })
			if n, _, err := pull(t.Context(), c, ref, data); err != nil {
				t.Errorf("after: %d bytes, %v", n, err)
			}
		}
	})
}

// A source that breaks in the middle of a stream is asked for the rest.
func TestBreaksWithoutRoom(t *testing.T) {
	for i := range 8 {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			h.rigid, h.blind = i&1 > 0, i&2 > 0
			data := noise(7, 6<<20)
			ref := h.put("docker.io", "library/a", data)
			h.turn = func(r request) turn {
				switch {
				case r.n > 4:
					return turn{}
				case r.n%2 > 0:
					return turn{err: ErrUnavailable}
				}
				return turn{cut: int64(r.n+1) << 20}
			}
			room := 0
			if i&4 > 0 {
				room = 20
			}
			c := open(t, h, Options{FS: full(room), ScrubRate: -1})
			if n, _, err := pull(t.Context(), c, ref, data); err != nil {
				t.Errorf("%d: %d bytes, %v", i, n, err)
			}
			if sent := h.bytes(ref.Digest); !h.rigid && sent > int64(len(data))+readSize {
				t.Errorf("%d: %d bytes sent: %q", i, sent, h.opens)
			}
		})
	}
}

// Proof before the first byte, for those to whom a torn answer looks like an end.
func TestProve(t *testing.T) {
	for _, x := range []struct {
		name string
		o    Options
		size int
		flip bool
		want error
	}{
		{"kept", Options{}, 3 << 20, false, nil},
		{"kept, small", Options{}, 100, false, nil},
		{"empty", Options{}, 0, false, nil},
		{"wrong", Options{}, 3 << 20, true, ErrCorrupt},
		{"passing", Options{FS: full(0)}, 3 << 20, false, nil},
		{"passing, wrong", Options{FS: full(0)}, 3 << 20, true, ErrCorrupt},
		{"passing, too large", Options{FS: full(0)}, 9 << 20, false, ErrUnavailable},
		{"full in the middle", Options{FS: full(5)}, 3 << 20, false, nil},
		{"full in the middle, wrong", Options{FS: full(5)}, 3 << 20, true, ErrCorrupt},
	} {
		for _, blind := range []bool{false, true} {
			h := newHub()
			h.blind = blind
			data := noise(8, x.size)
			ref := h.put("docker.io", "library/a", data)
			if x.flip {
				h.turn = func(request) turn { return turn{flip: 50} }
			}
			c := open(t, h, x.o)
			together(5, func(i int) {
				b, err := c.Open(t.Context(), ref, Whole)
				if err != nil {
					if !errors.Is(err, ErrCorrupt) || !x.flip { // another's proof may have failed before
						t.Errorf("%s, blind %t: %v", x.name, blind, err)
					}
					return
				}
				defer b.Close()
				if err := b.Prove(t.Context()); !errors.Is(err, x.want) || err != nil && x.want == nil {
					t.Errorf("%s, blind %t: %v", x.name, blind, err)
				}
				if x.want != nil {
					return
				}
				k := &check{want: bytes.NewReader(data)}
				err = b.SendRange(t.Context(), k, 0, -1)
				if err := k.verdict(err, int64(x.size)); err != nil || b.Size != int64(x.size) {
					t.Errorf("%s, blind %t: %d bytes of %d, %v", x.name, blind, k.n, b.Size, err)
				}
			})
		}
	}
}

// An open answer that a flight without room leaves behind is closed when nobody takes it.
func TestNobodyTakesTheBaton(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = time.Millisecond
		data := noise(9, 8<<20)
		ref := h.put("docker.io", "library/a", data)
		c := open(t, h, Options{FS: full(20), ScrubRate: -1})
		b, err := c.Open(t.Context(), ref, Whole)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the disk fills up before anybody reads
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if h.live != 0 {
			t.Errorf("%d bodies open", h.live)
		}
		// And the one who takes it goes on without another question.
		h.set(func(h *hub) { h.opens, h.sent = nil, map[Digest]int64{} })
		time.Sleep(time.Minute)
		c2 := open(t, h, Options{FS: full(20), ScrubRate: -1})
		if n, _, err := pull(t.Context(), c2, ref, data); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if gets, _ := h.asked(); gets != 1 || h.bytes(ref.Digest) != int64(len(data)) {
			t.Errorf("%d bytes sent: %q", h.bytes(ref.Digest), h.opens)
		}
	})
}

// A window on disk that cannot be written or read any more.
func TestWindowFails(t *testing.T) {
	blob := newSynthetic(10, 96<<20)
	for _, verb := range []string{"write", "read"} {
		h := newHub()
		ref := h.have("docker.io", "library/a", blob.digest, blob)
		n := 0
		disk := &faulty{fault: func(a act) error {
			if !strings.Contains(a.name, "/tmp/") || a.verb != verb {
				return nil
			}
			if n++; n > 40 {
				return unix.EIO
			}
			return nil
		}}
		c := open(t, h, Options{FS: disk, Disk: 80 << 20}) // the window fits, the blob does not
		together(4, func(i int) {
			if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
				t.Errorf("%s: %d: %d bytes, %v", verb, i, n, err)
			}
		})
		if n <= 40 {
			t.Errorf("%s: the window was on disk for %d operations only", verb, n)
		}
	}
}

// Nobody joins another's stream without permission.
func TestStreamOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = 10 * time.Millisecond
		blob := newSynthetic(11, 8<<20)
		ref := h.have("docker.io", "acme/secret", blob.digest, blob)
		c := open(t, h, Options{FS: full(0), ScrubRate: -1, Private: func(string) bool { return true }})
		var wg sync.WaitGroup
		wg.Go(func() {
			if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
		time.Sleep(50 * time.Millisecond)
		other := ref
		other.Repo = "evil/other"
		if _, err := c.Open(t.Context(), other, Whole); !errors.Is(err, ErrNotFound) {
			t.Errorf("%v", err)
		}
		h.turn = func(r request) turn { // says yes to a HEAD and no to a GET
			if r.caller == "eve" {
				return turn{err: ErrDenied}
			}
			return turn{}
		}
		h.head = func(r request) error {
			if r.caller == "mallory" {
				return ErrDenied
			}
			return nil
		}
		if _, err := c.Open(WithCaller(t.Context(), "mallory"), ref, Whole); !errors.Is(err, ErrDenied) {
			t.Errorf("%v", err)
		}
		third := h.have("docker.io", "acme/mine", blob.digest, blob)
		if n, _, err := fetch(t.Context(), c, third, 0, -1, blob); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		wg.Wait()
		if sent := h.bytes(ref.Digest); sent != blob.size {
			t.Errorf("%d bytes sent: %q", sent, h.opens)
		}
	})
}

func TestCloseDuringStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = 10 * time.Millisecond
		blob := newSynthetic(12, 8<<20)
		ref := h.have("docker.io", "library/a", blob.digest, blob)
		c := open(t, h, Options{FS: full(0), ScrubRate: -1})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); !errors.Is(err, ErrClosed) {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if n, _, err := fetch(ctx, c, ref, 0, -1, blob); !errors.Is(err, context.Canceled) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
		time.Sleep(100 * time.Millisecond)
		cancel()
		synctest.Wait()
		shut(t, c)
		wg.Wait()
	})
}
