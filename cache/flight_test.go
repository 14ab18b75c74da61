package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneFetchBeforeDuringAfter(t *testing.T) {
	h := newHub()
	blob := newSynthetic(1, 16<<20)
	ref := h.have("docker.io", "library/a", blob.digest, blob)
	c := open(t, h, Options{})
	var begun atomic.Int32
	together(200, func(i int) {
		for i > 50 && begun.Load() < int32(i)/2 { // some come when others are done
			pause(t.Context(), sip)
		}
		if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
			t.Errorf("%d: %d bytes, %v", i, n, err)
		}
		begun.Add(1)
	})
	if gets, heads := h.asked(); gets != 1 || heads != 0 || h.bytes(ref.Digest) != blob.size {
		t.Errorf("asked %q, %q; %d bytes sent", h.opens, h.heads, h.bytes(ref.Digest))
	}
	s := c.Stats()
	if s.Landed != 1 || s.Flights != 0 || s.Fetched != uint64(blob.size) || s.Opened[FromUpstream] != 1 {
		t.Errorf("%+v", s)
	}
}

func TestRandomRangesEachByteOnce(t *testing.T) {
	h := newHub()
	blob := newSynthetic(2, 256<<20)
	ref := h.have("docker.io", "library/a", blob.digest, blob)
	c := open(t, h, Options{})
	const part = 8 << 20
	together(200, func(i int) {
		off := rand.Int64N(blob.size - part)
		if n, _, err := fetch(t.Context(), c, ref, off, part, blob); err != nil {
			t.Errorf("%d+%d: %d bytes, %v", off, part, n, err)
		}
	})
	if sent := h.bytes(ref.Digest); sent > blob.size+part {
		t.Errorf("%d bytes sent for %d", sent, blob.size)
	}
}

func TestManyRangesEachByteOnce(t *testing.T) {
	h := newHub()
	blob := newSynthetic(3, 256<<20)
	ref := h.have("docker.io", "library/a", blob.digest, blob)
	c := open(t, h, Options{Fill: FillAsked})
	var asked spanSet
	together(8, func(i int) {
		r := rand.New(rand.NewPCG(4, uint64(i)))
		for range 25 {
			parts := somePart(r, blob.size)
			for _, p := range parts {
				asked.add(p)
			}
			if err := fetchParts(t.Context(), c, ref, parts, blob); err != nil {
				t.Error(i, err)
			}
		}
	})
	most := asked.total() + 8<<20
	if sent := h.bytes(ref.Digest); sent > most || asked.total() == blob.size {
		t.Errorf("%d bytes sent for %d that were asked for, of %d", sent, asked.total(), blob.size)
	}
}

// spanSet is a set of bytes for many to add to.
type spanSet struct {
	mu  sync.Mutex
	set spans
}

func (s *spanSet) add(x span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set.add(x.from, x.to)
}

func (s *spanSet) total() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set.total()
}

// somePart is what a request with several ranges asks for: 2 to 16, in any order, overlapping, at the end.
func somePart(r *rand.Rand, size int64) (parts []span) {
	for range 2 + r.IntN(15) {
		n := 1 + r.Int64N(1<<(6+r.IntN(15)))
		off := r.Int64N(size - n)
		switch r.IntN(4) {
		case 0:
			off = size - n // a suffix
		case 1:
			if len(parts) > 0 {
				off = min(size-n, parts[len(parts)-1].from+n/2)
			}
		}
		parts = append(parts, span{off, off + n})
	}
	return parts
}

// fetchParts reads several ranges of one opening.
func fetchParts(ctx context.Context, c *Cache, ref Ref, parts []span, want content) (err error) {
	b, err := c.Open(ctx, ref, Want{Off: parts[0].from, N: parts[0].to - parts[0].from})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, p := range parts {
		k := &check{want: want, off: p.from}
		err := b.SendRange(ctx, k, p.from, p.to-p.from)
		if err := k.verdict(err, p.to-p.from); err != nil {
			return fmt.Errorf("%+v: %w", p, err)
		}
	}
	return nil
}

func TestLazyReader(t *testing.T) {
	h := newHub()
	blob := newSynthetic(5, 256<<20)
	ref := h.have("docker.io", "library/a", blob.digest, blob)
	c := open(t, h, Options{})
	const part = 50 << 10
	for range blob.size / 20 / part {
		off := rand.Int64N(blob.size - part)
		if n, _, err := fetch(t.Context(), c, ref, off, part, blob); err != nil {
			t.Fatalf("%d+%d: %d bytes, %v", off, part, n, err)
		}
	}
	if sent := h.bytes(ref.Digest); sent > blob.size/10 {
		t.Errorf("%d bytes sent of %d", sent, blob.size)
	}
}

func TestFill(t *testing.T) {
	const size = 32 << 20
	blob := newSynthetic(6, size)
	for _, x := range []struct {
		fill   Fill
		asked  int64
		landed bool
	}{
		{FillAuto, size / 4, false},
		{FillAuto, size * 3 / 4, true},
		{FillAsked, size * 3 / 4, false},
		{FillAsked, size, true},
		{FillWhole, 1000, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			ref := h.have("docker.io", "library/a", blob.digest, blob)
			c := open(t, h, Options{Fill: x.fill, ScrubRate: -1})
			if err := fetchParts(t.Context(), c, ref, []span{{size - x.asked, size - x.asked/2}, {size - x.asked/2, size}}, blob); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if s := c.Stats(); (s.Landed == 1) != x.landed || s.Flights == 0 != x.landed {
				t.Errorf("%+v: %+v", x, s)
			}
			time.Sleep(2 * linger) // a flight that nobody needs goes
			if s := c.Stats(); s.Flights != 0 {
				t.Errorf("%+v: %+v", x, s)
			}
			sent := h.bytes(ref.Digest)
			if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
				t.Errorf("%+v: %d bytes, %v", x, n, err)
			}
			if again := h.bytes(ref.Digest); again != size || x.landed && sent != size || !x.landed && sent != x.asked {
				t.Errorf("%+v: %d bytes sent, then %d", x, sent, again)
			}
		})
	}
}

// Sources that cannot skip, that tell no size, or neither: ranges and whole readers at once.
func TestPoorSources(t *testing.T) {
	blob := newSynthetic(7, 24<<20)
	for i := range 4 {
		h := newHub()
		h.rigid, h.blind = i&1 > 0, i&2 > 0
		ref := h.have("docker.io", "library/a", blob.digest, blob)
		c := open(t, h, Options{})
		together(24, func(j int) {
			off, n := rand.Int64N(blob.size-1<<20), int64(1<<20)
			if j%3 == 0 {
				off, n = 0, -1
			}
			if got, _, err := fetch(t.Context(), c, ref, off, n, blob); err != nil {
				t.Errorf("rigid %t, blind %t: %d+%d: %d bytes, %v", h.rigid, h.blind, off, n, got, err)
			}
		})
		if sent := h.bytes(ref.Digest); sent > blob.size*2 {
			t.Errorf("rigid %t, blind %t: %d bytes sent for %d: %q", h.rigid, h.blind, sent, blob.size, h.opens)
		}
	}
}

// A reader that asks for more than there is gets an error, and nobody else does.
func TestRangeBeyondTheEnd(t *testing.T) {
	data := noise(8, 3<<20)
	for i := range 8 {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			h.rigid, h.blind = i&1 > 0, i&2 > 0
			ref := h.put("docker.io", "library/a", data)
			c := open(t, h, Options{ScrubRate: -1})
			var others sync.WaitGroup
			defer others.Wait()
			if i&4 > 0 { // while somebody reads the whole
				others.Go(func() {
					if n, _, err := pull(t.Context(), c, ref, data); err != nil {
						t.Errorf("%d: whole: %d bytes, %v", i, n, err)
					}
				})
			}
			for _, part := range []span{{3<<20 - 10, 3<<20 + 10}, {4 << 20, 5 << 20}} {
				if err := fetchParts(t.Context(), c, ref, []span{part}, bytes.NewReader(data)); err == nil {
					t.Errorf("%d: %+v: no error", i, part)
				}
			}
			if n, _, err := pull(t.Context(), c, ref, data); err != nil {
				t.Errorf("%d: after: %d bytes, %v", i, n, err)
			}
		})
	}
}

// What a Blob is asked for must lie in it, wherever it comes from.
func TestRangeOfHeldBeyondTheEnd(t *testing.T) {
	for _, size := range []int{0, 100, smallBlob + 100} {
		h := newHub()
		data := noise(9, size)
		ref := h.put("docker.io", "library/a", data)
		c := open(t, h, Options{})
		for range 3 {
			if _, _, err := pull(t.Context(), c, ref, data); err != nil {
				t.Fatal(err)
			}
			for _, part := range []span{{0, int64(size) + 1}, {int64(size) + 1, int64(size) + 2}, {-1, 1}, {math.MaxInt64 - 1, math.MaxInt64}} {
				b, err := c.Open(t.Context(), ref, Whole)
				if err != nil {
					t.Fatal(err)
				}
				if err := b.SendRange(t.Context(), io.Discard, part.from, part.to-part.from); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%d bytes, %+v: %v", size, part, err)
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		if gets, _ := h.asked(); gets != 1 || c.Stats().Corrupt != 0 {
			t.Errorf("%d bytes: asked %q", size, h.opens)
		}
	}
}
