//go:debug tlsmlkem=0
package sim_test

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cluster/clustertest/sim"
)

// seeds is how many are simulated: by the flag, else as many as take about a minute on two processors.
var seeds = flag.Uint64("seeds", most, "how many seeds are simulated")

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // of each seed little stays
	flag.Parse()
	if testing.Short() {
		*seeds = min(*seeds, 20)
	}
	before := descriptors()
	code := m.Run()
	if after := descriptors(); code == 0 && after > before {
		fmt.Printf("%d descriptors are left open\n", after-before)
		code = 1
	}
	os.Exit(code)
}

// descriptors are the files that are open now.
func descriptors() int {
	open, _ := os.ReadDir("/proc/self/fd") // where there is none, none is counted
	return len(open)
}

// TestSeeds simulates an hour for each seed. In one of sixteen the members find each other by gossip; in the others,
// which takes a third of the time, they are told of each other. What failed is run again by
//
//	go run ./bench/sim -seed N -runs 100
func TestSeeds(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			var r sim.Result
			began := time.Now()
			defer func() {
				if len(r.Faults) > 0 {
					t.Log("\n" + r.Log)
				}
				t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), r)
			}()
			synctest.Test(t, func(t *testing.T) {
				var err error
				if r, err = sim.Run(t.Context(), sim.Options{Seed: seed, Gossip: seed%16 == 7}); err != nil {
					t.Error(err)
				}
				for _, f := range r.Faults {
					t.Error(f)
				}
			})
		})
	}
}
