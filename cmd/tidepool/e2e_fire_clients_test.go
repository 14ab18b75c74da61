package main_test

import (
	"fmt"
	"hash/crc32"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

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

// leftAlone is how often members that were well have left one another alone since the start: each time what one of them owns
// may have been fetched once more.
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
