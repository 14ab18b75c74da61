package ground

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// Bench is a program that measures.
type Bench struct {
	Name   string
	Dir    *string // where it keeps its files; becomes a directory of its own within, which goes with it
	Binary *string // tidepool; where it is empty and Build says so, it is built from source
	Build  bool
	Inside bool // it is in a network of its own already
}

// Main measures by run, and ends the process if that fails. It builds tidepool where its modules can be fetched, and
// measures where nothing disturbs: in a network of its own, if there can be one.
func (b Bench) Main(run func(context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.start(ctx, run)
	stop()
	if err != nil {
		b.fail(1, err)
	}
}

func (b Bench) start(ctx context.Context, run func(context.Context) error) (err error) {
	if *b.Dir, err = os.MkdirTemp(*b.Dir, b.Name+"-"); err != nil {
		return err
	}
	defer os.RemoveAll(*b.Dir)
	if b.Inside {
		if err := Furnish(); err != nil {
			return err
		}
		return run(ctx)
	}
	args := slices.Clone(os.Args[1:])
	if *b.Binary == "" && b.Build {
		if *b.Binary, err = Build(ctx, *b.Dir); err != nil {
			return err
		}
		args = append(args, "-tidepool", *b.Binary)
	}
	entered, err := Enclose(ctx, append(args, "-inside"))
	if entered {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", b.Name, err)
	return run(ctx)
}

// Misused ends the process that was called with what it cannot make sense of.
func (b Bench) Misused(err error) { b.fail(2, err) }

func (b Bench) fail(code int, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", b.Name, err)
	os.Exit(code)
}

// Deliver prints a report, as a table or as JSON, and writes the table to a file where one is named.
func Deliver(report any, table func(io.Writer), format, file string) error {
	if file != "" {
		var page strings.Builder
		table(&page)
		if err := os.WriteFile(file, []byte(page.String()), 0o644); err != nil {
			return err
		}
	}
	if format == "json" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(report)
	}
	table(os.Stdout)
	return nil
}

// Row writes a row of a Markdown table.
func Row(w io.Writer, cells ...string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
