package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
)

// keys are as many as a large corpus has blobs: enough for a share of a thousandth to be known within two percent.
const keys = 3_000_000

// members are n that are ready, in three zones.
func members(n int) []cluster.Member {
	all := make([]cluster.Member, n)
	for i := range all {
		all[i] = cluster.Member{Name: fmt.Sprintf("tidepool-%d", i), Addr: fmt.Sprintf("10.0.%d.%d:7947", i/250, i%250+1),
			Zone: fmt.Sprint("zone-", i%3), Weight: 1, State: cluster.Ready, Version: "v1.0.0"}
	}
	return all
}

// rings prints what rings of each size cost, and how even they are.
func rings(out io.Writer, sizes []int) {
	fmt.Fprintln(out, "| members | build | memory | look up one owner | two | largest share / mean | smallest | moved by a join, in shares of it |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|")
	for _, n := range sizes {
		all := members(n + 1)
		r, took, size := build(all[:n])
		most, least := evenness(r, n)
		fmt.Fprintf(out, "| %d | %v | %d KiB | %v | %v | %.2f | %.2f | %.2f |\n", n, took, size>>10, lookUp(r, 1), lookUp(r, 2), most, least, moved(r, all, keys))
	}
}

// build is the ring of all, how long one takes to make, and how much memory it is.
func build(all []cluster.Member) (r *cluster.Ring, took time.Duration, size uint64) {
	result := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			r = cluster.NewRing(all)
		}
	})
	var before, after runtime.MemStats
	r = nil
	runtime.GC()
	runtime.ReadMemStats(&before)
	r = cluster.NewRing(all)
	runtime.GC()
	runtime.ReadMemStats(&after)
	return r, time.Duration(result.NsPerOp()).Round(10 * time.Microsecond), after.HeapAlloc - min(before.HeapAlloc, after.HeapAlloc)
}

func lookUp(r *cluster.Ring, owners int) time.Duration {
	key := uint64(0)
	return time.Duration(testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			key += 0x9E3779B97F4A7C15 // all over the ring
			r.Owners(key, owners)
		}
	}).NsPerOp())
}

// evenness is the largest and the smallest share of the ring, in times the mean.
func evenness(r *cluster.Ring, n int) (most, least float64) {
	var shares []float64
	for _, s := range r.Shares() {
		shares = append(shares, s*float64(n))
	}
	return slices.Max(shares), slices.Min(shares)
}

// moved is how many of so many keys have another owner once the last of all has joined, in times the share that is its own.
func moved(r *cluster.Ring, all []cluster.Member, keys int) float64 {
	grown, n, key := cluster.NewRing(all), 0, uint64(0)
	for range keys {
		key += 0x9E3779B97F4A7C15
		if r.Owners(key, 1)[0].Name != grown.Owners(key, 1)[0].Name {
			n++
		}
	}
	return float64(n) / float64(keys) / grown.Shares()[all[len(all)-1].Name]
}
