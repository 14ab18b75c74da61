package cache

import (
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// trickle gives so many bytes at each read, after a while.
type trickle struct {
	reads []int
	after time.Duration
}

func (s *trickle) Read(p []byte) (int, error) {
	if len(s.reads) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	time.Sleep(s.after)
	n := min(s.reads[0], len(p))
	s.reads = s.reads[1:]
	return n, nil
}

// TestReadTogether: what comes as fast as it is read is taken together, up to a piece; what comes slowly, or first, is not held
// back, and nothing is lost with an error.
func TestReadTogether(t *testing.T) {
	records := slices.Repeat([]int{tlsRecord}, 20)
	for name, x := range map[string]struct {
		src  trickle
		many bool
		room int
		want []int
	}{
		"fast":          {trickle{reads: records}, true, readSize, []int{pieceSize, pieceSize, 4 * tlsRecord}},
		"the first":     {trickle{reads: records[:2]}, false, readSize, []int{tlsRecord, tlsRecord}},
		"slow":          {trickle{records[:3], 2 * prompt}, true, readSize, []int{tlsRecord, tlsRecord, tlsRecord}},
		"a short one":   {trickle{reads: []int{tlsRecord, 700, tlsRecord}}, true, readSize, []int{tlsRecord + 700, tlsRecord}},
		"no more room":  {trickle{reads: records[:3]}, true, tlsRecord + 5, []int{tlsRecord + 5, tlsRecord}},
		"nothing there": {trickle{}, true, readSize, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []int
				buf := make([]byte, x.room)
				for {
					n, err := fill(&x.src, buf, x.many)
					if n > 0 {
						got = append(got, n)
					}
					if err == io.ErrUnexpectedEOF {
						break
					}
				}
				if !slices.Equal(got, x.want) {
					t.Errorf("came in %v, want %v", got, x.want)
				}
			})
		})
	}
}
