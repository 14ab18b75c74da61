package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/bench/ground"
)

// machine is where and with what a run was made.
type machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Kernel   string            `json:"kernel"`
	Go       string            `json:"go"`
	Network  string            `json:"network"`
	Commit   string            `json:"commit"`
	Command  string            `json:"command"`
	Date     string            `json:"date"`
	Versions map[string]string `json:"versions"` // of the other contestants, where they tell
}

func describe(ctx context.Context, inside bool) machine {
	return machine{
		CPU:     ground.CPU(),
		Cores:   runtime.NumCPU(),
		Kernel:  ground.Kernel(),
		Go:      runtime.Version(),
		Network: network(inside),
		Commit:  ground.Commit(ctx),
		Command: command(inside),
		Date:    time.Now().UTC().Format(time.DateOnly),
		Versions: map[string]string{
			"nginx":           version(ctx, "nginx", "-v"),
			"docker-registry": version(ctx, "docker-registry", "--version"),
			"varnish":         version(ctx, "varnishd", "-V"),
			"wrk":             version(ctx, "wrk", "-v"),
		},
	}
}

func network(inside bool) string {
	if inside {
		return "loopback of its own network, " + ground.Congestion()
	}
	return "the machine's loopback, " + ground.Congestion()
}

// command is what was typed: the arguments that start adds are left out.
func command(inside bool) string {
	args := os.Args[1:]
	if inside {
		args = args[:len(args)-1]
		if n := len(args) - 2; n >= 0 && args[n] == "-tidepool" {
			args = args[:n]
		}
	}
	return strings.Join(append([]string{"go run ./bench/versus"}, args...), " ")
}

// version is the first line that a program prints of itself; some print it and fail.
func version(ctx context.Context, program, flag string) string {
	path, err := installed(program)
	if err != nil {
		return ""
	}
	out, _ := exec.CommandContext(ctx, path, flag).CombinedOutput()
	first, _, _ := bytes.Cut(out, []byte("\n"))
	return string(first)
}
