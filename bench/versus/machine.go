package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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
	var u unix.Utsname
	unix.Uname(&u) // fails only for a bad pointer
	return machine{
		CPU:     cpuModel(),
		Cores:   runtime.NumCPU(),
		Kernel:  unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]),
		Go:      runtime.Version(),
		Network: network(inside),
		Commit:  commit(ctx),
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
		return "loopback of its own network, " + congestionControl()
	}
	return "the machine's loopback, " + congestionControl()
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

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

// commit names the source that tidepool was built from, with a mark where the tree has other changes.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
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
