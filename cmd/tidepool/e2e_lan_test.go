package main_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/cache"
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

// fire is clients that pull images without end.
type fire struct {
	t               *testing.T
	o               *origintest.Origin
	repo            string
	images          []*origintest.Image
	stop            atomic.Bool
	clients         sync.WaitGroup
	pulls, failures atomic.Int64
	slowest         atomic.Int64 // of the requests, in nanoseconds

	sides [][]*tidepool // members that are well; those of one side reach each other
	seen  int           // how often these had left one another alone when that was last counted
	left  int           // how often any had since the start
}

// well says who is well from now on, by sides that do not reach each other.
func (f *fire) well(sides ...[]*tidepool) {
	f.t.Helper()
	f.leftAlone()
	f.sides = sides
	f.seen = f.count()
}

// leftAlone is how often members that were well have left one another alone since the start: each time what
// one of them owns may have been fetched once more.
func (f *fire) leftAlone() int {
	f.t.Helper()
	n := f.count()
	f.left += max(0, n-f.seen) // less: one that was away has come back, and is counted anew
	f.seen = n
	return f.left
}

func (f *fire) count() (n int) {
	f.t.Helper()
	for _, side := range f.sides {
		n += leftAlone(f.t, side...)
	}
	return n
}

// ignite puts images into a registry.
func ignite(t *testing.T, o *origintest.Origin, repo string, n int) *fire {
	f := &fire{t: t, o: o, repo: repo}
	for i := range n {
		f.images = append(f.images, o.PutImage(repo, fmt.Sprint(i), origintest.Spec{Seed: uint64(i) + 1<<20*uint64(crc32.ChecksumIEEE([]byte(repo))), Layers: []origintest.Layer{{Size: 300 << 10, Form: origintest.Raw}}}))
	}
	return f
}

// at has n clients pull from a member, with a pause after each image.
func (f *fire) at(p *tidepool, n int, pause time.Duration) {
	f.t.Cleanup(f.quench) // before the members are stopped, where the test ends early
	for k := range n {
		f.clients.Go(func() {
			for i := k; !f.stop.Load(); i++ {
				if err := f.pull(p.addr, i%len(f.images)); err != nil {
					f.failures.Add(1)
					f.t.Errorf("%s: %v", p.addr, err)
				}
				<-time.After(pause)
			}
		})
	}
}

// quench has the clients stop, and waits for them.
func (f *fire) quench() {
	f.stop.Store(true)
	f.clients.Wait()
}

// pull pulls an image at the first try.
func (f *fire) pull(addr string, i int) error {
	img := f.images[i]
	base := "http://" + addr + "/v2/" + f.repo
	if err := f.get(base+"/manifests/"+strconv.Itoa(i), img.Top.Content); err != nil {
		return err
	}
	for _, b := range img.Blobs {
		if err := f.get(base+"/blobs/"+b.Digest.String(), b.Content); err != nil {
			return err
		}
	}
	f.pulls.Add(1)
	return nil
}

func (f *fire) get(url string, want *origintest.Content) error {
	began := time.Now()
	err := getOnce(url, want)
	took := int64(time.Since(began))
	for was := f.slowest.Load(); took > was && !f.slowest.CompareAndSwap(was, took); {
		was = f.slowest.Load()
	}
	return err
}

// all pulls every image from each of some members, all members at once.
func (f *fire) all(members ...*tidepool) {
	f.t.Helper()
	var crowd sync.WaitGroup
	for _, p := range members {
		crowd.Go(func() {
			for i := range f.images {
				if err := f.pull(p.addr, i); err != nil {
					f.failures.Add(1)
					f.t.Errorf("%s: %v", p.addr, err)
				}
			}
		})
	}
	crowd.Wait()
}

// out ends it, once there were at least so many pulls. Each blob may have been sent so often, and once more for each time
// that a member which was well was left alone; no request may have taken longer.
func (f *fire) out(least, most int, longest time.Duration) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%d pulls, of which fewer are no fire", least), func() bool { return f.pulls.Load() >= int64(least) || f.t.Failed() })
	f.quench()
	left := f.leftAlone()
	f.t.Logf("%s: %d pulls, %d failed, the slowest request took %v; left alone: %d", f.repo, f.pulls.Load(), f.failures.Load(), time.Duration(f.slowest.Load()), left)
	if took := time.Duration(f.slowest.Load()); took > longest {
		f.t.Errorf("a request took %v", took)
	}
	for _, img := range f.images {
		for _, b := range img.Blobs {
			if n := f.o.Sent(b.Digest).Most(); n > most+left {
				f.t.Errorf("%s was sent %d times", b.Digest, n)
			}
		}
	}
}

// once fails unless the registry has sent each of some sides every blob about once, while their members left none of their
// own side alone.
func (f *fire) once(sides ...[]*station) {
	f.t.Helper()
	blobs, again := 0, 0
	for _, img := range f.images {
		for _, b := range img.Blobs {
			for _, side := range sides {
				blobs++
				again += int((f.sent(b.Digest, side) - 1) / b.Size)
			}
		}
	}
	left := f.leftAlone()
	f.t.Logf("%s: of %d blobs %d were fetched again by one side; left alone: %d", f.repo, blobs, again, left)
	if again > blobs/10+left*f.blobs() {
		f.t.Errorf("%s: of %d blobs %d were fetched again by one side", f.repo, blobs, again)
	}
}

// sent is how many bytes of a blob the registry has sent to some stations.
func (f *fire) sent(d cache.Digest, to []*station) (n int64) {
	for _, r := range f.o.Requests() {
		host, _, _ := net.SplitHostPort(r.From) // it is an address with a port
		if r.Digest == d && slices.ContainsFunc(to, func(s *station) bool { return s.ip == host }) {
			n += r.Bytes
		}
	}
	return n
}

// fetched is how many blobs the registry has sent: one that was sent in two pieces is one.
func (f *fire) fetched() (n int) {
	for _, img := range f.images {
		for _, b := range img.Blobs {
			n += int((f.o.Sent(b.Digest).Total() + b.Size - 1) / b.Size)
		}
	}
	return n
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
