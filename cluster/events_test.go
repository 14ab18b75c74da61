package cluster_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
)

// ears remember what each member heard.
type ears struct {
	mu  sync.Mutex
	all map[string][]cluster.Event
}

// on has the member of these options listen.
func (e *ears) on(o *cluster.Options) {
	name := o.Name
	o.Heard = func(_ context.Context, ev cluster.Event) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.all == nil {
			e.all = map[string][]cluster.Event{}
		}
		e.all[name] = append(e.all[name], ev)
	}
}

// of is how often a member heard of a repository.
func (e *ears) of(name, repo string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all[name] {
		if ev.Ref.Repo == repo {
			n++
		}
	}
	return n
}

// purge is an event about a repository.
func purge(repo string) cluster.Event {
	return cluster.Event{Kind: cluster.Purged, Ref: cache.Ref{Registry: "docker.io", Repo: repo, Kind: cache.KindManifest}}
}

func TestEventsReachAll(t *testing.T) {
	for _, n := range []int{2, 5, 30} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inField(t, func(t *testing.T, f *field) {
				var e ears
				f.joinAll(n, e.on)
				f.net.Lose(0.05)
				for _, from := range []string{"m1", "m2"} {
					f.all[from].Tell(purge("from/" + from))
					f.until("all others have heard "+from, exchanged, func() bool { // mostly within a second: see there
						for name := range f.all {
							if name != from && e.of(name, "from/"+from) == 0 {
								return false
							}
						}
						return true
					})
				}
				time.Sleep(5 * time.Minute) // members meet, and know already
				for name, m := range f.all {
					for _, from := range []string{"m1", "m2"} {
						if got := e.of(name, "from/"+from); got != 1 && name != from || name == from && got != 0 {
							t.Errorf("%s heard %s %d times", name, from, got)
						}
					}
					if s := m.Stats().Events; s.Dropped+s.Refused > 0 {
						t.Errorf("%s: %+v", name, s)
					}
				}
			})
		})
	}
}

// One that was cut off, and one that was not there, hear what lasts when they meet the others; and nobody hears it twice.
func TestEventsAreHeardLater(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		var e ears
		f.joinAll(5, e.on)
		f.net.Cut(addrs(5), addrs(1, 2, 3, 4), false)
		time.Sleep(time.Minute)
		f.all["m1"].Tell(purge("lasting"))
		f.all["m5"].Tell(purge("from/m5"))
		time.Sleep(20 * time.Minute)
		if e.of("m5", "lasting") != 0 {
			t.Fatal("it heard through the cut")
		}
		f.net.Heal()
		f.until("it hears after the healing", 15*time.Second, func() bool { return e.of("m5", "lasting") == 1 })
		f.until("and is heard", 5*time.Second, func() bool {
			return !slices.ContainsFunc([]string{"m1", "m2", "m3", "m4"}, func(name string) bool { return e.of(name, "from/m5") == 0 })
		})
		f.join("m6", 6, e.on)
		f.until("one that was not there hears", 5*time.Second, func() bool { return e.of("m6", "lasting") == 1 && e.of("m6", "from/m5") == 1 })
		time.Sleep(10 * time.Minute)
		for name := range f.all {
			if n := e.of(name, "lasting"); n > 1 {
				t.Errorf("%s heard it %d times", name, n)
			}
		}
	})
}

// The later word on a subject counts, wherever it comes from.
func TestLastWord(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		var e ears
		f.joinAll(3, e.on)
		for range 3 {
			f.all["m1"].Tell(purge("again"))
			time.Sleep(5 * time.Second)
		}
		if n := e.of("m2", "again"); n != 3 {
			t.Errorf("heard %d times", n)
		}
		f.join("m4", 4, e.on)
		time.Sleep(time.Minute)
		if n := e.of("m4", "again"); n != 1 {
			t.Errorf("a new member heard %d times", n)
		}
	})
}

// More than can be said at once goes out in time, or when members meet: nothing that lasts is lost.
func TestManyEvents(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		var e ears
		f.joinAll(5, e.on)
		const many = 600
		for i := range many {
			f.all["m1"].Tell(purge(fmt.Sprintf("many/%d", i)))
		}
		f.until("all have heard all", 2*time.Minute, func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			for _, name := range []string{"m2", "m3", "m4", "m5"} {
				seen := map[string]bool{}
				for _, ev := range e.all[name] {
					seen[ev.Ref.Repo] = true
				}
				if len(seen) != many {
					return false
				}
			}
			return true
		})
	})
}

// What is too long for a message is several.
func TestEventsInParts(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		var e ears
		f.joinAll(3, e.on)
		drop := purge(strings.Repeat("a", 200))
		drop.Kind = cluster.Dropped
		want := map[cache.Digest]bool{}
		for i := range 100 {
			d := cache.Sum([]byte{byte(i)})
			drop.Digests, want[d] = append(drop.Digests, d), true
		}
		f.all["m3"].Tell(drop)
		f.until("all digests have come", 5*time.Second, func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			got := map[cache.Digest]bool{}
			for _, ev := range e.all["m1"] {
				for _, d := range ev.Digests {
					got[d] = true
				}
			}
			return maps.Equal(got, want)
		})
	})
}
