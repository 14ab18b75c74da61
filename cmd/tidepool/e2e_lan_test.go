package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// lan is a network of a test's own: a bridge, at which the test and its registry are, and a network namespace for each
// member, whose packets can be lost.
type lan struct {
	*cluster
	n        int // which one of this process
	hub      string
	stations []*station
}

// station is where a member runs.
type station struct {
	ip     string
	holder *process // keeps the namespace
}

var lans atomic.Int64

func newLAN(t *testing.T, o *origintest.Origin) *lan {
	t.Helper()
	l := &lan{cluster: &cluster{t: t, secret: filepath.Join(t.TempDir(), "secret")}, n: int(lans.Add(1))}
	must(t, os.WriteFile(l.secret, []byte("a secret of this test, of more than 16 bytes\n"), 0o600))
	bridge := l.name("br", 0)
	run(t, nil, "ip", "link", "add", bridge, "type", "bridge")
	run(t, nil, "ip", "addr", "add", l.ip(1)+"/24", "dev", bridge)
	run(t, nil, "ip", "link", "set", bridge, "up")
	line, err := net.Listen("tcp", l.ip(1)+":0")
	must(t, err)
	server := o.Server()
	go func() { _ = server.Serve(line) }()
	t.Cleanup(func() { _ = server.Close() })
	l.hub = "http://" + line.Addr().String()
	return l
}

func (l *lan) ip(i int) string { return fmt.Sprintf("10.99.%d.%d", l.n, i) }

func (l *lan) name(kind string, i int) string { return fmt.Sprintf("%s%dx%d", kind, l.n, i) }

// station is one more, without a member.
func (l *lan) station() *station {
	l.t.Helper()
	i := len(l.stations)
	s := &station{ip: l.ip(10 + i)}
	s.holder = start(l.t, func(cmd *exec.Cmd) { cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET }, "sleep", "infinity")
	l.stations = append(l.stations, s)
	here, there := l.name("h", i), l.name("t", i)
	run(l.t, nil, "ip", "link", "add", here, "type", "veth", "peer", "name", there)
	run(l.t, nil, "ip", "link", "set", there, "netns", strconv.Itoa(s.holder.Process.Pid))
	run(l.t, nil, "ip", "link", "set", here, "master", l.name("br", 0), "up")
	s.run(l.t, "ip", "addr", "add", s.ip+"/24", "dev", there)
	s.run(l.t, "ip", "link", "set", there, "up")
	s.run(l.t, "ip", "link", "set", "lo", "up")
	return s
}

// enter is the command line that runs a program at s.
func (s *station) enter(args ...string) []string {
	return append([]string{"-t", strconv.Itoa(s.holder.Process.Pid), "-n"}, args...)
}

func (s *station) run(t *testing.T, args ...string) {
	t.Helper()
	run(t, nil, "nsenter", s.enter(args...)...)
}

// rule adds a rule for the packets of s.
func (s *station) rule(t *testing.T, args ...string) {
	t.Helper()
	s.run(t, append([]string{"iptables", "-w", "10"}, args...)...)
}

// deaf has s hear nothing of others.
func (s *station) deaf(t *testing.T, to ...*station) {
	t.Helper()
	for _, o := range to {
		s.rule(t, "-A", "INPUT", "-s", o.ip, "-j", "DROP")
	}
}

// cut has nothing get through between some stations and others.
func (l *lan) cut(some, others []*station) {
	l.t.Helper()
	for _, s := range some {
		s.deaf(l.t, others...)
	}
	for _, s := range others {
		s.deaf(l.t, some...)
	}
}

// heal takes all rules away.
func (l *lan) heal() {
	l.t.Helper()
	for _, s := range l.stations {
		s.rule(l.t, "-F", "INPUT")
	}
}

// memberAt starts one at a station, without waiting for the others.
func (l *lan) memberAt(s *station) *tidepool {
	l.t.Helper()
	p := &tidepool{t: l.t, addr: s.ip + ":5000", admin: s.ip + ":5001", data: filepath.Join(l.t.TempDir(), "data")}
	bin, err := program()
	must(l.t, err)
	p.args = []string{bin, "serve", "--listen", p.addr, "--admin", p.admin, "--data", p.data, "--upstream", "docker.io=" + l.hub,
		"--cluster-bind", s.ip + ":7946", "--peer-listen", s.ip + ":7947", "--cluster-secret-file", l.secret, "--join", l.ip(10)}
	p.process = start(l.t, p.alone, "nsenter", s.enter(p.args...)...)
	l.t.Cleanup(p.kill) // in no order, and at once
	l.members = append(l.members, p)
	return p
}

// gather starts a member at each of n new stations, after prepare has arranged each.
func (l *lan) gather(n int, prepare func(*station)) {
	l.t.Helper()
	for range n {
		s := l.station()
		if prepare != nil {
			prepare(s)
		}
		l.memberAt(s)
	}
	for _, p := range l.members {
		p.await(l.t, "tidepool is ready", func() bool { return answers("http://" + p.admin + "/readyz") })
	}
	l.settle(n)
}

// sees waits until some members see n that are ready, and says how long that took.
func (l *lan) sees(n int, members ...*tidepool) time.Duration {
	l.t.Helper()
	began := time.Now()
	for _, p := range members {
		p.await(l.t, fmt.Sprintf("it sees %d members", n), func() bool { return ready(p) == n })
	}
	return time.Since(began)
}

// slow has all that s sends to the members' port of another, and hears from there, pass through a line that takes its
// time. What is open already is cut off.
func (l *lan) slow(s, to *station, delay time.Duration) {
	l.t.Helper()
	line, err := net.Listen("tcp", l.ip(1)+":0")
	must(l.t, err)
	go forward(l.t.Context(), line, to.ip+":7947", delay)
	l.t.Cleanup(func() { _ = line.Close() })
	s.rule(l.t, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", to.ip, "--dport", "7947", "-j", "DNAT", "--to-destination", line.Addr().String())
	s.rule(l.t, "-A", "OUTPUT", "-p", "tcp", "-d", to.ip, "--dport", "7947", "-j", "REJECT", "--reject-with", "tcp-reset")
}

// forward passes connections on to an address, each piece late.
func forward(ctx context.Context, line net.Listener, to string, delay time.Duration) {
	for {
		near, err := line.Accept()
		if err != nil {
			return
		}
		go func() {
			defer near.Close()
			far, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
			if err != nil {
				return
			}
			defer far.Close()
			stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
			defer stop()
			var both sync.WaitGroup
			both.Go(func() { late(far, near, delay); far.Close() })
			both.Go(func() { late(near, far, delay); near.Close() })
			both.Wait()
		}()
	}
}

// late copies; each piece arrives that much later, and none waits for the one before.
func late(to io.Writer, from io.Reader, delay time.Duration) {
	type piece struct {
		b  []byte
		at time.Time
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 64<<10)
			n, err := from.Read(b)
			if n > 0 {
				pieces <- piece{b[:n], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	failed := false
	for p := range pieces { // to the end, so that the reader ends
		if failed {
			continue
		}
		<-time.After(time.Until(p.at))
		_, err := to.Write(p.b)
		failed = err != nil
	}
}

// stopped has a process stand still until it is let go on, as one whose machine hangs.
func (p *process) stopped(t *testing.T) (goOn func()) {
	t.Helper()
	must(t, p.Process.Signal(syscall.SIGSTOP))
	// On a busy machine it is a while until the first thread sees the signal, and until then the others run on: one may still
	// answer that it is at work, for which a member is given ten seconds more.
	eventually(t, p.name+" stands still", func() bool {
		for _, thread := range glob(t, fmt.Sprintf("/proc/%d/task/*/status", p.Process.Pid)) {
			if b, err := os.ReadFile(thread); err == nil && !strings.Contains(string(b), "State:\tT") { // else it has ended
				return false
			}
		}
		return true
	})
	return sync.OnceFunc(func() { _ = p.Process.Signal(syscall.SIGCONT) })
}

// ringVersion counts the views that p has had.
func (p *tidepool) ringVersion(t *testing.T) float64 {
	t.Helper()
	return sample(t, p, "tidepool_cluster_ring_version")
}
