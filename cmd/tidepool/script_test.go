package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run this test's own binary as tidepool.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tidepool": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			e.Setenv("XDG_CONFIG_HOME", home)
			e.Setenv("XDG_CACHE_HOME", home)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "port": port, "await": await, "term": terminate},
	})
}

// exits CODE COMMAND… wants that very exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// port NAME… sets each variable to a port that is free.
func port(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		at, err := freeAddress()
		ts.Check(err)
		_, n, err := net.SplitHostPort(at)
		ts.Check(err)
		ts.Setenv(name, n)
	}
}

// await URL STATUS asks until that is the answer.
func await(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		resp, err := http.Get(args[0])
		if err == nil {
			ts.Check(resp.Body.Close())
			if strconv.Itoa(resp.StatusCode) == args[1] {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("%s does not come to %s: %v", args[0], args[1], err)
		}
	}
}

// terminate sends SIGTERM to what runs in the background.
func terminate(ts *testscript.TestScript, _ bool, _ []string) {
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(syscall.SIGTERM))
	}
}
