package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// The tests in this file need a network of their own, whose packets they lose and whose ports they take away. Each runs
// this test's binary again in such a network.

const insideVar = "TIDEPOOL_TEST_NETWORK"

// inNetwork reports whether this is the inside of a network of t's own, with loopback up and nobody else on it. Outside
// it has the test run there, and says how that went.
func inNetwork(t *testing.T, programs ...string) bool {
	t.Helper()
	if os.Getenv(insideVar) == t.Name() {
		arrange(t, "ip", "link", "set", "lo", "up")
		return true
	}
	t.Parallel() // they mostly wait
	if testing.Short() {
		t.Skip("takes half a minute: left out under -short")
	}
	if os.Geteuid() != 0 {
		lacks(t, "a network of its own needs root")
	}
	for _, p := range append(programs, "ip") {
		if _, err := exec.LookPath(p); err != nil {
			lacks(t, "%v: apt-get install iproute2 iptables", err)
		}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.parallel=8", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), insideVar+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	var out []byte
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// Its death signal counts the parent's thread, not its process: on any other, a thread that ends with what another
		// test has locked to it meanwhile takes it along.
		runtime.LockOSThread()
		out, err = cmd.CombinedOutput()
	}()
	<-ended
	switch {
	case errors.Is(err, syscall.EPERM):
		lacks(t, "root may not make a network of its own here: %v", err)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()):
		t.Skipf("%s", out)
	case err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Errorf("in a network of its own: %v\n%s", err, out)
	}
	return false
}

// lacks skips t, or fails it where the whole set of tests is asked for.
func lacks(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("TIDEPOOL_E2E") == "required" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// arrange changes something of the network that the test is in.
func arrange(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// ends are the ports from which there are connections to a port of this network.
func ends(t *testing.T, to string) (ports []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(to)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		const established = "01"
		if len(f) < 4 || f[3] != established || !strings.HasSuffix(f[2], fmt.Sprintf(":%04X", n)) {
			continue
		}
		_, port, _ := strings.Cut(f[1], ":")
		p, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, strconv.FormatUint(p, 10))
	}
	return ports
}

// lose drops every packet of the connections that there are to a port, in both directions; new ones get through, as
// where another machine has taken the address of one without power.
func lose(t *testing.T, to string) {
	t.Helper()
	ports := ends(t, to)
	if len(ports) == 0 {
		t.Fatalf("there is no connection to %s", to)
	}
	for _, p := range ports {
		arrange(t, "iptables", "-A", "INPUT", "-p", "tcp", "--sport", p, "--dport", to, "-j", "DROP")
		arrange(t, "iptables", "-A", "INPUT", "-p", "tcp", "--sport", to, "--dport", p, "-j", "DROP")
	}
}

func portOf(t *testing.T, url string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Row 34. The registry's machine loses its power in the middle of a blob, and while connections to it lie idle: the rest
// of the blob comes over a new connection, and no idle one is left that nobody answers at.
func TestHalfOpenConnections(t *testing.T) {
	if !inNetwork(t, "iptables") {
		return
	}
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	blob := o.PutBlob(repo, origintest.Synthetic(1, 2<<20))
	hub := origintest.Serve(t, o)
	w := fill(t, plan{hubs: map[string]string{"docker.io": hub.URL}})
	w.pulls("latest", img) // and leaves connections behind
	hold := o.When(origintest.Blob, origintest.GET).Once().StallAt(1 << 20)
	got := make(chan answered, 1)
	go func() { got <- w.get(blobPath(blob.Digest())) }()
	<-hold.Reached()
	lose(t, portOf(t, hub.URL))
	lost := ends(t, portOf(t, hub.URL))
	began := time.Now()
	a := <-got
	a.brings(t, blob)
	if took := time.Since(began); took > 25*time.Second || o.Sent(blob.Digest()).Repeated() > 1<<20 {
		t.Errorf("took %v, %d bytes came twice", took, o.Sent(blob.Digest()).Repeated())
	}
	for still := len(lost); still > 0; { // a minute at most: the connections are pooled for no longer
		still = 0
		open := " " + strings.Join(ends(t, portOf(t, hub.URL)), " ") + " "
		for _, port := range lost {
			if strings.Contains(open, " "+port+" ") {
				still++
			}
		}
		if took := time.Since(began); still > 0 && took > 45*time.Second {
			t.Fatalf("%d of %d dead connections are still open after %v", still, len(lost), took)
		}
		time.Sleep(100 * time.Millisecond) // the kernel tells nobody
	}
}

// Row 35. There are 50 ports to connect from, and 64 downloads at a time are allowed: who finds none waits for one, or is
// told what is missing; the registry is not held to be down for it; and connections are used again.
func TestPortsExhausted(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	blobs := make([]*origintest.Content, 200)
	for i := range blobs {
		blobs[i] = o.PutBlob(repo, origintest.Synthetic(uint64(i), blobSize))
	}
	w := fill(t, plan{hubs: map[string]string{"docker.io": origintest.Serve(t, o).URL}})
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40049"), 0); err != nil {
		lacks(t, "the ports of a network cannot be taken away here: %v", err)
	}
	hold := o.When(origintest.Blob, origintest.GET).Times(50).StallAt(1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		crowd(len(blobs), func(i int) { w.from(i).get(blobPath(blobs[i].Digest())).brings(t, blobs[i]) })
	}()
	if err := o.Await(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	a := w.from(250).get(manifestPath("latest"))
	a.refuses(t, http.StatusBadGateway, "UNAVAILABLE")
	if a.took > 20*time.Second || !strings.Contains(string(a.body), "no port left") {
		t.Errorf("after %v: %s", a.took, a.body)
	}
	if up := w.hubs.Stats()[0].Endpoints[0]; !up.Up {
		t.Errorf("the registry is held to be down: %+v", up)
	}
	hold.Release()
	<-done
	for began := time.Now(); ; { // a port can be used again some seconds after its connection
		err := w.from(250).pull("latest", img)
		if err == nil {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal(err)
		}
	}
	if n := o.OpenConns(); n > 50 {
		t.Errorf("%d connections from 50 ports", n)
	}
}

// from is w as seen by a client with an address, and so with ports, of its own.
func (w *pool) from(i int) *pool {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))}, Control: portLate}
	one := *w
	one.client = &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}
	w.t.Cleanup(one.client.CloseIdleConnections)
	return &one
}

// portLate has the kernel choose a client's port when it connects: chosen before, it would be taken for all others too.
func portLate(_, _ string, socket syscall.RawConn) (err error) {
	e := socket.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
	return errors.Join(err, e)
}

// Row 33. One packet in twenty is lost, and the line has a megabit per second: it takes its time, and all of it comes.
func TestLossyAndNarrowLine(t *testing.T) {
	if !inNetwork(t, "iptables", "tc") {
		return
	}
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	blob := o.PutBlob(repo, origintest.Synthetic(1, blobSize))
	hub := origintest.Serve(t, o)
	w := fill(t, plan{hubs: map[string]string{"docker.io": hub.URL}})
	arrange(t, "ip", "link", "set", "lo", "mtu", "1500")
	arrange(t, "iptables", "-A", "INPUT", "-p", "tcp", "--sport", portOf(t, hub.URL), "-m", "statistic", "--mode", "random", "--probability", "0.05", "-j", "DROP")
	arrange(t, "tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1mbit", "burst", "5kb", "latency", "200ms")
	w.pulls("latest", img)
	w.get(blobPath(blob.Digest())).brings(t, blob)
	if n := o.Sent(blob.Digest()).Repeated(); n > 0 {
		t.Errorf("%d bytes were asked for twice", n)
	}
}

// InNetwork is inNetwork for the tests of whole programs.
var InNetwork = inNetwork
