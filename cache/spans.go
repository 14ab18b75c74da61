package cache

import (
	"math"
	"slices"
	"sort"
)

// span is the bytes from from up to, but not including, to.
type span struct{ from, to int64 }

// forever is an end that no content reaches: where a size is not known yet.
const forever = math.MaxInt64

// spans is a set of bytes: sorted spans that neither overlap nor touch.
type spans []span

// after is the index of the first span that ends after off.
func (s spans) after(off int64) int {
	return sort.Search(len(s), func(i int) bool { return s[i].to > off })
}

// add puts the bytes of from..to into the set.
func (s *spans) add(from, to int64) {
	if from >= to {
		return
	}
	lo := sort.Search(len(*s), func(i int) bool { return (*s)[i].to >= from })
	hi := lo
	for ; hi < len(*s) && (*s)[hi].from <= to; hi++ {
		from, to = min(from, (*s)[hi].from), max(to, (*s)[hi].to)
	}
	*s = slices.Replace(*s, lo, hi, span{from, to})
}

// reach is the end of the held bytes that begin at off; off itself where that byte is not held.
func (s spans) reach(off int64) int64 {
	if i := s.after(off); i < len(s) && s[i].from <= off {
		return s[i].to
	}
	return off
}

// next is where the first held byte at or after off is; forever where there is none.
func (s spans) next(off int64) int64 {
	if i := s.after(off); i < len(s) {
		return max(off, s[i].from)
	}
	return forever
}

// end is where the last held byte is, and one on; 0 where there is none.
func (s spans) end() int64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].to
}

// total is how many bytes the set has.
func (s spans) total() (n int64) {
	for _, x := range s {
		n += x.to - x.from
	}
	return n
}

// unsure takes the last byte out of the set where it is not known whether others follow: who asks for it learns where
// the content ends, and who asked for what is behind the end would be told that there is no such thing.
func (s *spans) unsure(size int64) {
	if size >= 0 || len(*s) == 0 {
		return
	}
	last := &(*s)[len(*s)-1]
	if last.to--; last.from == last.to {
		*s = (*s)[:len(*s)-1]
	}
}
