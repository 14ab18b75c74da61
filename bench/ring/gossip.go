package main

import (
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/cluster/clustertest"
)

// talk is a cluster in a bubble of virtual time. Its members stay as they are when they join, so that no ring is made:
// what that costs is measured by itself.
type talk struct {
	net  *clustertest.Net
	all  []*cluster.Members
	sent atomic.Int64 // bytes, since it was last 0

}

// gossips prints how clusters of each size talk, and ends the process.
func gossips(out io.Writer, sizes []int) {
	fmt.Fprintln(out, "| members | all know all | all know of a join | of a leave | of a death | a member sends, idle | its memory | computed in |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|")
	testing.Main(func(string, string) (bool, error) { return true, nil }, tests(out, sizes), nil, nil)
}

func tests(out io.Writer, sizes []int) (all []testing.InternalTest) {
	for _, n := range sizes {
		all = append(all, testing.InternalTest{Name: fmt.Sprint(n), F: func(t *testing.T) {
			row, began := "", time.Now()
			synctest.Test(t, func(t *testing.T) { row = measure(t, n) })
			fmt.Fprintf(out, "| %d | %s | %v |\n", n, row, time.Since(began).Round(100*time.Millisecond))
		}})
	}
	return all
}

// measure is one row: a cluster starts, all at once; rests; is joined, left in good order, and bereaved.
func measure(t *testing.T, n int) string {
	c := &talk{net: clustertest.New(1)}
	c.net.Delay(500*time.Microsecond, 2*time.Millisecond)
	c.net.Tap(func(b []byte) { c.sent.Add(int64(len(b))) })
	defer c.end(t)
	began := time.Now()
	for i := range n {
		c.join(t, i)
	}
	cells := []string{spelled(c.until(t, began, n))}
	time.Sleep(2 * time.Minute) // until the last word of the start is said
	idle, heap := c.rest(n), heapOf(n)
	began = time.Now()
	c.join(t, n)
	joined := c.until(t, began, n+1)
	time.Sleep(time.Minute)
	began = time.Now()
	told := ""
	if err := c.all[n].Leave(t.Context()); err != nil {
		told = ", as one that died"
	}
	c.close(t, n)
	left := spelled(c.until(t, began, n)) + told
	time.Sleep(time.Minute)
	began = time.Now()
	c.close(t, n-1)
	died := c.until(t, began, n-1)
	cells = append(cells, spelled(joined), left, spelled(died), fmt.Sprintf("%d bytes/s", idle), fmt.Sprintf("%d KiB", heap>>10))
	return strings.Join(cells, " | ")
}

// rest is what each of n sends in a second. Full exchanges of what is known are 30 s apart in a small cluster, 90 s among 100,
// 150 s among 300 and 180 s among 1000: this is as long as several of each, and of the last, which takes long to compute, one.
func (c *talk) rest(n int) int {
	long := 15 * time.Minute
	if n > 300 {
		long = 3 * time.Minute
	}
	c.sent.Store(0)
	time.Sleep(long)
	return int(c.sent.Load()) / int(long.Seconds()) / n
}

// heapOf is what one of n has in memory, its part of the network included.
func heapOf(n int) uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc / uint64(n)
}

func (c *talk) join(t *testing.T, i int) {
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)}), cluster.DefaultPort)
	transport, err := c.net.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	m, err := cluster.Join(t.Context(), cluster.Options{
		Name: fmt.Sprintf("tidepool-%d", i), Bind: at.String(), Join: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, PeerAddr: ":7947",
		Zone: fmt.Sprint("zone-", i%3), Version: "v1.0.0", Secrets: [][]byte{[]byte("a secret of this measurement")}, Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.all = append(c.all, m)
}

// until waits until each that is there knows n, and says how long after began that was.
func (c *talk) until(t *testing.T, began time.Time, n int) time.Duration {
	const often, most = 50 * time.Millisecond, 10 * time.Minute
	for !c.agree(n) {
		if time.Since(began) > most {
			t.Fatalf("not all know all %d after %v", n, most)
		}
		time.Sleep(often)
	}
	return time.Since(began)
}

func (c *talk) agree(n int) bool {
	for _, m := range c.all {
		if len(m.View().Members) != n {
			return false
		}
	}
	return true
}

// close ends the last member, which is the i-th.
func (c *talk) close(t *testing.T, i int) {
	if err := c.all[i].Close(); err != nil {
		t.Error(err)
	}
	c.all = c.all[:i]
}

func (c *talk) end(t *testing.T) {
	for i := len(c.all) - 1; i >= 0; i-- {
		c.close(t, i)
	}
	time.Sleep(2 * time.Minute) // until memberlist's timers have run out
}

func spelled(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
