package cluster_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/cluster/clustertest"
)

// field is a network with members in it, in virtual time.
type field struct {
	t    *testing.T
	net  *clustertest.Net
	all  map[string]*cluster.Members
	log  *zap.Logger
	seen *observer.ObservedLogs
}

// inField runs a test in a bubble with a network that takes a millisecond or two.
func inField(t *testing.T, test func(t *testing.T, f *field)) {
	synctest.Test(t, func(t *testing.T) {
		f := &field{t: t, net: clustertest.New(11), all: map[string]*cluster.Members{}}
		f.net.Delay(time.Millisecond, 2*time.Millisecond)
		core, seen := observer.New(zapcore.WarnLevel)
		f.log, f.seen = zap.New(core), seen
		t.Cleanup(func() {
			for _, m := range f.all {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(2 * time.Minute) // until memberlist's timers have run out
		})
		test(t, f)
	})
}

// host is the address of the n-th host.
func host(n int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:7946", n)) }

// join puts a member on the n-th host; change may alter its options.
func (f *field) join(name string, n int, change ...func(*cluster.Options)) *cluster.Members {
	f.t.Helper()
	transport, err := f.net.Listen(host(n))
	if err != nil {
		f.t.Fatal(err)
	}
	o := cluster.Options{
		Name: name, Secrets: secrets(secretA), Bind: host(n).String(), Join: []string{host(1).String()},
		PeerAddr: ":5002", Zone: fmt.Sprint("r", n%2), Version: "v1", Transport: transport, Log: f.log,
	}
	for _, c := range change {
		c(&o)
	}
	m, err := cluster.Join(f.t.Context(), o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.all[name] = m
	return m
}

// joinAll has n members, ready, and waits until all agree.
func (f *field) joinAll(n int, change ...func(*cluster.Options)) {
	f.t.Helper()
	for i := range n {
		f.join(fmt.Sprint("m", i+1), i+1, change...).SetState(cluster.Ready)
	}
	f.until("all agree", exchanged, f.agree)
}

// until waits for a condition and says how long it took, in virtual time.
func (f *field) until(what string, within time.Duration, ok func() bool) time.Duration {
	f.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			f.t.Fatalf("%s: not within %v: %s", what, within, f)
		}
		time.Sleep(20 * time.Millisecond)
	}
	took := time.Since(start)
	f.t.Logf("%s: after %v", what, took)
	return took
}

// spreads waits until gossip has told all of something: within so long all but a few, and those who missed it when states
// are exchanged. Among fewer than ten each who hears it sends it four times, three of these at once, so that of five one
// misses it in some two hundred times; among forty, where more often, somebody misses it more often.
func (f *field) spreads(what string, within time.Duration, known func(*cluster.View) bool) {
	f.t.Helper()
	ignorant := func() (n int) {
		for _, m := range f.all {
			if !known(m.View()) {
				n++
			}
		}
		return n
	}
	f.until("nearly "+what, within, func() bool { return ignorant() <= 1+len(f.all)/20 })
	late := exchanged
	if len(f.all) > 32 {
		late *= 2 // memberlist exchanges states half as often from there on
	}
	f.until(what, late, func() bool { return ignorant() == 0 })
}

// leaves waits until all know that a member has left.
func (f *field) leaves(name string) {
	f.t.Helper()
	f.spreads("all know that it left", 2*time.Second, func(v *cluster.View) bool {
		_, there := v.Members[name]
		return !there
	})
}

// drains waits until all know that a member drains.
func (f *field) drains(name string) {
	f.t.Helper()
	f.spreads("all know that it drains", 3*time.Second, func(v *cluster.View) bool {
		return v.Members[name].State == cluster.Draining && len(v.Ring.Owners(1, 9)) == len(f.all)-1
	})
}

// agree says whether all know all, and have one ring.
func (f *field) agree() bool { return f.agreeAmong(slices.Collect(maps.Keys(f.all))...) }

// agreeAmong says whether these know each other and nobody else.
func (f *field) agreeAmong(names ...string) bool {
	for _, name := range names {
		v := f.all[name].View()
		if len(v.Members) != len(names) {
			return false
		}
		for _, other := range names {
			if v.Members[other] != f.all[other].View().Members[other] {
				return false
			}
		}
		if !slices.Equal(v.Ring.Owners(1, 9), f.all[names[0]].View().Ring.Owners(1, 9)) {
			return false
		}
	}
	return true
}

// String says whom each does not know.
func (f *field) String() string {
	s := ""
	for _, name := range slices.Sorted(maps.Keys(f.all)) {
		v := f.all[name].View()
		s += fmt.Sprint(name, " knows ", len(v.Members), ", not")
		for other := range f.all {
			if _, knows := v.Members[other]; !knows {
				s += " " + other
			}
		}
		s += "; "
	}
	return s[:min(len(s), 2000)]
}

// kill takes a member off without a word.
func (f *field) kill(name string) {
	f.t.Helper()
	if err := f.all[name].Close(); err != nil {
		f.t.Error(err)
	}
	delete(f.all, name)
}

// dials is how often the n-th host is called in a minute, a little after what was just sent has arrived.
func (f *field) dials(n int) int {
	time.Sleep(time.Second)
	before := f.net.Dials(host(n))
	time.Sleep(time.Minute)
	return f.net.Dials(host(n)) - before
}

func addrs(hosts ...int) []netip.Addr {
	var all []netip.Addr
	for _, n := range hosts {
		all = append(all, host(n).Addr())
	}
	return all
}
