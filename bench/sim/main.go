//go:debug tlsmlkem=0

// Command sim simulates a cluster by many seeds, some virtual hours each: kills, joins, drains, partitions, slow and lying
// hubs and members, clocks that jump, and checks after every step that what must always hold does.
//
//	go run ./bench/sim                          # a thousand seeds
//	go run ./bench/sim -seeds 5000-9999 -jobs 8
//	go run ./bench/sim -seed 42 -runs 200       # the order of goroutines is not the seed's: again and again
//
// Each run is a process of its own, so that one which hangs or dies is a run that failed. What happened in a failed run
// is kept in a file, and the exit status is 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are what the command line asks for.
type options struct {
	first, last uint64
	runs        int
	members     int
	hours       float64
	gossip      string // "some", "all" or "none"
	jobs        int
	logs        string        // the directory for what happened in failed runs
	limit       time.Duration // for one run, by the wall clock
	verbose     bool          // what the members log is kept, too
	one         bool          // simulate the first seed in this process
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(2)
	}
	if o.one {
		simulate(o)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	failed, err := runAll(ctx, o)
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(2)
	case failed > 0:
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("sim", flag.ContinueOnError)
	seeds := f.String("seeds", "0-999", "simulate these, `A-B`")
	seed := f.Int64("seed", -1, "simulate this one only")
	f.IntVar(&o.runs, "runs", 1, "simulate each so many times")
	f.IntVar(&o.members, "members", 0, "how many there are to begin with; 0: three to five, by the seed")
	f.Float64Var(&o.hours, "hours", 1, "how long, in virtual time")
	f.StringVar(&o.gossip, "gossip", "some", "in `which` runs members find each other by gossip, and are not just told: some (one of sixteen seeds), all or none")
	f.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "how many runs at a time")
	f.StringVar(&o.logs, "logs", "sim-logs", "the `directory` in which the event logs of failed runs are kept")
	f.DurationVar(&o.limit, "limit", 5*time.Minute, "what one run may take by the wall clock")
	f.BoolVar(&o.verbose, "v", false, "keep what the members log, too")
	f.BoolVar(&o.one, "one", false, "simulate one seed in this process, and print what happened")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	} else if err != nil {
		return o, err
	}
	a, b, isRange := strings.Cut(*seeds, "-")
	if !isRange {
		b = a
	}
	if o.first, err = strconv.ParseUint(a, 10, 64); err == nil {
		o.last, err = strconv.ParseUint(b, 10, 64)
	}
	if *seed >= 0 {
		o.first, o.last, err = uint64(*seed), uint64(*seed), nil
	}
	switch {
	case err != nil || o.last < o.first:
		return o, fmt.Errorf("-seeds %s: give the first and the last, as in 0-999", *seeds)
	case o.gossip != "some" && o.gossip != "all" && o.gossip != "none":
		return o, fmt.Errorf("-gossip %s: give some, all or none", o.gossip)
	case o.runs < 1 || o.jobs < 1 || o.hours <= 0:
		return o, errors.New("-runs, -jobs and -hours must be above zero")
	case o.members < 0 || o.members == 1 || o.members > 40:
		return o, fmt.Errorf("-members %d: give 2 to 40", o.members)
	}
	return o, nil
}
