package cache

import (
	"math/rand/v2"
	"testing"
)

// bitmap is a set of bytes as one would write it without a thought of how many there are.
type bitmap [256]bool

func (b *bitmap) add(from, to int64) {
	for i := from; i < to; i++ {
		b[i] = true
	}
}

func (b *bitmap) reach(off int64) int64 {
	for off < int64(len(b)) && b[off] {
		off++
	}
	return off
}

func (b *bitmap) next(off int64) int64 {
	for ; off < int64(len(b)); off++ {
		if b[off] {
			return off
		}
	}
	return forever
}

// agree adds pairs of bytes, as spans, to both and compares what they say.
func agree(t *testing.T, ops []byte) {
	t.Helper()
	var s spans
	var b bitmap
	for ; len(ops) > 1; ops = ops[2:] {
		from, to := int64(ops[0]), int64(ops[1])
		s.add(from, to)
		b.add(from, to)
		var total, end int64
		for off := range int64(len(b)) {
			if s.reach(off) != b.reach(off) || s.next(off) != b.next(off) {
				t.Fatalf("after +%d..%d: %v: reach(%d) %d, want %d; next %d, want %d", from, to, s, off, s.reach(off),
					b.reach(off), s.next(off), b.next(off))
			}
			if b[off] {
				total, end = total+1, off+1
			}
		}
		if s.total() != total || s.end() != end {
			t.Fatalf("after +%d..%d: %v: %d bytes to %d, want %d to %d", from, to, s, s.total(), s.end(), total, end)
		}
		for i, x := range s {
			if x.from >= x.to || i > 0 && s[i-1].to >= x.from {
				t.Fatalf("after +%d..%d: %v", from, to, s)
			}
		}
	}
}

func TestSpans(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		ops := make([]byte, 2+r.IntN(60))
		for i := range ops {
			ops[i] = byte(r.IntN(256))
		}
		agree(t, ops)
	}
}

func FuzzSpans(f *testing.F) {
	f.Add([]byte{1, 5, 5, 9, 20, 30, 0, 255})
	f.Fuzz(agree)
}

func TestSpansUnsure(t *testing.T) {
	for _, x := range []struct {
		s    spans
		size int64
		want int64
	}{
		{nil, -1, 0}, {spans{{0, 1}}, -1, 0}, {spans{{0, 10}}, -1, 9}, {spans{{0, 10}}, 10, 10}, {spans{{0, 3}, {5, 6}}, -1, 3},
	} {
		if x.s.unsure(x.size); x.s.end() != x.want {
			t.Errorf("%+v", x)
		}
	}
}
