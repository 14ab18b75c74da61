package main

import (
	"errors"
	"io"
	"strings"
	"testing"
)

var errFull = errors.New("no space left on device")

// full takes nothing, as /dev/full does.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// A result that could not be written is a failure: a script would take the silence for one.
func TestResultsThatCannotBeWritten(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for _, line := range []string{"version", "version --output json", "config check", "config show", "config show --output json",
		"config example", "config schema", "setup docker", "man"} {
		root := rootCmd()
		root.SetArgs(strings.Fields(line))
		root.SetOut(full{})
		root.SetErr(io.Discard)
		if err := root.ExecuteContext(t.Context()); !errors.Is(err, errFull) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestDemoWithNothingToShow(t *testing.T) {
	var out strings.Builder
	if err := printDemo(&out, nil, false); err != nil || out.Len() != 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := printDemo(full{}, []demoRow{{Act: "cold pull"}}, false); !errors.Is(err, errFull) {
		t.Error(err)
	}
}
