package cache

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

func TestPull(t *testing.T) {
	for _, size := range []int{0, 1, 1000, smallBlob, smallBlob + 1, 3 << 20} {
		for _, mode := range []string{"", "rigid", "blind"} {
			h := newHub()
			h.rigid, h.blind = mode == "rigid", mode == "blind"
			data := noise(1, size)
			ref := h.put("docker.io", "library/a", data)
			c := open(t, h, Options{})
			for i := range 3 {
				got, from, err := pull(t.Context(), c, ref, data)
				if err != nil {
					t.Fatalf("%d %s #%d: %d bytes from %s, %v", size, mode, i, got, from, err)
				}
				if i > 0 && from == FromUpstream {
					t.Errorf("%d %s #%d from %s", size, mode, i, from)
				}
			}
			if len(h.opens) != 1 {
				t.Errorf("%d %s: asked %q", size, mode, h.opens)
			}
		}
	}
}

func TestEachByteOnce(t *testing.T) {
	h := newHub()
	data := noise(2, 64<<20)
	ref := h.put("docker.io", "library/a", data)
	c := open(t, h, Options{})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			off, n := int64(0), int64(-1)
			if i%2 == 0 {
				off = rand.Int64N(int64(len(data)) - 8<<20)
				n = 8 << 20
			}
			if got, _, err := pullRange(t.Context(), c, ref, off, n, data); err != nil {
				t.Errorf("%d+%d: %d bytes, %v", off, n, got, err)
			}
		})
	}
	wg.Wait()
	if sent := h.sent[ref.Digest]; sent > int64(len(data))+int64(pieceSize)*mostRuns {
		t.Errorf("%d bytes sent for %d; %q", sent, len(data), h.opens)
	}
}

func TestWrongBytes(t *testing.T) {
	h := newHub()
	data := noise(3, 5<<20)
	ref := h.put("docker.io", "library/a", data)
	bad := bytes.Clone(data)
	bad[4<<20] ^= 1
	h.change = func(_ Ref, w Want, r io.Reader) io.Reader { return bytes.NewReader(bad[w.Off:]) }
	c := open(t, h, Options{})
	got, _, err := pull(t.Context(), c, ref, data)
	if !errors.Is(err, ErrCorrupt) || got == len(data) {
		t.Fatalf("%d bytes, %v", got, err)
	}
	h.change = nil
	if got, _, err = pull(t.Context(), c, ref, data); err != nil {
		t.Fatalf("after: %d bytes, %v", got, err)
	}
}

func TestLargerThanBudget(t *testing.T) {
	h := newHub()
	data := noise(4, 32<<20)
	ref := h.put("docker.io", "library/a", data)
	c := open(t, h, Options{Disk: 8 << 20})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got, _, err := pull(t.Context(), c, ref, data); err != nil {
				t.Errorf("%d bytes, %v", got, err)
			}
		})
	}
	wg.Wait()
	if sent := h.sent[ref.Digest]; sent > 2*int64(len(data)) {
		t.Errorf("%d bytes sent for %d; %q", sent, len(data), h.opens)
	}
}
