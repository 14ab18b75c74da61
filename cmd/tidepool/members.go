package main

import (
	"maps"
	"slices"

	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/metrics"
)

// clusterStatus is what this member knows of the cluster; nil where there is none.
type clusterStatus struct {
	Self    string         `json:"self"`
	Ring    uint64         `json:"ring_version"` // counts the views that this member had
	Asked   uint64         `json:"asked"`        // questions to other members since the start
	Silent  uint64         `json:"silent"`       // of these, not answered
	Held    uint64         `json:"held"`         // things that a member had which does not own them, or not yet
	Hub     uint64         `json:"hub"`          // questions that went to registries
	Members []memberStatus `json:"members"`
}

type memberStatus struct {
	Name    string  `json:"name"`
	Addr    string  `json:"address"` // where other members fetch from it
	State   string  `json:"state"`   // joining, ready, draining
	Zone    string  `json:"zone,omitempty"`
	Weight  int     `json:"weight"`
	Share   float64 `json:"share"` // of the ring, 0 to 1
	Version string  `json:"version,omitempty"`
}

// status is what it knows.
func (c *clustering) status() *clusterStatus {
	if c == nil {
		return nil
	}
	v, n := c.members.View(), c.router.Stats()
	s := &clusterStatus{Self: v.Self, Ring: v.Version, Asked: n.Asked, Silent: n.Silent, Held: n.Held, Hub: n.Hub, Members: []memberStatus{}}
	shares := v.Ring.Shares()
	for _, name := range slices.Sorted(maps.Keys(v.Members)) {
		m := v.Members[name]
		s.Members = append(s.Members, memberStatus{
			Name: m.Name, Addr: m.Addr, State: m.State.String(), Zone: m.Zone, Weight: m.Weight, Share: shares[name], Version: m.Version,
		})
	}
	return s
}

// counted is what metrics tell of it.
func (c *clustering) counted() *metrics.Cluster {
	if c == nil {
		return nil
	}
	v, n := c.members.View(), c.router.Stats()
	m := &metrics.Cluster{Ring: v.Version, Share: v.Ring.Shares()[v.Self], Told: n.Told, Silent: n.Silent, Held: n.Held, Hub: n.Hub, Members: map[string]int{}}
	for s := cluster.Joining; s <= cluster.Draining; s++ {
		m.Members[s.String()] = 0
	}
	for _, one := range v.Members {
		m.Members[one.State.String()]++
	}
	return m
}

func (p page) cluster(c *clusterStatus) {
	if c == nil {
		return
	}
	p.head("MEMBER", "ADDRESS", "SHARE", "ZONE", "VERSION", "STATE")
	for _, m := range c.Members {
		name, mood := m.Name, good
		if m.Name == c.Self {
			name += " (this one)"
		}
		if m.State != cluster.Ready.String() {
			mood = bad
		}
		p.row(mood, name, m.Addr, percent(m.Share, 1), m.Zone, m.Version, m.State)
	}
	p.head("MEMBERS WERE ASKED", "NOT ANSWERED", "HELD ELSEWHERE", "REGISTRIES WERE ASKED")
	p.row(plainly, comma(c.Asked), comma(c.Silent), comma(c.Held), comma(c.Hub))
}
