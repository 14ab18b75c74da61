// Command versus puts the same load on tidepool and on what people use in its place, each before the same registry
// on the same machine, and prints how they compare.
//
// Its invariant: no figure is printed for an answer whose length was not checked, and every contestant has proven by
// a whole pull, hashed at the client, that it serves the right bytes before anything is timed.
//
//	go run ./bench/versus                        # everything, under five minutes
//	go run ./bench/versus -rows hot,cold -reps 9
//	go run ./bench/versus -write bench/RESULTS.md
//
// It wants Debian's nginx-light, varnish, docker-registry and wrk; what is missing is left out by name. A bare server on net/http shows what Go can reach.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/tidepool-oci/tidepool/bench/ground"
)

// options are what the command line asks for.
type options struct {
	reps    int
	rows    []string // empty: all
	only    []string // empty: all
	size    int64    // of the large blobs, in bytes
	dir     string   // where contestants keep their data; empty: a temporary directory
	output  string   // "table" or "json"
	write   string   // a file that gets the table; empty: none
	profile string   // a directory for perf's records of tidepool; empty: none
	binary  string   // tidepool; empty: built from source
	inside  bool     // a network of our own
	bare    string   // be the contestant of that name, on this address
	before  string   // its origin
}

func main() {
	o, err := parse(os.Args[1:])
	b := ground.Bench{Name: "versus", Dir: &o.dir, Binary: &o.binary, Build: o.wants(contestants[0].name), Inside: o.inside}
	if err != nil {
		b.Misused(err)
	}
	if o.bare != "" {
		fmt.Fprintln(os.Stderr, http.ListenAndServe(o.bare, &bare{origin: o.before}))
		os.Exit(1)
	}
	b.Main(func(ctx context.Context) error { return run(ctx, o) })
}

func parse(args []string) (options, error) {
	var o options
	var rows, only string
	var mib int64
	f := flag.NewFlagSet("versus", flag.ContinueOnError)
	f.IntVar(&o.reps, "reps", 5, "how often each contestant meets each load; medians are printed")
	f.StringVar(&rows, "rows", "", "loads to run, of "+strings.Join(loadKeys(), ",")+" (all)")
	f.StringVar(&only, "only", "", "contestants to run, of "+strings.Join(contestantNames(), ",")+" (all)")
	f.Int64Var(&mib, "size", 100, "size of the large blobs in MiB")
	f.StringVar(&o.dir, "dir", "", "directory for the contestants' data (a temporary one, on the disk under test)")
	f.StringVar(&o.output, "output", "table", "table or json")
	f.StringVar(&o.write, "write", "", "also write the table to this file")
	f.StringVar(&o.profile, "profile", "", "record tidepool with perf under each load into this directory")
	f.StringVar(&o.binary, "tidepool", "", "the tidepool to run (built from the source around)")
	f.BoolVar(&o.inside, "inside", false, "be in a network of its own already (not for people)")
	f.StringVar(&o.bare, "bare", "", "be a contestant at this address (not for people)")
	f.StringVar(&o.before, "before", "", "the origin of -bare (not for people)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.rows, o.only, o.size = list(rows), list(only), mib<<20
	return o, o.check(f.Args())
}

func (o options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case o.reps < 1 || o.size < 1<<20:
		return fmt.Errorf("-reps and -size must be at least 1")
	case o.output != "table" && o.output != "json":
		return fmt.Errorf("-output is table or json, not %q", o.output)
	}
	if bad := unknown(o.rows, loadKeys()); bad != "" {
		return fmt.Errorf("-rows knows %s, not %q", strings.Join(loadKeys(), ", "), bad)
	}
	if bad := unknown(o.only, contestantNames()); bad != "" {
		return fmt.Errorf("-only knows %s, not %q", strings.Join(contestantNames(), ", "), bad)
	}
	return nil
}

// wants reports whether a contestant was asked for.
func (o options) wants(name string) bool { return len(o.only) == 0 || slices.Contains(o.only, name) }

// list splits at commas; an empty string has no parts.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// unknown is the first of asked that is not in known.
func unknown(asked, known []string) string {
	for _, a := range asked {
		if !slices.Contains(known, a) {
			return a
		}
	}
	return ""
}

func run(ctx context.Context, o options) error {
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer b.close()
	b.enter(ctx)
	if len(b.servers) == 0 {
		return fmt.Errorf("nothing could be started: %v", b.leftOut)
	}
	results, err := b.runAll(ctx)
	if err != nil {
		return err
	}
	r := report{Schema: 1, Machine: describe(ctx, o.inside), Reps: o.reps, MiB: o.size >> 20, Results: results,
		LeftOut: b.leftOut, Noisy: b.noisy}
	for _, s := range b.servers {
		r.Contestants = append(r.Contestants, s.name)
	}
	return errors.Join(r.deliver(o), r.failure(contestants[0].name))
}
