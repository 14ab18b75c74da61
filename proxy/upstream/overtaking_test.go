package upstream

import (
	"fmt"
	"net/http"
	"testing"
)

func left(n int) http.Header {
	return http.Header{"Ratelimit-Limit": {"10;w=21600"}, "Ratelimit-Remaining": {fmt.Sprint(n)}}
}

// TestLedgerOfManyAtOnce: whatever the order in which answers come, no more is thought to be left than is.
func TestLedgerOfManyAtOnce(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		var b books
		var pulls [3]uint64
		for i := range pulls {
			if pulls[i], _, _ = b.spend("", 0, false); pulls[i] == 0 {
				t.Fatal("nothing is known, and nothing granted")
			}
		}
		for n, i := range order {
			b.note("", pulls[i], left(9-i)) // the hub counted them in the order in which they were sent
			if got, most := b.all[""].remaining, int64(7); got > most {
				t.Errorf("%v: %d left after %d answers, %d are", order, got, n+1, most)
			}
			b.over("", pulls[i])
		}
		b.note("", 0, left(10)) // a HEAD, hours later: what was counted is forgotten
		if got := b.all[""].remaining; got != 10 {
			t.Errorf("%v: %d left in a new window", order, got)
		}
	}
}
