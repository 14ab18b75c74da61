package cluster_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/cluster/clustertest"
)

func TestMembersConverge(t *testing.T) {
	for _, n := range []int{2, 5, 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inField(t, func(t *testing.T, f *field) {
				f.joinAll(n)
				v := f.all["m2"].View()
				want := cluster.Member{Name: "m1", Addr: "10.0.0.1:5002", Zone: "r1", Weight: 1, State: cluster.Ready, Version: "v1"}
				if v.Self != "m2" || v.Members["m1"] != want {
					t.Errorf("%s takes m1 for %+v, want %+v", v.Self, v.Members["m1"], want)
				}
				if o := v.Ring.Owners(1, n+1); len(o) != n {
					t.Errorf("%d of %d are on the ring", len(o), n)
				}
			})
		})
	}
}

func TestAMemberNeedsNobodyAndIsReadyWhenTold(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		m := f.join("m2", 2) // m1, whom it is to join, is not there yet
		changed := m.Changed()
		if v := m.View(); v.Members["m2"].State != cluster.Joining || v.Ring.Owners(1, 1) != nil {
			t.Errorf("before it is told, it is %+v", v.Members["m2"])
		}
		before := m.View()
		m.SetState(cluster.Ready)
		if v := m.View(); v.Members["m2"].State != cluster.Ready || len(v.Ring.Owners(1, 1)) != 1 || v.Version != before.Version+1 {
			t.Errorf("after it is told, it is %+v", v)
		}
		if before.Members["m2"].State != cluster.Joining {
			t.Error("a view that was taken has changed")
		}
		<-changed
		time.Sleep(time.Hour)
		f.join("m1", 1).SetState(cluster.Ready)
		f.until("the one it waited for is there", 10*time.Second, f.agree)
	})
}

func TestADeathIsSeen(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(5)
		f.kill("m3")
		f.until("the death is seen by all", 20*time.Second, f.agree)
		for name, m := range f.all {
			if since := m.Lost()["m3"]; time.Since(since) > 20*time.Second || len(m.Lost()) != 1 {
				t.Errorf("%s has lost %v", name, m.Lost())
			}
		}
		f.join("m3", 3).SetState(cluster.Ready)
		f.until("it is back", 20*time.Second, func() bool { return f.agree() && len(f.all["m1"].Lost()) == 0 })
	})
}

func TestLeavingInGoodOrder(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(5)
		f.all["m3"].SetState(cluster.Draining)
		f.drains("m3")
		start := time.Now()
		if err := f.all["m3"].Leave(t.Context()); err != nil {
			t.Error(err)
		}
		t.Logf("it left within %v", time.Since(start))
		if _, in := f.all["m3"].View().Members["m3"]; in {
			t.Error("it has left, and is in its own view")
		}
		f.kill("m3")
		f.leaves("m3")
		if n := f.dials(3); n > 0 || len(f.all["m1"].Lost()) > 0 {
			t.Errorf("one that left was looked for %d times; lost: %v", n, f.all["m1"].Lost())
		}
		f.join("m3", 9).SetState(cluster.Ready)
		// Mostly at once; who misses the gossip, or hears the farewell after it, learns at the next exchange of states.
		f.until("it is back at another address", exchanged, f.agree)
	})
}

// exchanged is when each member has exchanged states with another: memberlist does so every 30 seconds.
const exchanged = 45 * time.Second

func TestLeavingAtOnce(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(5)
		if err := f.all["m3"].Leave(t.Context()); err != nil { // without draining before
			t.Error(err)
		}
		f.kill("m3")
		f.leaves("m3")
		// Of the dead and those that left gossip tells alike; who has missed that it was to drain takes it for dead.
		looking := 0
		for _, m := range f.all {
			looking += len(m.Lost())
		}
		if n := f.dials(3); looking > 1 || n > 0 && looking == 0 {
			t.Errorf("one that left was looked for %d times, by %d", n, looking)
		}
		f.kill("m4")
		f.until("a death is seen", 20*time.Second, f.agree)
		if n := f.dials(4); n < 10 {
			t.Errorf("one that died was looked for %d times in a minute", n)
		}
	})
}

func TestLeavingAlone(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		m := f.join("m1", 1)
		if err := m.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		f.kill("m1")
		if err := m.Leave(t.Context()); err == nil {
			t.Error("what is closed left in good order")
		}
		m.SetState(cluster.Ready) // and this does no harm
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The ring agrees within ten seconds of the healing, however long the sides were apart.
func TestAPartitionHeals(t *testing.T) {
	times := []time.Duration{5 * time.Second, 20 * time.Minute}
	for i := range 16 { // at every point of a round: while memberlist still knows the dead, and when it has forgotten them
		times = append(times, 25*time.Second+time.Duration(i)*500*time.Millisecond, 90*time.Second+time.Duration(i)*500*time.Millisecond)
	}
	for _, apart := range times {
		t.Run(apart.String(), func(t *testing.T) {
			inField(t, func(t *testing.T, f *field) {
				f.joinAll(5, func(o *cluster.Options) { o.Join = []string{host(1).String(), host(2).String()} })
				f.net.Cut(addrs(1, 2), addrs(3, 4, 5), false)
				time.Sleep(apart)
				if apart >= time.Minute && (!f.agreeAmong("m1", "m2") || !f.agreeAmong("m3", "m4", "m5")) {
					t.Fatalf("each side has itself: %s", f)
				}
				f.net.Heal()
				f.until("both sides are one", 10*time.Second, f.agree)
			})
		})
	}
}

// Where no seed is left, the last known members are called.
func TestAPartitionHealsWithoutSeeds(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(5)
		f.kill("m1") // the only seed
		f.net.Cut(addrs(2, 3), addrs(4, 5), false)
		time.Sleep(10 * time.Minute)
		f.net.Heal()
		f.until("both sides are one", 10*time.Second, f.agree)
	})
}

// One that hears and is not heard: the others reach it by each other, or do without it, and nobody flaps for ever.
func TestOneWayOnly(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(5)
		f.net.Cut(addrs(1), addrs(2), true)
		before := f.all["m5"].View().Version
		time.Sleep(10 * time.Minute)
		if !f.agree() {
			t.Errorf("one way between two of five is cut: %s", f)
		}
		t.Logf("in ten minutes the view of a third changed %d times", f.all["m5"].View().Version-before)
		if n := f.all["m5"].View().Version - before; n > 4 {
			t.Errorf("in ten minutes the view of a third changed %d times", n)
		}
	})
}

func TestLossAndDelay(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.net.Lose(0.2)
		f.net.Delay(10*time.Millisecond, 80*time.Millisecond)
		f.joinAll(5)
		before := f.all["m5"].View().Version
		time.Sleep(10 * time.Minute)
		f.until("all are there", 10*time.Second, f.agree)
		if n := f.all["m5"].View().Version - before; n > 4 {
			t.Errorf("with a fifth of the packets lost the view changed %d times in ten minutes", n)
		}
	})
}

// Without any packet, streams alone keep a cluster together: as behind a firewall that knows TCP only.
func TestStreamsAlone(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.net.Lose(1)
		for i := range 3 {
			f.join(fmt.Sprint("m", i+1), i+1).SetState(cluster.Ready)
		}
		f.until("all agree", 2*time.Minute, f.agree)
		time.Sleep(10 * time.Minute)
		f.until("and still do", 2*time.Minute, f.agree)
	})
}

// As Kubernetes does it: all at once, each under its name, all at addresses of which only the service's name knows.
func TestAllRestartWithNewAddresses(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		var now atomic.Pointer[[]netip.Addr]
		now.Store(new(addrs(1, 2, 3)))
		named := func(o *cluster.Options) {
			o.Join = []string{"tidepool.cache.svc"}
			o.Lookup = clustertest.Names(map[string]func() []netip.Addr{"tidepool.cache.svc": func() []netip.Addr { return *now.Load() }})
		}
		f.joinAll(3, named)
		for i := range 3 {
			f.kill(fmt.Sprint("m", i+1))
		}
		now.Store(new(addrs(11, 12, 13)))
		for i := range 3 {
			f.join(fmt.Sprint("m", i+1), 11+i, named).SetState(cluster.Ready)
		}
		f.until("all are back", 10*time.Second, f.agree)

		// One by one, as an update does, each before its death is seen.
		for i := range 3 {
			f.kill(fmt.Sprint("m", i+1))
			next := slices.Clone(*now.Load())
			next[i] = host(21 + i).Addr()
			now.Store(&next)
			f.join(fmt.Sprint("m", i+1), 21+i, named).SetState(cluster.Ready)
			f.until("one is back", 15*time.Second, f.agree)
		}
	})
}

// One that was killed and is back at once, before anybody missed it, is taken for what it is now: it looks over its
// store, and owns nothing yet.
func TestBackBeforeItWasMissed(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(3)
		f.all["m2"].SetState(cluster.Draining) // so that gossip has a later word of it than its first
		f.all["m2"].SetState(cluster.Ready)
		f.until("all agree", 10*time.Second, f.agree)
		f.kill("m2")
		f.join("m2", 2)
		f.until("it is joining", 3*time.Second, func() bool {
			return f.all["m1"].View().Members["m2"].State == cluster.Joining && f.agree()
		})
		f.all["m2"].SetState(cluster.Ready)
		f.until("it is ready", 3*time.Second, f.agree)
	})
}

func TestThirtyMembers(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(30)
		f.net.Cut(addrs(1, 2, 3, 4, 5, 6, 7), addrs(8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30), false)
		f.until("the lesser part is by itself", 2*time.Minute, func() bool { return len(f.all["m1"].View().Members) == 7 })
		f.until("and so is the larger", 2*time.Minute, func() bool { return len(f.all["m30"].View().Members) == 23 })
		time.Sleep(5 * time.Minute)
		f.net.Heal()
		f.until("both are one", 10*time.Second, f.agree)
		f.kill("m17")
		f.until("a death is seen by all", 30*time.Second, f.agree)
	})
}

func TestTwoWithOneName(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(3)
		first := f.all["m2"]
		f.join("m2", 9).SetState(cluster.Ready)
		time.Sleep(time.Minute)
		for _, name := range []string{"m1", "m3"} {
			if m := f.all[name].View().Members["m2"]; m.Addr != "10.0.0.2:5002" {
				t.Errorf("%s takes the second for m2: %+v", name, m)
			}
		}
		if f.seen.FilterMessageSnippet("two members have one name").Len() == 0 || f.all["m1"].Stats().Conflicts == 0 {
			t.Error("nobody says so")
		}
		if err := f.all["m2"].Trouble(); err == nil || !strings.Contains(err.Error(), "two members have the name m2") {
			t.Errorf("the trouble of the second: %v", err)
		}
		f.kill("m2")
		f.until("it is over", time.Minute, func() bool { return f.all["m1"].Trouble() == nil && f.all["m3"].Trouble() == nil })
		f.all["m2"] = first
	})
}
