package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/tidepool-oci/tidepool/cluster"
)

// moves counts what changes its owner when a member joins, over many joins: a single one takes over more or less than
// its share by chance.
func moves(_ context.Context, o options, r *report) error {
	joins, keys := 300, 10_000
	if o.short {
		joins = 100
	}
	random := rand.New(rand.NewPCG(1, 2))
	sample := make([]uint64, keys)
	for i := range sample {
		sample[i] = random.Uint64()
	}
	needless := 0
	for _, n := range []int{1, 3, 5, 10, 50} {
		var sum, squares, most float64
		for range joins {
			moved, wrong := join(random, n, sample)
			part := float64(moved) / float64(len(sample)) * float64(n+1)
			sum, squares, most, needless = sum+part, squares+part*part, max(most, part), needless+wrong
		}
		mean := sum / float64(joins)
		r.add(atMost(figure{What: "keys moved by a join, in times 1/(n+1)", Members: n, Value: mean, Digits: 2,
			Note: fmt.Sprintf("mean of %d joins; standard deviation %.2f, most %.2f", joins, math.Sqrt(max(0, squares/float64(joins)-mean*mean)), most)}, 1.1))
	}
	r.add(atMost(figure{What: "keys moved between two that both stayed", Members: 50, Value: float64(needless), Note: "in all of these joins"}, 0))
	return nil
}

// join adds one to n members of any names, and counts the keys that it took over, and those that others did.
func join(random *rand.Rand, n int, keys []uint64) (moved, needless int) {
	all := make([]cluster.Member, n+1)
	for i := range all {
		all[i] = cluster.Member{Name: fmt.Sprintf("m%x", random.Uint64()), Weight: 1, State: cluster.Ready}
	}
	before, after := cluster.NewRing(all[:n]), cluster.NewRing(all)
	for _, k := range keys {
		was, is := before.Owners(k, 1)[0].Name, after.Owners(k, 1)[0].Name
		switch {
		case was == is:
		case is == all[n].Name:
			moved++
		default:
			needless++
		}
	}
	return moved, needless
}
