package main

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tidepool-oci/tidepool/cluster"
)

// What deploy/sizing.md takes from the figures holds: no member has more than 1.4 times the mean, and a join moves what
// the new member owns.
func TestSharesAndMoves(t *testing.T) {
	for _, n := range []int{3, 10, 100} {
		all := members(n + 1)
		r := cluster.NewRing(all[:n])
		if most, least := evenness(r, n); most > 1.4 || least < 0.6 {
			t.Errorf("of %d members one has %.2f times the mean, one %.2f", n, most, least)
		}
		if m := moved(r, all, 30_000); m < 0.8 || m > 1.2 {
			t.Errorf("a join of %d moves %.2f times what the new member owns", n, m)
		}
	}
}

func TestGossipIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		row := measure(t, 5)
		if cells := strings.Split(row, " | "); len(cells) != 6 || strings.HasPrefix(cells[4], "0 ") {
			t.Errorf("the row is %s", row)
		}
	})
}
