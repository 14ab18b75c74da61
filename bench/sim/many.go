package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// run is one simulation.
type run struct {
	seed uint64
	nth  int
}

// tally is how many have ended how.
type tally struct {
	o     options
	all   int
	began time.Time

	mu           sync.Mutex // guards what is below, and the output
	over, failed int
}

// runAll simulates every seed as often as asked for, some at a time, and returns how many runs failed.
func runAll(ctx context.Context, o options) (failed int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	t := &tally{o: o, all: int(o.last-o.first+1) * o.runs, began: time.Now()}
	runs := make(chan run)
	var jobs sync.WaitGroup
	for range min(o.jobs, t.all) {
		jobs.Go(func() {
			for r := range runs {
				t.note(ctx, r, start(ctx, self, o, r))
			}
		})
	}
	for seed := o.first; seed <= o.last && ctx.Err() == nil; seed++ {
		for n := range o.runs {
			select {
			case runs <- run{seed, n + 1}:
			case <-ctx.Done():
			}
		}
	}
	close(runs)
	jobs.Wait()
	fmt.Printf("%d runs in %v, %d failed\n", t.over, time.Since(t.began).Round(time.Second), t.failed)
	return t.failed, ctx.Err()
}

// outcome is what came of a run.
type outcome struct {
	log []byte
	err error
}

// start simulates in a process of its own. One that takes too long is asked for its stacks, and ends.
func start(ctx context.Context, self string, o options, r run) outcome {
	limited, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	cmd := exec.CommandContext(limited, self, "-one", "-seed", strconv.FormatUint(r.seed, 10), "-members", strconv.Itoa(o.members),
		"-hours", strconv.FormatFloat(o.hours, 'g', -1, 64), "-gossip", o.gossip, "-v="+strconv.FormatBool(o.verbose))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2") // there are several of them, and orders differ with two at least
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 10 * time.Second
	log, err := cmd.CombinedOutput()
	if limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("not over after %v: %w", o.limit, errors.Join(limited.Err(), err))
	}
	return outcome{log, err}
}

// note tells of a run, and keeps the log of one that failed.
func (t *tally) note(ctx context.Context, r run, out outcome) {
	if ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over++; out.err != nil {
		t.failed++
		fmt.Printf("seed %d, run %d: %v\n", r.seed, r.nth, out.err)
		for line := range bytes.Lines(out.log) {
			if bytes.HasPrefix(line, []byte("FAULT:")) || bytes.HasPrefix(line, []byte("panic:")) {
				fmt.Printf("  %.600s\n", bytes.TrimSpace(line))
			}
		}
		if path, err := t.keep(r, out.log); err != nil {
			fmt.Printf("  what happened cannot be kept: %v\n", err)
		} else {
			fmt.Printf("  what happened is in %s\n", path)
		}
	}
	if every := max(1, t.all/20); t.over%every == 0 {
		fmt.Printf("%d of %d, %d failed, %v\n", t.over, t.all, t.failed, time.Since(t.began).Round(time.Second))
	}
}

func (t *tally) keep(r run, log []byte) (path string, err error) {
	if err := os.MkdirAll(t.o.logs, 0o755); err != nil {
		return "", err
	}
	path = filepath.Join(t.o.logs, fmt.Sprintf("seed-%d-run-%d.log", r.seed, r.nth))
	return path, os.WriteFile(path, log, 0o644)
}
