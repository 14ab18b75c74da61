package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
)

// fresh is a member that has just joined many others: it passes on all that it has learned of them, and what it says of
// itself waits for that.
func (f *field) fresh(n int) *cluster.Members {
	f.t.Helper()
	long := func(o *cluster.Options) {
		o.Zone, o.Version, o.PeerAddr = strings.Repeat("z", 63), strings.Repeat("v", 63), strings.Repeat("a-host.", 32)+"corp:5002"
	}
	for i := range n {
		f.join(fmt.Sprint("m", i+1), i+1, long)
	}
	f.until("all agree", time.Minute, f.agree)
	m := f.join("fresh", n+1, long)
	f.until("it knows all", 10*time.Second, func() bool { return len(m.View().Members) == n+1 })
	return m
}

// One that leaves right after it has joined leaves in good order all the same, and soon.
func TestLeavingWithMuchToSay(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		m, start := f.fresh(40), time.Now()
		err := m.Leave(t.Context())
		if took := time.Since(start); err != nil || took > 5*time.Second {
			t.Errorf("%v, after %v", err, took)
		}
		f.kill("fresh")
		f.leaves("fresh")
	})
}

// Where there is no time for gossip, it is enough that one hears it by TCP; and where none does, Leave says so.
func TestLeavingInAHurry(t *testing.T) {
	const hurry = 100 * time.Millisecond // gossip goes out each 200
	for name, alone := range map[string]bool{"heard": false, "cut off": true} {
		t.Run(name, func(t *testing.T) {
			inField(t, func(t *testing.T, f *field) {
				f.joinAll(5)
				f.all["m3"].SetState(cluster.Draining)
				f.drains("m3")
				time.Sleep(time.Second)
				if alone {
					f.net.Cut(addrs(3), addrs(1, 2, 4, 5), false)
				}
				ctx, cancel := context.WithTimeout(t.Context(), hurry)
				defer cancel()
				start := time.Now()
				err := f.all["m3"].Leave(ctx)
				if alone != (err != nil && strings.Contains(err.Error(), "find out by themselves")) || time.Since(start) > hurry {
					t.Errorf("%v, after %v", err, time.Since(start))
				}
				f.kill("m3")
				if !alone {
					f.leaves("m3")
				}
			})
		})
	}
	inField(t, func(t *testing.T, f *field) {
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.join("m1", 1).Leave(over); err == nil || !strings.Contains(err.Error(), "no time") {
			t.Error(err)
		}
	})
}

// Without any packet the others hear of it by TCP.
func TestLeavingByStreamsAlone(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(5)
		f.net.Lose(1)
		if err := f.all["m3"].Leave(t.Context()); err != nil {
			t.Error(err)
		}
		f.kill("m3")
		f.until("three know that it left", time.Second, func() bool {
			knows := 0
			for _, m := range f.all {
				if _, there := m.View().Members["m3"]; !there {
					knows++
				}
			}
			return knows >= 3
		})
	})
}

// One that leaves while it says that it is ready, and that has much else to say, leaves in good order, and soon.
func TestLeavingWhileItSpeaks(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		m := f.fresh(40)
		m.SetState(cluster.Ready)
		synctest.Wait()
		start := time.Now()
		err := m.Leave(t.Context())
		if took := time.Since(start); err != nil || took > 5*time.Second {
			t.Errorf("%v, after %v", err, took)
		}
		f.kill("fresh")
		f.leaves("fresh")
	})
}

// Who has hardly any time does not wait until what it says is out.
func TestLeavingInAHurryWhileItSpeaks(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		m := f.fresh(40)
		m.SetState(cluster.Ready)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := m.Leave(ctx); err == nil || time.Since(start) > 100*time.Millisecond {
			t.Errorf("%v, after %v", err, time.Since(start))
		}
	})
}
