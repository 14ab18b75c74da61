package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// ring is what a member says of who owns what.
type ring struct {
	Self   string
	Owners []string
}

func (p *tidepool) ring(t *testing.T, query string) (r ring) {
	t.Helper()
	res, err := http.Get("http://" + p.admin + "/api/v1/ring" + query)
	must(t, err)
	defer res.Body.Close()
	must(t, json.NewDecoder(res.Body).Decode(&r))
	return r
}

// share is how many of f's blobs a member owns.
func (f *fire) share(p *tidepool) (n int) {
	f.t.Helper()
	self := p.ring(f.t, "").Self
	for _, img := range f.images {
		for _, b := range img.Blobs {
			if p.ring(f.t, "?digest="+b.Digest.String()).Owners[0] == self {
				n++
			}
		}
	}
	return n
}

// lasting is how long clients pull while nothing changes.
func lasting(d time.Duration) { <-time.After(d) }

// besides does something, while clients pull, and says how many blobs were fetched meanwhile. Each time that a member which
// was well was left alone, every blob may have been.
func (f *fire) besides(most int, what string, do func()) {
	f.t.Helper()
	left := f.leftAlone() // who is left alone is so before something is fetched for that
	before, seen := f.fetched(), len(f.o.Requests())
	do()
	n := f.fetched() - before
	left = f.leftAlone() - left
	f.t.Logf("%s: %d blobs fetched, of at most %d; left alone: %d", what, n, most, left)
	if most += left * f.blobs(); n > most {
		f.t.Errorf("%s: %d blobs were fetched, of at most %d: %s", what, n, most, f.again(seen))
	}
}

// blobs is how many there are.
func (f *fire) blobs() (n int) {
	for _, img := range f.images {
		n += len(img.Blobs)
	}
	return n
}

// again are the requests for what was asked for more than once since the first n.
func (f *fire) again(n int) (s string) {
	times := map[cache.Digest]int{}
	for _, count := range []bool{true, false} {
		for _, r := range f.o.Requests()[n:] {
			switch {
			case r.Kind != origintest.Blob:
			case count:
				times[r.Digest]++
			case times[r.Digest] > 1:
				s += fmt.Sprintf("\n%s %s %q by %s", r.Time.Format("15:04:05.000000"), r.Digest, r.Range, r.Header.Get("Via"))
			}
		}
	}
	return s
}

// TestClusterUnderFire kills one of three members without warning, starts it again, has a fourth join and one leave in
// good order, while clients of the others pull: none of them fails, and no more is fetched again than what the dead
// owned.
func TestClusterUnderFire(t *testing.T) {
	needs(t)
	t.Parallel()
	o := origintest.New()
	f := ignite(t, o, "library/fire", 24)
	hub := origintest.Serve(t, o)
	c := gather(t, 3, hub.URL)
	f.all(c.members...)
	for _, p := range c.members[:2] {
		f.at(p, 4, 5*time.Millisecond)
	}
	dead := c.members[2]
	share := f.share(dead)
	f.well(c.members[:2])
	f.besides(share, "one is dead, and comes back", func() { // the last ones are asked for while it does
		dead.kill()
		lasting(5 * time.Second)
		dead.restart()
		c.settle(3)
	})
	f.well(c.members)
	f.besides(0, "all are there", func() { f.all(c.members...) })
	f.besides(0, "a fourth joins", func() {
		f.at(c.start(hub.URL), 4, 5*time.Millisecond)
		c.settle(4)
		f.sides = [][]*tidepool{c.members} // from its start on
		lasting(2 * time.Second)
	})
	share = f.share(dead)
	f.well(append(slices.Clone(c.members[:2]), c.members[3]))
	f.besides(share, "one leaves", func() {
		dead.stop(t)
		lasting(2 * time.Second)
	})
	f.out(100, 3, 10*time.Second)
}

// TestClusterStandsStill is row 62: a member that neither answers nor is known to be dead is passed over.
func TestClusterStandsStill(t *testing.T) {
	needs(t)
	t.Parallel()
	o := origintest.New()
	f, cold := ignite(t, o, "library/still", 12), ignite(t, o, "library/cold", 12)
	c := gather(t, 3, origintest.Serve(t, o).URL)
	f.all(c.members...)
	f.well(c.members[:2])
	cold.well(c.members[:2])
	goOn := c.members[2].stopped(t)
	t.Cleanup(goOn)
	for _, p := range c.members[:2] {
		f.at(p, 2, 5*time.Millisecond)
		cold.at(p, 2, 5*time.Millisecond)
	}
	// A member is given three seconds at most, of a busy machine five are made. Who waits for one that stands still until
	// it goes on waits for longer.
	const still, longest = 10 * time.Second, 6 * time.Second
	lasting(still)
	goOn()
	c.settle(3)
	f.out(100, 3, longest) // once before; by the next one; and by it again if it was waiting itself
	cold.out(100, 2, longest)
}

// TestClusterSlowHub: a registry whose first byte takes two seconds is no dead member; nobody else asks it.
func TestClusterSlowHub(t *testing.T) {
	needs(t)
	t.Parallel()
	o := origintest.New()
	f := ignite(t, o, "library/thinks", 3)
	o.When(origintest.Blob, origintest.GET).Delay(2 * time.Second)
	c := gather(t, 3, origintest.Serve(t, o).URL)
	f.well(c.members)
	f.besides(f.blobs(), "all are asked for everything", func() { f.all(c.members...) })
	f.out(9, 1, 10*time.Second)
}

// TestClusterThirdRestarts is row 67: two of six restart at once, while clients pull, and cost no herd.
func TestClusterThirdRestarts(t *testing.T) {
	needs(t)
	t.Parallel()
	o := origintest.New()
	f := ignite(t, o, "library/third", 24)
	c := gather(t, 6, origintest.Serve(t, o).URL)
	f.all(c.members...)
	for _, p := range c.members[:4] {
		f.at(p, 2, 20*time.Millisecond)
	}
	// Also what both of them own is fetched by one, though nobody knows yet.
	most := f.share(c.members[4]) + f.share(c.members[5])
	f.well(c.members[:4])
	f.besides(most, "a third restarts", func() {
		for _, p := range c.members[4:] { // else the second fetches for the first in its last moments
			p.stopped(t)
		}
		for _, p := range c.members[4:] {
			p.kill()
		}
		lasting(time.Second)
		for _, p := range c.members[4:] {
			p.restart()
		}
		c.settle(6)
	})
	f.well(c.members)
	f.besides(0, "all are back", func() { f.all(c.members...) })
	f.out(100, 3, 10*time.Second)
}

// TestClusterRotates is row 70: the secret is replaced by another, in three steps, while clients pull: nobody is dropped.
func TestClusterRotates(t *testing.T) {
	needs(t)
	t.Parallel()
	o := origintest.New()
	f := ignite(t, o, "library/rotates", 12)
	c := gather(t, 3, origintest.Serve(t, o).URL)
	f.well(c.members)
	var views []float64
	for _, p := range c.members {
		views = append(views, p.ringVersion(t))
		f.at(p, 1, 20*time.Millisecond)
	}
	const reread = 12 * time.Second // the file is read anew every ten
	const before, after = "a secret of this test, of more than 16 bytes\n", "another secret of this test, as long as the first\n"
	for _, secrets := range []string{before + after, after + before, after} {
		must(t, os.WriteFile(c.secret, []byte(secrets), 0o600))
		lasting(reread)
	}
	for i, p := range c.members {
		if n := p.ringVersion(t); n != views[i] {
			t.Errorf("%s has seen %v changes", p.addr, n-views[i])
		}
		t.Logf("%s was not answered %v times", p.addr, sample(t, p, `tidepool_cluster_questions_total{outcome="silent"}`))
	}
	f.out(100, 2, 10*time.Second)
}
