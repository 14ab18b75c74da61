package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
)

// modelled is a cluster without processes, files and time: what its members were asked for, and have.
type modelled struct {
	ring   *cluster.Ring
	place  map[string]int
	heat   []*cluster.Heat
	now    time.Time
	copies []map[uint64]bool
	served []int
	owned  []int // what each would have served if nobody else had served blobs that it owns
	away   int   // blobs served by who does not own them
	best   bounded
	random *rand.Rand
}

// bounded is what a cluster would serve whose members all knew at each request what everyone has served so far: who has
// his share leaves a blob to the next on the ring (Mirrokni, Thorup and Zadimoghaddam, 2016). It has no copies by choice, and
// is what the rules of real members, who see their own requests only, can be held against.
type bounded struct {
	served    []int
	sum, away int
}

// ask has the first of a blob's owners serve it that has less than its share, or whoever is asked for a manifest that it has.
func (b *bounded) ask(owners []int) {
	b.sum++
	at := owners[0]
	for _, o := range owners {
		if float64(b.served[o]) < mostLoad*float64(b.sum)/float64(len(b.served)) {
			at = o
			break
		}
	}
	if b.served[at]++; at != owners[0] {
		b.away++
	}
}

func newModel(n int) *modelled {
	m := &modelled{place: map[string]int{}, served: make([]int, n), owned: make([]int, n), random: rand.New(rand.NewPCG(6, 7)), now: time.Unix(0, 0)}
	all := make([]cluster.Member, n)
	for i := range all {
		all[i] = cluster.Member{Name: fmt.Sprint("m", i), Weight: 1, State: cluster.Ready}
		m.place[all[i].Name] = i
		m.copies = append(m.copies, map[uint64]bool{})
	}
	m.ring = cluster.NewRing(all)
	for i := range all {
		v := &cluster.View{Self: all[i].Name, Ring: m.ring}
		h := &cluster.Heat{View: func() *cluster.View { return v }, Now: func() time.Time { return m.now }}
		h.Follow(func() uint64 { return uint64(m.served[i]) })
		m.heat = append(m.heat, h)
	}
	m.best.served = make([]int, n)
	return m
}

// ask asks any member, as behind a balancer: it serves what it owns or has, else has the owner serve it.
func (m *modelled) ask(a ask) {
	m.now = m.now.Add(time.Second / time.Duration(pace*len(m.served)))
	key, at := keyOf(a), m.random.IntN(len(m.served))
	owners := m.owners(key)
	owner := owners[0]
	if a.kind == cache.KindManifest {
		key = xxhash.Sum64String(a.repo + ":" + a.name)
	}
	if a.kind == cache.KindManifest && (at == owner || m.copies[at][key]) {
		owners = []int{at}
	} else if a.kind == cache.KindManifest {
		owners = owners[:1]
	}
	m.best.ask(owners)
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
		m.note(at, owner, key, a.kind)
	}
}

// owners are all members, in the order in which the ring has them for a key.
func (m *modelled) owners(key uint64) []int {
	all := m.ring.Owners(key, len(m.served))
	places := make([]int, len(all))
	for i, o := range all {
		places[i] = m.place[o.Name]
	}
	return places
}

// pace is how many requests a second a member is asked for: with more, what is hot is known after more requests.
const pace = 50

// note counts a question to an owner, as members do: what the owner would have kept is kept by who asked. Who has served a
// manifest keeps that one in memory.
func (m *modelled) note(at, owner int, key uint64, kind cache.Kind) {
	mine, its := m.heat[at], m.heat[owner]
	its.Hear(fmt.Sprint("m", at), mine.Work())
	mine.Hear(fmt.Sprint("m", owner), its.Work())
	if kind == cache.KindManifest || its.Worth(cache.Sum(binary.BigEndian.AppendUint64(nil, key))) {
		m.copies[at][key] = true
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
		Note: fmt.Sprintf("who knew all in advance could do with %.1f %%, who knew at once of all others' requests with %.1f %%",
			100*m.excess(), 100*float64(m.best.away)/float64(len(trace)))}, 100*mostAway))
}

// keyOf is cluster.KeyOf for a name of a trace, which need be no digest.
func keyOf(a ask) uint64 {
	if a.kind == cache.KindBlob {
		return xxhash.Sum64String(a.name)
	}
	return cluster.KeyOf(cache.Ref{Registry: "docker.io", Repo: a.repo, Kind: cache.KindManifest, Tag: a.name})
}
