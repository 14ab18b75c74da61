// Package ground is what benches stand on: a network of their own, the machine's name, and a tidepool built from the
// source around.
package ground

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// congestion is where the kernel says which congestion control new connections of this network have.
const congestion = "/proc/sys/net/ipv4/tcp_congestion_control"

// Enclose runs this program again, with args, in a network of its own: nobody else's traffic is there, and connections
// are sent as fast as they are taken. On a machine whose default is BBR, loopback would show that algorithm's guesses
// and timers instead of the servers (twice the processor time for a gigabyte, and half the rate). entered is false
// where the system does not allow it.
func Enclose(ctx context.Context, args []string) (entered bool, err error) {
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = namespaces()
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("no network of its own: %w", err)
	}
	return true, cmd.Wait()
}

// namespaces asks for a new network, and, for who is not root, for the right to arrange it.
func namespaces() *syscall.SysProcAttr {
	user, group := os.Geteuid(), os.Getegid()
	if user == 0 {
		return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: user, HostID: user, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: group, HostID: group, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
	}
}

// Furnish makes a new network fit for the bench: loopback up, and Reno, which every kernel lets everyone choose and
// which, where nothing is lost, never waits.
func Furnish() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return errors.Join(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo), os.WriteFile(congestion, []byte("reno"), 0))
}

// Congestion is the algorithm in force.
func Congestion() string {
	b, err := os.ReadFile(congestion)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
