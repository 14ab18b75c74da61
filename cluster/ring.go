package cluster

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// virtual is how many points a member of weight 1 has on the ring. The shares of equal members then differ by a standard
// deviation of 8.4 percent (the root of 1/128, about); half of that would take four times the memory, and at 1,000
// members a change of the ring would take half a second instead of a tenth.
const virtual = 128

// Ring says who owns what. It never changes, is safe for any number of goroutines, and is the same at all who know the
// same members, in whatever order they came to know them. A member that joins takes keys over, and one that leaves
// hands keys on, but no key moves between two that both stay. The zero Ring has no members.
type Ring struct {
	members []Member       // the ready ones, by name
	points  []point        // by hash
	zones   map[string]int // how many members each has
}

// point is where an arc of the ring ends: keys up to hash, from the point before on, are its member's.
type point struct {
	hash   uint64
	member int32
}

// NewRing is the ring of those among members that are Ready. Of two with one name the first in the order of their
// fields counts.
func NewRing(members []Member) *Ring {
	r := &Ring{}
	for _, m := range members {
		if m.State == Ready {
			r.members = append(r.members, m)
		}
	}
	slices.SortFunc(r.members, compareMembers)
	r.members = slices.CompactFunc(r.members, func(a, b Member) bool { return a.Name == b.Name })
	r.zones = map[string]int{}
	for i, m := range r.members {
		r.points = appendPoints(r.points, int32(i), m)
		r.zones[m.Zone]++
	}
	slices.SortFunc(r.points, func(a, b point) int { // members are in order of their names: so are equal hashes
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.member, b.member))
	})
	return r
}

func compareMembers(a, b Member) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.Zone, b.Zone),
		cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.Version, b.Version))
}

// appendPoints adds the points of m, which depend on its name alone: a weight that grows adds points and moves none.
func appendPoints(points []point, i int32, m Member) []point {
	name := append([]byte(m.Name), '#')
	for n := range virtual * weight(m) {
		points = append(points, point{xxhash.Sum64(strconv.AppendInt(name, int64(n), 10)), i})
	}
	return points
}

func weight(m Member) int { return min(max(m.Weight, 1), MaxWeight) }

// Owners are the at most n members to ask for key, the owner first. The second is in another zone than the owner where
// there is one; all others follow in the order of the ring. So the first three always contain the member that owned
// the key before the owner joined.
func (r *Ring) Owners(key uint64, n int) []Member {
	return r.Among(key, n, func(Member) bool { return true })
}

// reach is how many members are passed over in search of the owners of a key, at most. Where half of all are cut off,
// one key of 512 has none that answers among so many and one more; then whoever is asked for it is on its own.
const reach = 8

// Among are the Owners of key on a ring of which only those are members who may be: all who agree on that come to the
// same ones, as they do when gossip has taken the others off it. Beyond reach members who may not nobody is looked for.
func (r *Ring) Among(key uint64, n int, may func(Member) bool) []Member {
	n = min(n, len(r.members))
	if n <= 0 {
		return nil
	}
	owners := make([]Member, 0, n)
	for _, i := range r.walk(key, n, may) {
		owners = append(owners, r.members[i])
	}
	return owners
}

// walk goes from key on along the ring, to the n-th member that may be one and to the first of another zone than the
// owner's.
func (r *Ring) walk(key uint64, n int, may func(Member) bool) []int32 {
	start, _ := slices.BinarySearchFunc(r.points, key, func(p point, k uint64) int { return cmp.Compare(p.hash, k) })
	order, wanted := make([]int32, 0, n+1), n > 1 && len(r.zones) > 1
	var passed []int32
	for i := range r.points {
		m := r.points[(start+i)%len(r.points)].member
		elsewhere := wanted && len(order) > 0 && r.members[m].Zone != r.members[order[0]].Zone
		switch {
		case slices.Contains(order, m) || slices.Contains(passed, m) || len(order) >= n && !elsewhere:
			continue
		case !may(r.members[m]):
			passed = append(passed, m)
		case elsewhere:
			order, wanted = slices.Insert(order, 1, m), false
		default:
			order = append(order, m)
		}
		wanted = wanted && r.elsewhere(order, passed)
		if len(order) >= n && !wanted || len(passed) > reach || len(order)+len(passed) == len(r.members) {
			break
		}
	}
	return order[:min(n, len(order))]
}

// elsewhere reports whether there may be a member in another zone than that of the first of order: not all are passed.
func (r *Ring) elsewhere(order, passed []int32) bool {
	if len(order) == 0 {
		return true
	}
	zone := r.members[order[0]].Zone
	left := len(r.members) - r.zones[zone]
	for _, m := range passed {
		if r.members[m].Zone != zone {
			left--
		}
	}
	return left > 0
}

// Members are those on the ring, by name.
func (r *Ring) Members() []Member { return slices.Clone(r.members) }

// Shares says what part of all keys each member owns, by name. The parts add up to 1.
func (r *Ring) Shares() map[string]float64 {
	shares := make(map[string]float64, len(r.members))
	for i, p := range r.points {
		before := r.points[(i+len(r.points)-1)%len(r.points)].hash
		arc := p.hash - before // wraps around as the ring does
		shares[r.members[p.member].Name] += float64(arc) / (1 << 64)
	}
	return shares
}
