package main_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// listener is what systemd is to a service: a datagram socket that gets a message for each thing told.
type listener struct {
	*net.UnixConn
	name string
}

func listenAsSystemd(t *testing.T) listener {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // a socket's name is short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	name := filepath.Join(dir, "socket")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return listener{c, name}
}

// next is the next message, or "" where none comes within a time.
func (l listener) next(t *testing.T, within time.Duration) string {
	t.Helper()
	must(t, l.SetReadDeadline(time.Now().Add(within)))
	b := make([]byte, 4<<10)
	n, err := l.Read(b)
	if os.IsTimeout(err) {
		return ""
	}
	must(t, err)
	return string(b[:n])
}

// beats reads messages until as many as n in a row are all that systemd's watchdog wants.
func (l listener) beats(t *testing.T, n int) {
	t.Helper()
	for range n {
		if got := l.next(t, patience); got != "WATCHDOG=1" {
			t.Fatalf("systemd was told %q", got)
		}
	}
}

// TestSystemd stands in for systemd: it is told when clients may come, that they are served for as long as its door
// takes them, and that the end is near.
func TestSystemd(t *testing.T) {
	needs(t, "strace")
	systemd := listenAsSystemd(t)
	const within = 2 * time.Second
	p := &tidepool{t: t, addr: address(t), admin: address(t), data: filepath.Join(t.TempDir(), "data"),
		env: []string{"NOTIFY_SOCKET=" + systemd.name, "WATCHDOG_USEC=" + strconv.FormatInt(within.Microseconds(), 10)}}
	p.args = []string{"serve", "--listen", p.addr, "--admin", p.admin, "--data", p.data, "--log-format", "json"}
	p.restart()
	if got, want := systemd.next(t, patience), "READY=1\nSTATUS=serves pulls at "+p.addr; got != want {
		t.Fatalf("systemd was told %q, want %q", got, want)
	}
	systemd.beats(t, 2)

	// The door accepts nobody; all else of the process runs on.
	tracer := start(t, nil, "strace", "-f", "-p", strconv.Itoa(p.Process.Pid), "-o", "/dev/null",
		"-e", "trace=accept4", "-e", "inject=accept4:error=EMFILE")
	tracer.await(t, "strace is attached", func() bool { return strings.Contains(tail(tracer.log), "attached") })
	p.await(t, "the watchdog goes unanswered for as long as makes systemd act", func() bool { return systemd.next(t, within) == "" })
	p.await(t, "the log says why", func() bool { return strings.Contains(tail(p.log), "our own door does not answer us") })
	tracer.stop(t)
	systemd.beats(t, 2)
	if log := tail(p.log); strings.Contains(log, `"msg":"request"`) {
		t.Errorf("the watchdog is logged as a client:\n%s", log)
	}

	must(t, p.Process.Signal(syscall.SIGTERM))
	var told string
	for told = "WATCHDOG=1"; told == "WATCHDOG=1"; told = systemd.next(t, patience) {
	}
	if want := "STOPPING=1\nSTATUS=lets running answers end, for at most 30s"; told != want {
		t.Errorf("systemd was told %q, want %q", told, want)
	}
	if code := p.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// Where nobody is to be told, nothing is; where nobody listens, pulls are served all the same.
func TestSystemdIsGone(t *testing.T) {
	needs(t)
	p := &tidepool{t: t, addr: address(t), admin: address(t), data: filepath.Join(t.TempDir(), "data"),
		env: []string{"NOTIFY_SOCKET=/nowhere/socket", "WATCHDOG_USEC=never"}}
	p.args = []string{"serve", "--listen", p.addr, "--admin", p.admin, "--data", p.data}
	p.restart()
	p.await(t, "the log says so", func() bool {
		return strings.Contains(tail(p.log), "systemd cannot be told: READY=1") && strings.Contains(tail(p.log), "watchdog is not answered")
	})
	if code := p.stop(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
}
