package cluster

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// stove is a few members that are asked for blobs, by their rules for hot copies alone.
type stove struct {
	ring   *Ring
	now    time.Time
	heat   []*Heat
	served []uint64
	copies []map[cache.Digest]bool
	random *rand.Rand
}

func newStove(weights ...int) *stove {
	s := &stove{now: time.Unix(1e9, 0), served: make([]uint64, len(weights)), random: rand.New(rand.NewPCG(1, 2))}
	var all []Member
	for i, w := range weights {
		all = append(all, Member{Name: fmt.Sprint(i), Weight: w, State: Ready})
	}
	s.ring = NewRing(all)
	for i := range weights {
		v := &View{Self: fmt.Sprint(i), Ring: s.ring}
		h := &Heat{View: func() *View { return v }, Now: func() time.Time { return s.now }}
		h.Follow(func() uint64 { return s.served[i] })
		s.heat, s.copies = append(s.heat, h), append(s.copies, map[cache.Digest]bool{})
	}
	return s
}

// ask has a member asked for a blob, which another one owns.
func (s *stove) ask(at, owner int, d cache.Digest) {
	if at == owner || s.copies[at][d] {
		s.served[at]++
		return
	}
	s.heat[owner].Hear(fmt.Sprint(at), s.heat[at].Work())
	s.served[owner]++
	s.copies[at][d] = s.heat[owner].Worth(d)
	s.heat[at].Hear(fmt.Sprint(owner), s.heat[owner].Work())
}

// busy has all members asked for what is drawn of blobs for so long, so often a second: blob i is owned by member i.
func (s *stove) busy(d time.Duration, rate int, draw func() int) {
	for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(time.Second / time.Duration(rate)) {
		i := draw()
		s.ask(s.random.IntN(len(s.heat)), i%len(s.heat), cache.Sum(fmt.Append(nil, i)))
	}
}

// kept is how many copies there are.
func (s *stove) kept() (n int) {
	for _, c := range s.copies {
		for _, is := range c {
			if is {
				n++
			}
		}
	}
	return n
}

func TestHeat(t *testing.T) {
	even := func(s *stove) func() int { return func() int { return s.random.IntN(20) } }
	hot := func(s *stove) func() int { // blob 0 is every fourth that is asked for
		return func() int { return s.random.IntN(20) * min(1, s.random.IntN(4)) }
	}
	t.Run("even", func(t *testing.T) {
		s := newStove(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
		if s.busy(time.Minute, 500, even(s)); s.kept() > 2 {
			t.Errorf("%d copies where all have as much to do", s.kept())
		}
	})
	t.Run("hot", func(t *testing.T) {
		s := newStove(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
		s.busy(30*time.Second, 500, hot(s))
		before := s.served[0]
		s.busy(time.Minute, 500, hot(s))
		if part := float64(s.served[0]-before) / (60 * 500 / 10); part > 1.3 {
			t.Errorf("its owner served %.2f times the mean in the end, of 3.25", part)
		}
		if n := s.kept(); n < 7 || n > 12 { // seven of nine would do, of the one blob
			t.Errorf("%d copies", n)
		}
	})
	t.Run("rarely asked for", func(t *testing.T) {
		s := newStove(1, 1, 1, 1)
		if s.busy(10*time.Minute, 10, hot(s)); s.kept() > 0 {
			t.Errorf("%d copies where nobody needs relief", s.kept())
		}
	})
	t.Run("by weight", func(t *testing.T) {
		s := newStove(5, 1, 1, 1) // five eighths of all is what the first is to have
		s.busy(time.Minute, 200, func() int { return s.random.IntN(4) * min(1, s.random.IntN(2)) })
		if s.kept() > 0 {
			t.Errorf("%d copies of what a member with five times the weight has to do", s.kept())
		}
	})
	t.Run("said by nobody", func(t *testing.T) {
		s := newStove(1, 1, 1)
		for range 1000 {
			if s.served[0]++; s.heat[0].Worth(cache.Sum(nil)) {
				t.Fatal("a copy, though nothing is known of the others")
			}
		}
		s.heat[0].Hear("1", 10)
		s.now = s.now.Add(fairFor)
		if !s.heat[0].Worth(cache.Sum(nil)) {
			t.Error("no copy where the other has next to nothing to do")
		}
		if s.now = s.now.Add(saidFor); s.heat[0].Worth(cache.Sum(nil)) {
			t.Error("a copy by what was said long ago")
		}
	})
}

// TestHeatStrangers: what a member says of its work, however wrong, takes a bounded room and breaks nothing.
func TestHeatStrangers(t *testing.T) {
	s := newStove(1, 1)
	h := s.heat[0]
	for _, work := range []string{"", "-1", "x", "1e9", "99999999999999999999", fmt.Sprint(mostWork + 1), "NaN"} {
		if h.hear("1", work); len(h.claims) > 0 {
			t.Errorf("%q is believed", work)
		}
	}
	for i := range 3 * mostSaid {
		h.Hear(fmt.Sprint("stranger ", i), mostWork)
	}
	for i := range 2 * mostHeat {
		h.Worth(cache.Sum(fmt.Append(nil, i)))
	}
	for i := range 2 * mostWanted {
		h.want(cache.Sum(fmt.Append(nil, i)), true)
	}
	if len(h.claims) > mostSaid || h.asked.Len() > mostHeat || h.wanted.Len() > mostWanted {
		t.Errorf("%d, %d, %d are remembered", len(h.claims), h.asked.Len(), h.wanted.Len())
	}
	var none *Heat
	none.Hear("1", 5)
	none.want(cache.Sum(nil), true)
	if none.Work() != 0 || none.Worth(cache.Sum(nil)) || none.wants(cache.Sum(nil)) {
		t.Error("of no heat")
	}
}
