package main_test

import (
	"strings"
	"testing"
	"time"

	whole "github.com/tidepool-oci/tidepool/cmd/tidepool"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// TestClusterInNetworks has members in network namespaces of their own lose packets, each other and their patience, while
// clients pull: no request fails.
func TestClusterInNetworks(t *testing.T) {
	if !whole.InNetwork(t, "iptables", "nsenter") {
		return
	}
	for _, c := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"row 63 slow owner", slowOwner},
		{"row 65 partition", partition},
		{"row 66 one way only", oneWay},
		{"row 73 no UDP", noUDP},
		{"loss", loss},
		{"cut off for 20 seconds, and a fourth", cutOff},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t)
		})
	}
}

// breath is the pause of a client: the cases share the machine.
const breath = 50 * time.Millisecond

// within is how soon halves must have met again. Who is missing is tried every three seconds, for up to five, and then all
// hear of it: ten seconds at most. The other ten are a busy machine's, which is held to less in virtual time
// (cluster.TestAPartitionHeals).
const within = 20 * time.Second

// givenUp is how long a request may take where members are cut off from each other: one that was at work for another is given
// up ten seconds after its last sign, the next after three. Who waits for longer waits for what takes twenty.
const givenUp = 15 * time.Second

// partition: two members and three, that do not see each other.
func partition(t *testing.T) {
	o := origintest.New()
	l := newLAN(t, o)
	l.gather(5, nil)
	f, during := ignite(t, o, "library/before", 6), ignite(t, o, "library/in-between", 6)
	unseen := ignite(t, o, "library/not-seen-yet", 24)
	for _, one := range []*fire{f, during, unseen} {
		one.well(l.members[:2], l.members[2:])
	}
	for _, p := range l.members {
		f.at(p, 1, breath)
	}
	l.cut(l.stations[:2], l.stations[2:])
	unseen.all(l.members...)
	t.Logf("seen after %v", max(l.sees(2, l.members[:2]...), l.sees(3, l.members[2:]...)))
	unseen.once(l.stations[:2], l.stations[2:])
	during.all(l.members...)
	l.heal()
	if took := l.sees(5, l.members...); took > within {
		t.Errorf("healed after %v", took)
	}
	during.all(l.members...)
	during.out(60, 2, givenUp) // once on either side
	unseen.out(120, 3, givenUp)
	f.out(100, 3, givenUp) // once more while the cut comes about, from one member to the next
}

// oneWay: what one member sends does not reach another, which is heard.
func oneWay(t *testing.T) {
	o := origintest.New()
	l := newLAN(t, o)
	l.gather(3, nil)
	f := ignite(t, o, "library/one-way", 12)
	f.well([]*tidepool{l.members[0], l.members[2]}, l.members[1:])
	l.stations[1].deaf(t, l.stations[0])
	var before []float64
	for _, p := range l.members {
		before = append(before, p.ringVersion(t))
		f.at(p, 1, breath)
	}
	<-time.After(12 * time.Second)
	for i, p := range l.members {
		if n := p.ringVersion(t) - before[i]; n > 2 {
			t.Errorf("%s has seen %v changes", p.addr, n)
		}
	}
	l.sees(3, l.members...)
	f.out(100, 2, givenUp)
}

// noUDP: members find each other by TCP, and say what is amiss.
func noUDP(t *testing.T) {
	o := origintest.New()
	l := newLAN(t, o)
	l.gather(3, func(s *station) { s.rule(t, "-A", "INPUT", "-p", "udp", "-j", "DROP") })
	f := ignite(t, o, "library/no-udp", 12)
	f.well(l.members)
	f.all(l.members...)
	f.out(36, 1, 10*time.Second)
	const sentence = "reached by TCP but not by UDP"
	for _, p := range l.members {
		p.await(t, "it says that UDP does not get through", func() bool {
			code, out := p.tells(t, "status")
			return code == 0 && strings.Contains(out, sentence)
		})
		if n := sample(t, p, "tidepool_cluster_gossip_tcp_only_total"); n == 0 {
			t.Error("it is not counted")
		}
		p.await(t, "it is logged", func() bool { return strings.Contains(read(t, p.log), "UDP probes failed") })
	}
}

// loss: one packet in ten is lost, of whatever kind, between members and on the way to the registry.
func loss(t *testing.T) {
	o := origintest.New()
	l := newLAN(t, o)
	l.gather(3, nil)
	for _, s := range l.stations {
		s.rule(t, "-A", "INPUT", "-m", "statistic", "--mode", "random", "--probability", "0.1", "-j", "DROP")
	}
	f := ignite(t, o, "library/loss", 12)
	f.well(l.members) // and at times too late for each other: what is lost comes a fifth of a second later, or two fifths
	for _, p := range l.members {
		f.at(p, 1, breath)
	}
	<-time.After(10 * time.Second)
	f.out(30, 3, 20*time.Second)
}

// slowOwner: all that a member sends to the others comes late.
func slowOwner(t *testing.T) {
	o := origintest.New()
	l := newLAN(t, o)
	l.gather(3, nil)
	f := ignite(t, o, "library/slow", 12)
	f.all(l.members...)
	l.slow(l.stations[0], l.stations[2], 400*time.Millisecond)
	l.slow(l.stations[1], l.stations[2], 400*time.Millisecond)
	cold := ignite(t, o, "library/slow-and-cold", 12)
	f.well(l.members[:2])
	cold.well(l.members[:2])
	for _, p := range l.members[:2] {
		f.at(p, 2, breath)
		cold.at(p, 2, breath)
	}
	<-time.After(10 * time.Second)
	f.out(100, 2, 10*time.Second)
	cold.out(50, 2, 10*time.Second)
}

// cutOff: one is cut off from the others for 20 seconds while a fourth joins, and comes back.
func cutOff(t *testing.T) {
	o := origintest.New()
	l := newLAN(t, o)
	l.gather(3, nil)
	f := ignite(t, o, "library/cut-off", 12)
	f.all(l.members...)
	for _, p := range l.members {
		f.at(p, 2, breath)
	}
	f.well(l.members[:2])
	l.cut(l.stations[2:], l.stations[:2])
	cut := time.Now()
	fourth := l.station()
	l.cut(l.stations[2:3], l.stations[3:])
	p := l.memberAt(fourth)
	p.await(t, "tidepool is ready", func() bool { return answers("http://" + p.admin + "/readyz") })
	f.at(p, 2, breath)
	l.sees(3, l.members[0], l.members[1], p)
	l.sees(1, l.members[2])
	<-time.After(20*time.Second - time.Since(cut))
	l.heal()
	if took := l.sees(4, l.members...); took > within {
		t.Errorf("healed after %v", took)
	}
	f.well(l.members)
	f.besides(0, "all have met again", func() { f.all(l.members...) })
	f.out(200, 3, givenUp) // and by the one that is cut off, and for the others
}
