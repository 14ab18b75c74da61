package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/cespare/xxhash/v2"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
)

// modelled is a cluster without processes, files and time: what its members were asked for, and have.
type modelled struct {
	ring   *cluster.Ring
	place  map[string]int
	asked  []map[uint64]int // by member and key, of late
	sum    []int            // of these, of blobs
	copies []map[uint64]bool
	served []int
	owned  []int // what each would have served if nobody else had served blobs that it owns
	away   int   // blobs served by who does not own them
	random *rand.Rand
}

func newModel(n int) *modelled {
	m := &modelled{place: map[string]int{}, sum: make([]int, n), served: make([]int, n), owned: make([]int, n), random: rand.New(rand.NewPCG(6, 7))}
	all := make([]cluster.Member, n)
	for i := range all {
		all[i] = cluster.Member{Name: fmt.Sprint("m", i), Weight: 1, State: cluster.Ready}
		m.place[all[i].Name] = i
		m.asked, m.copies = append(m.asked, map[uint64]int{}), append(m.copies, map[uint64]bool{})
	}
	m.ring = cluster.NewRing(all)
	return m
}

// ask asks any member, as behind a balancer: it serves what it owns or has, else has the owner serve it.
func (m *modelled) ask(a ask) {
	key, at := keyOf(a), m.random.IntN(len(m.served))
	owner := m.place[m.ring.Owners(key, 1)[0].Name]
	if a.kind == cache.KindManifest {
		key = xxhash.Sum64String(a.repo + ":" + a.name)
	}
	switch {
	case at == owner, m.copies[at][key]:
		m.served[at]++
		if at != owner && a.kind == cache.KindBlob {
			m.away++
			m.owned[owner]++
			return
		}
		m.owned[at]++
	default:
		m.served[owner]++
		m.owned[owner]++
		m.note(at, key, a.kind)
	}
}

// mostAsked is after how many questions a member halves its counts.
const mostAsked = 1 << 11

// note counts a question to an owner, as a router does: what is hot is kept by who asked. Who has served a manifest keeps
// that one in memory.
func (m *modelled) note(at int, key uint64, kind cache.Kind) {
	if kind == cache.KindManifest {
		m.copies[at][key] = true
		return
	}
	m.asked[at][key]++
	if m.sum[at]++; m.asked[at][key] >= cluster.HotAfter(len(m.served), m.sum[at]) {
		m.copies[at][key] = true
	}
	if m.sum[at] >= mostAsked {
		m.sum[at] /= 2
		for k, n := range m.asked[at] {
			if m.asked[at][k] = n / 2; n < 2 {
				delete(m.asked[at], k)
			}
		}
	}
}

// excess is how much of all requests must be served by who does not own what is asked for, so that nobody serves more than
// its bound.
func (m *modelled) excess() float64 {
	over, sum := 0.0, 0
	for _, n := range m.owned {
		sum += n
	}
	for _, n := range m.owned {
		over += max(0, float64(n)-mostLoad*float64(sum)/float64(len(m.owned)))
	}
	return over / float64(sum)
}

// model asks fifty members for a trace by the router's rules for owners and hot copies: a machine has not room for fifty.
func model(r *report, name string, trace []ask) {
	const n = 50
	m := newModel(n)
	for _, a := range trace {
		m.ask(a)
	}
	by := map[string]int{}
	for name, i := range m.place {
		by[name] = m.served[i]
	}
	spread(r, "requests served by the busiest member / mean, "+name+", computed", n, by, fmt.Sprintf("%d requests", len(trace)))
	r.add(atMost(figure{What: "blobs served by who does not own them, of all requests, " + name + ", computed", Members: n,
		Value: 100 * float64(m.away) / float64(len(trace)), Unit: "%", Digits: 1,
		Note: fmt.Sprintf("%.1f %% would do for %.2f", 100*m.excess(), mostLoad)}, 100*mostAway))
}

// keyOf is cluster.KeyOf for a name of a trace, which need be no digest.
func keyOf(a ask) uint64 {
	if a.kind == cache.KindBlob {
		return xxhash.Sum64String(a.name)
	}
	return cluster.KeyOf(cache.Ref{Registry: "docker.io", Repo: a.repo, Kind: cache.KindManifest, Tag: a.name})
}
