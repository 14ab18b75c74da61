package proxy

import (
	"math"
	"strings"
)

const (
	// More ranges than this get the whole: partial pulls of images send a few dozen at most, attacks send thousands.
	maxRanges = 64
	// So do ranges that overlap so much that they would send this many times the content: the whole is cheaper.
	maxOverlap = 2
)

// rangeSpec is one range as a client writes it: from first to last, where a last of math.MaxInt64 is the end; or, if
// first is negative, the last -first bytes.
type rangeSpec struct{ first, last int64 }

// span is n bytes from off on, n > 0, all of which exist.
type span struct{ off, n int64 }

// fromStart is "bytes=0-", which some clients send with everything.
var fromStart = rangeSpec{0, math.MaxInt64}

// parseRanges reads Range headers (RFC 9110, section 14.2). No ranges: there are none, or none that must be honoured:
// another unit, a malformed one, too many of them. Numbers beyond what can be are as large as can be.
func parseRanges(headers []string) []rangeSpec {
	if len(headers) != 1 {
		return nil
	}
	unit, set, ok := strings.Cut(headers[0], "=")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return nil
	}
	var specs []rangeSpec
	for more := true; more; {
		var text string
		text, set, more = strings.Cut(set, ",")
		if text = strings.Trim(text, " \t"); text == "" {
			continue // an empty element of a list means nothing (RFC 9110, section 5.6.1)
		}
		spec, ok := parseRange(text)
		if !ok || len(specs) == maxRanges {
			return nil
		}
		specs = append(specs, spec)
	}
	return specs
}

func parseRange(s string) (rangeSpec, bool) {
	a, b, ok := strings.Cut(s, "-")
	first, okA := offset(a)
	last, okB := offset(b)
	switch {
	case !ok || !okA || !okB || a == "" && b == "":
		return rangeSpec{}, false
	case a == "":
		return suffix(last), true
	case b == "":
		return rangeSpec{first, math.MaxInt64}, true
	}
	return rangeSpec{first, last}, first <= last
}

// suffix is the last n bytes. Those of a suffix of none exist nowhere, like those behind any end.
func suffix(n int64) rangeSpec {
	if n == 0 {
		return rangeSpec{math.MaxInt64, math.MaxInt64}
	}
	return rangeSpec{-n, 0}
}

// offset reads digits; "" is 0. Numbers that do not fit are the largest that does.
func offset(s string) (n int64, ok bool) {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		if n > (math.MaxInt64-9)/10 {
			n = math.MaxInt64
			continue
		}
		n = 10*n + int64(s[i]-'0')
	}
	return n, true
}

// in is the part of content of the given size that r means; none: an n of 0.
func (r rangeSpec) in(size int64) span {
	off, end := r.first, r.last
	if off < 0 {
		off, end = max(0, size+off), math.MaxInt64
	}
	if off >= size {
		return span{}
	}
	return span{off, min(end, size-1) - off + 1}
}

// within is which bytes of content of the given size specs mean, in the order asked. whole: all of it shall be sent
// instead. Neither spans nor whole: no range can be met.
func within(specs []rangeSpec, size int64) (spans []span, whole bool) {
	if len(specs) == 0 || size <= 0 {
		return nil, true
	}
	budget := maxOverlap * uint64(size)
	for _, r := range specs {
		s := r.in(size)
		if s.n == 0 {
			continue
		}
		if uint64(s.n) > budget {
			return nil, true
		}
		budget -= uint64(s.n)
		spans = append(spans, s)
	}
	return spans, false
}
