package cluster_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
)

const keys = 20000

// ready are n members that own their share, in zones a, b, c … of which there are as many as said.
func ready(n, zones int) []cluster.Member {
	all := make([]cluster.Member, n)
	for i := range all {
		all[i] = cluster.Member{Name: fmt.Sprintf("tidepool-%d", i), Weight: 1, State: cluster.Ready}
		if zones > 0 {
			all[i].Zone = string(rune('a' + i%zones))
		}
	}
	return all
}

// each calls f for the same keys in each test, with two rings' owners.
func each(f func(key uint64)) {
	random := rand.New(rand.NewPCG(29, 1))
	for range keys {
		f(random.Uint64())
	}
}

func TestARingIsTheSameForAnyOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for n := range 12 {
		members := ready(n, n%4)
		for i := range members {
			members[i].Weight = 1 + random.IntN(4)
		}
		one := cluster.NewRing(members)
		random.Shuffle(n, func(i, j int) { members[i], members[j] = members[j], members[i] })
		other := cluster.NewRing(append(members, members...)) // and to hear of a member twice changes nothing
		each(func(key uint64) {
			if a, b := one.Owners(key, 3), other.Owners(key, 3); !slices.Equal(a, b) {
				t.Fatalf("%d members: key %x: %v in one order, %v in another", n, key, a, b)
			}
		})
		if !maps.Equal(one.Shares(), other.Shares()) {
			t.Errorf("%d members: the shares depend on the order", n)
		}
	}
}

func TestOnlyWhoIsReadyOwns(t *testing.T) {
	members := ready(3, 0)
	members[0].State, members[1].State = cluster.Joining, cluster.Draining
	ring := cluster.NewRing(members)
	each(func(key uint64) {
		if o := ring.Owners(key, 3); len(o) != 1 || o[0] != members[2] {
			t.Fatalf("the owners are %v", o)
		}
	})
	if o := cluster.NewRing(members[:2]).Owners(1, 3); o != nil {
		t.Errorf("nobody is ready, and %v own", o)
	}
	if o := new(cluster.Ring).Owners(1, 1); o != nil {
		t.Errorf("on the zero ring %v own", o)
	}
}

func TestAJoinMovesNoMoreThanItMust(t *testing.T) {
	for _, n := range []int{1, 3, 5, 10, 49} {
		all := ready(n+1, 3)
		before, after := cluster.NewRing(all[:n]), cluster.NewRing(all)
		joined, moved := all[n].Name, 0
		each(func(key uint64) {
			was, is := before.Owners(key, 1)[0], after.Owners(key, 3)
			if was == is[0] {
				return
			}
			moved++
			if is[0].Name != joined {
				t.Fatalf("a key moved from %s to %s, which both stay", was.Name, is[0].Name)
			}
			if !slices.Contains(is, was) {
				t.Fatalf("%s owned the key before and is not among the first three: %v", was.Name, is)
			}
		})
		// What a member takes over is its share, which 128 points make even up to a standard deviation of 8.4 percent:
		// four of them are the bound for one join, and TestJoinsMoveTheirShareOnAverage has the sharper one for many.
		part, want := float64(moved)/keys, 1/float64(n+1)
		t.Logf("%d members and one more: %.4f of the keys moved, %.2f of its even share", n, part, part/want)
		if part > 1.34*want || math.Abs(part-after.Shares()[joined]) > 0.01 {
			t.Errorf("%d members and one more: %.4f of the keys moved, its even share is %.4f", n, part, want)
		}
	}
}

// Over many clusters a join moves what it must: the spread of one is not a bias of all.
func TestJoinsMoveTheirShareOnAverage(t *testing.T) {
	for _, n := range []int{1, 3, 10} {
		var sum float64
		const clusters = 64
		for c := range clusters {
			all := ready(n+1, 0)
			for i := range all {
				all[i].Name = fmt.Sprintf("c%d-%d", c, i)
			}
			sum += cluster.NewRing(all).Shares()[all[n].Name]
		}
		mean := sum / clusters * float64(n+1)
		t.Logf("%d members and one more: %.3f of its even share on average of %d clusters", n, mean, clusters)
		if mean > 1.1 {
			t.Errorf("%d members and one more: a join moves %.3f of its even share", n, mean)
		}
	}
}

func TestAMoreHeavyMemberOnlyGains(t *testing.T) {
	members := ready(5, 0)
	before := cluster.NewRing(members)
	members[2].Weight = 3
	after := cluster.NewRing(members)
	each(func(key uint64) {
		was, is := before.Owners(key, 1)[0].Name, after.Owners(key, 1)[0].Name
		if was != is && is != members[2].Name {
			t.Fatalf("a key moved from %s to %s, whose weights are as before", was, is)
		}
	})
	if share := after.Shares()[members[2].Name]; share < 3./7*0.85 || share > 3./7*1.15 {
		t.Errorf("of weights 3 and four of 1, the 3 owns %.3f, want about %.3f", share, 3./7)
	}
	members[2].Weight = 1 << 20
	if n := cluster.NewRing(members).Shares()[members[0].Name]; n < 1./(4+2*cluster.MaxWeight) {
		t.Errorf("a weight without bound leaves %.5f to the others", n)
	}
}

func TestTheSecondOwnerIsInAnotherZone(t *testing.T) {
	for _, zones := range []int{0, 1, 2, 3, 7} {
		members := ready(7, zones)
		ring := cluster.NewRing(members)
		bare := make([]cluster.Member, len(members))
		for i, m := range members {
			m.Zone = ""
			bare[i] = m
		}
		plain := cluster.NewRing(bare)
		each(func(key uint64) {
			owners := ring.Owners(key, 9)
			names := map[string]bool{}
			for _, o := range owners {
				names[o.Name] = true
			}
			if len(owners) != 7 || len(names) != 7 {
				t.Fatalf("%d zones: %v are not all members once", zones, owners)
			}
			if zones > 1 && owners[0].Zone == owners[1].Zone {
				t.Fatalf("%d zones: both first owners are in zone %s", zones, owners[0].Zone)
			}
			for n := range owners {
				if fewer := ring.Owners(key, n); len(fewer) != n || !slices.Equal(fewer, owners[:n]) {
					t.Fatalf("%d zones: the first %d are %v of %v", zones, n, fewer, owners)
				}
			}
			if first := plain.Owners(key, 1)[0]; first.Name != owners[0].Name {
				t.Fatalf("%d zones: zones moved the owner from %s to %s", zones, first.Name, owners[0].Name)
			}
		})
	}
}

func TestSharesAreEven(t *testing.T) {
	reach := map[int]float64{3: 1.25, 10: 1.35, 50: 1.45, 1000: 1.6}
	for _, n := range []int{3, 10, 50, 1000} {
		shares := cluster.NewRing(ready(n, 0)).Shares()
		var sum float64
		for _, s := range shares {
			sum += s
		}
		if math.Abs(sum-1) > 1e-6 || len(shares) != n {
			t.Errorf("%d members: %d shares add up to %v", n, len(shares), sum)
		}
		most := slices.Max(slices.Collect(maps.Values(shares))) * float64(n)
		least := slices.Min(slices.Collect(maps.Values(shares))) * float64(n)
		t.Logf("%d members: the largest share is %.3f of the mean, the smallest %.3f", n, most, least)
		if most > reach[n] {
			t.Errorf("%d members: the largest share is %.3f of the mean", n, most)
		}
	}
}

func TestKeysFollowWhatIsPulledTogether(t *testing.T) {
	d, e := cache.Sum([]byte("d")), cache.Sum([]byte("e"))
	app := cache.Ref{Registry: "docker.io", Repo: "library/app", Kind: cache.KindManifest, Tag: "1"}
	other := app
	other.Repo = "library/other"
	blob := func(r cache.Ref, d cache.Digest) cache.Ref { r = r.At(d); r.Kind = cache.KindBlob; return r }
	list := cache.Ref{Registry: "docker.io", Repo: "library/app", Kind: cache.KindTags}
	referrers := cache.Ref{Registry: "docker.io", Repo: "library/app", Kind: cache.KindReferrers, Digest: d}

	key := cluster.KeyOf(app)
	for _, same := range []cache.Ref{app.At(d), app.At(e), list, referrers} {
		if cluster.KeyOf(same) != key {
			t.Errorf("%s has another owner than %s: one pull would be counted twice", same, app)
		}
	}
	if cluster.KeyOf(other) == key {
		t.Error("two repositories have one key")
	}
	if cluster.KeyOf(blob(app, d)) != cluster.KeyOf(blob(other, d)) {
		t.Error("one layer in two repositories has two owners")
	}
	if cluster.KeyOf(blob(app, d)) == cluster.KeyOf(blob(app, e)) {
		t.Error("two layers have one key")
	}
}

func TestNames(t *testing.T) {
	for _, good := range []string{"a", "tidepool-0", "tidepool-0.tidepool.cache.svc", "node_1", "10", strings.Repeat("a", 63), cluster.ProcessName()} {
		if err := cluster.CheckName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "A", "a b", "-a", "a-", ".a", "a.", "a..b", "*", "*.a", "a/b", "10.0.0.1", "::1", "é", "a\n", "a\x00", strings.Repeat("a", 64)} {
		if cluster.CheckName(bad) == nil {
			t.Errorf("%q passes for a name", bad)
		}
	}
}

func BenchmarkOwners(b *testing.B) {
	for _, n := range []int{3, 50, 1000} {
		ring := cluster.NewRing(ready(n, 3))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				ring.Owners(uint64(i)*0x9E3779B97F4A7C15, 2)
			}
		})
	}
}

func BenchmarkNewRing(b *testing.B) {
	for _, n := range []int{3, 50, 1000} {
		members := ready(n, 3)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				cluster.NewRing(members)
			}
		})
	}
}

// TestAmong: without some of its members a ring has the owners that it had if they were not on it.
func TestAmong(t *testing.T) {
	for zones := range 4 {
		members := ready(8, zones)
		r := cluster.NewRing(members)
		random := rand.New(rand.NewPCG(uint64(zones), 7))
		gone := map[string]bool{}
		for len(gone) < len(members) {
			gone[members[random.IntN(len(members))].Name] = true
			left := cluster.NewRing(slices.DeleteFunc(slices.Clone(members), func(m cluster.Member) bool { return gone[m.Name] }))
			for range 1000 {
				key := random.Uint64()
				want := left.Owners(key, 4)
				if got := r.Among(key, 4, func(m cluster.Member) bool { return !gone[m.Name] }); !slices.Equal(got, want) {
					t.Fatalf("without %v: %v, want %v", gone, got, want)
				}
			}
		}
	}
}

// TestAmongGivesUp: of a large cluster of which nobody answers not every member is looked at.
func TestAmongGivesUp(t *testing.T) {
	r, looked := cluster.NewRing(ready(100, 3)), 0
	if got := r.Among(1, 4, func(cluster.Member) bool { looked++; return false }); len(got) > 0 || looked > 10 {
		t.Errorf("%d members were looked at for %v", looked, got)
	}
}
