package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// wrkScript prints what wrk measured so that a program can read it.
const wrkScript = `
done = function(s, l, r)
	local e = s.errors
	print("result", s.requests, s.duration, s.bytes, e.connect + e.read + e.write + e.status + e.timeout)
end
`

// wrk asks for url on 64 connections for two seconds; it returns how many answers came in what time.
func wrk(ctx context.Context, dir, url string) (answers float64, took time.Duration, err error) {
	bin, err := installed("wrk")
	if err != nil {
		return 0, 0, err
	}
	script := filepath.Join(dir, "wrk.lua")
	if err := os.WriteFile(script, []byte(wrkScript), 0o600); err != nil {
		return 0, 0, err
	}
	out, err := exec.CommandContext(ctx, bin, "-t2", "-c64", "-d2s", "-s", script, "-H", "Accept: "+manifestType, url).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w: %s", err, lastLine(out))
	}
	return readWrk(out)
}

// readWrk reads the script's line: answers, microseconds, bytes, errors. An error or an answer shorter than the
// manifest spoils the figure.
func readWrk(out []byte) (answers float64, took time.Duration, err error) {
	var micros, size, failed float64
	line := strings.ReplaceAll(lastLine(out), "\t", " ")
	if _, err := fmt.Sscanf(line, "result %g %g %g %g", &answers, &micros, &size, &failed); err != nil {
		return 0, 0, fmt.Errorf("wrk said %q: %w", line, err)
	}
	if failed > 0 || answers == 0 || size < answers*manifestSize {
		return 0, 0, fmt.Errorf("wrk: %.0f of %.0f requests failed, %.0f bytes in all", failed, answers, size)
	}
	return answers, time.Duration(micros) * time.Microsecond, nil
}

// record profiles pid and its children with perf into a file of dir named after what is done, until it is called off.
func record(dir, what string, pid int) (stop func() error, err error) {
	bin, err := installed("perf")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune(" ,/'", r) {
			return '-'
		}
		return r
	}, what)
	pids := strings.Trim(strings.ReplaceAll(fmt.Sprint(family(pid)), " ", ","), "[]")
	file := filepath.Join(dir, name+".perf")
	for i := 2; exists(file); i++ {
		file = filepath.Join(dir, fmt.Sprintf("%s-%d.perf", name, i))
	}
	cmd := exec.Command(bin, "record", "-q", "-F", "4999", "-g", "-o", file, "-p", pids)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error { return errors.Join(cmd.Process.Signal(syscall.SIGINT), cmd.Wait()) }, nil
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// lastLine is the last line of what a program said, without its end.
func lastLine(b []byte) string {
	s := strings.TrimSpace(string(b))
	return s[strings.LastIndexByte(s, '\n')+1:]
}
