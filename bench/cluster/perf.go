package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// record has perf write what a process spends its time on to a file, until it is called off.
func record(file string, pid int) (stop func() error, err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	cmd := exec.Command("perf", "record", "-q", "-F", "4999", "-g", "-o", file, "-p", strconv.Itoa(pid))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		err := errors.Join(cmd.Process.Signal(syscall.SIGINT), cmd.Wait())
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return nil // it ends by the signal that it was sent
		}
		return err
	}, nil
}
