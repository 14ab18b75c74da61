// Command cluster puts one, three, five and ten tidepools before a registry that counts, as processes of their own on
// one machine, and prints what it saves and costs that they are a cluster: each figure with what it is to reach.
//
// Its invariant: no figure is printed for bytes that were not compared with their digest, and what the registry sent is
// counted by the registry.
//
//	go run ./bench/cluster                            # under three minutes
//	go run ./bench/cluster -short                     # fewer members and pulls, under 40 seconds
//	go run ./bench/cluster -trace FILE                # with a trace of requests, a path a line, zstd or plain
//	go run ./bench/cluster -write bench/CLUSTER.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tidepool-oci/tidepool/bench/ground"
)

// options are what the command line asks for.
type options struct {
	rows    []string // empty: all
	short   bool
	trace   string // a file; empty: none
	dir     string // where members keep their data; empty: a temporary directory
	output  string // "table" or "json"
	write   string // a file that gets the table; empty: none
	binary  string // tidepool; empty: built from source
	profile string // a directory for perf's records of the two members of a hop; empty: none
	inside  bool   // in a network of its own already
}

func main() {
	o, err := parse(os.Args[1:])
	b := ground.Bench{Name: "cluster", Dir: &o.dir, Binary: &o.binary, Build: true, Inside: o.inside}
	if err != nil {
		b.Misused(err)
	}
	b.Main(func(ctx context.Context) error { return run(ctx, o) })
}

func parse(args []string) (options, error) {
	var o options
	var rows string
	f := flag.NewFlagSet("cluster", flag.ContinueOnError)
	f.StringVar(&rows, "rows", "", "what to measure, of "+strings.Join(keys(), ",")+" (all)")
	f.BoolVar(&o.short, "short", false, "fewer members and pulls")
	f.StringVar(&o.trace, "trace", "", "a trace of requests: a path a line, zstd or plain")
	f.StringVar(&o.dir, "dir", "", "directory for the members' data (a temporary one)")
	f.StringVar(&o.output, "output", "table", "table or json")
	f.StringVar(&o.write, "write", "", "also write the table to this file")
	f.StringVar(&o.binary, "tidepool", "", "the tidepool to run (built from the source around)")
	f.StringVar(&o.profile, "profile", "", "record with perf what serves a hop into this directory")
	f.BoolVar(&o.inside, "inside", false, "be in a network of its own already (not for people)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.rows = strings.FieldsFunc(rows, func(r rune) bool { return r == ',' })
	for _, r := range o.rows {
		if !slices.Contains(keys(), r) {
			return o, fmt.Errorf("-rows knows %s, not %q", strings.Join(keys(), ", "), r)
		}
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.output != "table" && o.output != "json":
		return o, fmt.Errorf("-output is table or json, not %q", o.output)
	}
	return o, nil
}

// subject is something to measure.
type subject struct {
	key string
	run func(ctx context.Context, o options, r *report) error
}

// subjects are in the order of the table.
var subjects = []subject{{"pulls", pulls}, {"hop", hop}, {"load", load}, {"moves", moves}}

func keys() (all []string) {
	for _, s := range subjects {
		all = append(all, s.key)
	}
	return all
}

func run(ctx context.Context, o options) error {
	r := &report{Schema: 1, CPU: ground.CPU(), Kernel: ground.Kernel(), Commit: ground.Commit(ctx), Short: o.short}
	for _, s := range subjects {
		if len(o.rows) > 0 && !slices.Contains(o.rows, s.key) {
			continue
		}
		fmt.Fprintln(os.Stderr, s.key)
		if err := s.run(ctx, o, r); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", s.key, err), ctx.Err())
		}
	}
	return r.deliver(o)
}
