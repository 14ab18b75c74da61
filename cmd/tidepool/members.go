package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/cache"
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
	Spilt   uint64         `json:"spilt"`        // of these, because the owner had too much to do
	Hub     uint64         `json:"hub"`          // questions that went to registries
	Copies  copiesStatus   `json:"copies"`
	Trouble string         `json:"trouble,omitempty"` // what keeps it from hearing of the others in time
	Members []memberStatus `json:"members"`
	Lost    []lostStatus   `json:"lost,omitempty"`
}

// lostStatus is a member that went without a word, and is looked for.
type lostStatus struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
}

// copiesStatus is what other members were given to keep, and what is kept here of theirs.
type copiesStatus struct {
	Replicas int    `json:"replicas"` // how many members keep a thing
	Given    uint64 `json:"given"`    // things
	Bytes    uint64 `json:"bytes"`    // of these
	Failed   uint64 `json:"failed"`   // not taken, for now
	Hot      int64  `json:"hot_bytes"`
}

type memberStatus struct {
	Name    string  `json:"name"`
	Addr    string  `json:"address"` // where other members fetch from it
	State   string  `json:"state"`   // joining, ready, draining
	Zone    string  `json:"zone,omitempty"`
	Weight  int     `json:"weight"`
	Share   float64 `json:"share"` // of the ring, 0 to 1
	Version string  `json:"version,omitempty"`
	Busy    *int64  `json:"busy,omitempty"`         // answers to other members under way; nothing: it does not say
	Disk    int64   `json:"disk_bytes,omitempty"`   // held
	Budget  int64   `json:"budget_bytes,omitempty"` // of the disk
	Silent  uint64  `json:"silent,omitempty"`       // how often this one left it alone for a while, as it did not answer, since it came
}

// doing is how this member does.
func (c *clustering) doing() cluster.Doing {
	s := c.store.Stats()
	return cluster.Doing{Busy: c.traffic.Busy.Load(), Disk: s.DiskBytes, Budget: s.DiskBudget}
}

// status is what it knows, and what the other members say of themselves.
func (c *clustering) status(ctx context.Context) *clusterStatus {
	if c == nil {
		return nil
	}
	v, n, k := c.members.View(), c.router.Stats(), c.copies.Stats()
	s := &clusterStatus{
		Self: v.Self, Ring: v.Version, Asked: n.Asked, Silent: n.Silent, Held: n.Held, Spilt: n.Spilt, Hub: n.Hub, Members: []memberStatus{},
		Copies: copiesStatus{
			Replicas: max(1, c.router.Replicas), Given: k.Behind + k.Repaired + k.Handed + k.Pins, Bytes: k.Bytes, Failed: k.Failed,
			Hot: c.store.Stats().HotCopyBytes,
		},
	}
	if err := c.members.Trouble(); err != nil {
		s.Trouble = err.Error()
	}
	shares, doing, left := v.Ring.Shares(), c.router.Remotes.Doing(ctx, v), c.router.Remotes.LeftAlone()
	doing[v.Self] = c.doing()
	for _, name := range slices.Sorted(maps.Keys(v.Members)) {
		m := v.Members[name]
		one := memberStatus{
			Name: m.Name, Addr: m.Addr, State: m.State.String(), Zone: m.Zone, Weight: m.Weight, Share: shares[name], Version: m.Version,
			Silent: left[name],
		}
		if d, ok := doing[name]; ok {
			one.Busy, one.Disk, one.Budget = &d.Busy, d.Disk, d.Budget
		}
		s.Members = append(s.Members, one)
	}
	lost := c.members.Lost()
	for _, name := range slices.Sorted(maps.Keys(lost)) {
		s.Lost = append(s.Lost, lostStatus{name, lost[name]})
	}
	return s
}

// counted is what metrics tell of it.
func (c *clustering) counted() *metrics.Cluster {
	if c == nil {
		return nil
	}
	v, n := c.members.View(), c.router.Stats()
	m := &metrics.Cluster{Ring: v.Version, Share: v.Ring.Shares()[v.Self], Told: n.Told, Silent: n.Silent, Held: n.Held, Spilt: n.Spilt, Hub: n.Hub, Members: map[string]int{}}
	k := c.copies.Stats()
	m.Behind, m.Repaired, m.Handed, m.Pins, m.Failed, m.Rounds, m.CopiedBytes = k.Behind, k.Repaired, k.Handed, k.Pins, k.Failed, k.Rounds, k.Bytes
	m.Sent, m.Received, m.Busy = c.traffic.Sent.Load(), c.traffic.Received.Load(), c.traffic.Busy.Load()
	gossip := c.members.Stats()
	m.Refused, m.RefusedGossip, m.Conflicts, m.Rejoins = c.traffic.Refused.Load(), gossip.Refused, gossip.Conflicts, gossip.Rejoins
	m.Streams, m.Health = gossip.Streams, gossip.Health
	m.HotCopies = c.store.Stats().HotCopyBytes
	e := c.members.Stats().Events
	m.Events = map[string]uint64{"sent": e.Sent, "received": e.Received, "dropped": e.Dropped, "refused": e.Refused}
	for s := cluster.Joining; s <= cluster.Draining; s++ {
		m.Members[s.String()] = 0
	}
	for _, one := range v.Members {
		m.Members[one.State.String()]++
	}
	return m
}

// ringDoc is the document GET /api/v1/ring.
type ringDoc struct {
	Schema  int            `json:"schema"`
	Self    string         `json:"self"`
	Ring    uint64         `json:"ring_version"`
	Members []memberStatus `json:"members"`
	Digest  string         `json:"digest,omitempty"`     // of a blob
	Repo    string         `json:"repository,omitempty"` // whose tags, manifests and lists
	Owners  []string       `json:"owners,omitempty"`
}

var errNoCluster = errors.New("there is no cluster: this tidepool owns all that it holds (cluster.bind makes it a member)")

// ring says who owns what: nothing, a blob by its digest, or an image, which find finds.
func (c *clustering) ring(ctx context.Context, what string, find func(string) (cache.Ref, []cache.Ref, error)) (any, error) {
	if c == nil {
		return nil, errNoCluster
	}
	s := c.status(ctx)
	doc := ringDoc{Schema: thisSchema, Self: s.Self, Ring: s.Ring, Members: s.Members}
	if what == "" {
		return doc, nil
	}
	var of cache.Ref
	if isDigest(what) {
		d, err := cache.ParseDigest(what)
		if err != nil {
			return nil, err
		}
		of, doc.Digest = cache.Ref{Kind: cache.KindBlob, Digest: d}, d.String()
	} else {
		_, places, err := find(what)
		if err != nil {
			return nil, err
		}
		of = places[0]
		doc.Repo = of.Registry + "/" + of.Repo
	}
	for _, m := range c.members.View().Ring.Owners(cluster.KeyOf(of), max(2, c.router.Replicas)) {
		doc.Owners = append(doc.Owners, m.Name)
	}
	return doc, nil
}

// isDigest reports whether a text is meant to be one, and no image.
func isDigest(text string) bool {
	return strings.HasPrefix(text, "sha256:") || strings.HasPrefix(text, "sha512:")
}

func ringCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ring [DIGEST|IMAGE]",
		Short: "Show the members of a cluster, their shares, and who owns a blob or an image's manifests",
		Long: "Show the members of a running tidepool's cluster as it sees them, their shares of the ring, and which of them owns a\n" +
			"blob, by its digest: that one has it fetched and keeps it, the next stands in. Tags, lists and manifests are owned by\n" +
			"repository: for them, name an image.",
		Example: "  tidepool ring\n  tidepool ring alpine:3\n  tidepool ring sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1",
		Args:    cobra.MaximumNArgs(1),
	}
	find, inJSON := server(cmd), output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := inJSON()
		if err != nil {
			return err
		}
		path := "/api/v1/ring"
		if len(args) > 0 {
			key := "image"
			if isDigest(args[0]) {
				key = "digest"
				if _, err := cache.ParseDigest(args[0]); err != nil {
					return usageError{fmt.Errorf("%q is %w", args[0], err)}
				}
			}
			path += "?" + key + "=" + url.QueryEscape(args[0])
		}
		t, err := find()
		if err != nil {
			return err
		}
		return show(cmd, t, path, asJSON, showRing)
	}
	return cmd
}

func showRing(out io.Writer, doc ringDoc) error {
	p := page{tabwriter.NewWriter(out, 0, 8, 2, ' ', 0), inColour(out)}
	p.membersOf(doc.Self, doc.Members)
	if doc.Digest != "" {
		p.head("BLOB", "OWNER", "NEXT")
		p.row(plainly, append([]string{doc.Digest}, doc.Owners...)...)
	}
	if doc.Repo != "" {
		p.head("TAGS, MANIFESTS AND LISTS OF", "OWNER", "NEXT")
		p.row(plainly, append([]string{doc.Repo}, doc.Owners...)...)
	}
	return p.Flush()
}

func (p page) cluster(c *clusterStatus, now time.Time) {
	if c == nil {
		return
	}
	fmt.Fprintln(p)
	p.membersOf(c.Self, c.Members)
	p.lost(c.Lost, now)
	p.head("MEMBERS WERE ASKED", "NOT ANSWERED", "HELD ELSEWHERE", "SPILT", "REGISTRIES WERE ASKED")
	p.row(plainly, comma(c.Asked), comma(c.Silent), comma(c.Held), comma(c.Spilt), comma(c.Hub))
	p.head("COPIES OF A THING", "GIVEN TO OTHERS", "BYTES", "NOT TAKEN", "HOT COPIES HERE")
	p.row(plainly, comma(uint64(c.Copies.Replicas)), comma(c.Copies.Given), humanize.IBytes(c.Copies.Bytes), comma(c.Copies.Failed), humanize.IBytes(positive(c.Copies.Hot)))
	if c.Trouble != "" {
		p.row(bad, c.Trouble)
	}
}

// mostLost is how many of the members that are lost are shown, the last ones first: more than fail at once.
const mostLost = 10

func (p page) lost(all []lostStatus, now time.Time) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b lostStatus) int { return b.Since.Compare(a.Since) })
	for _, m := range all[:min(len(all), mostLost)] {
		p.row(bad, m.Name, "", "", "", "", "", "", "", "", "lost "+humanize.RelTime(m.Since, now, "ago", "from now"))
	}
	if more := len(all) - mostLost; more > 0 {
		p.row(bad, "and "+comma(uint64(more))+" more", "", "", "", "", "", "", "", "", "lost within a day")
	}
}

func (p page) membersOf(self string, members []memberStatus) {
	p.row(plainly, "MEMBER", "ADDRESS", "SHARE", "WEIGHT", "BUSY", "HELD", "OF", "ZONE", "VERSION", "STATE")
	for _, m := range members {
		name, mood := m.Name, good
		if m.Name == self {
			name += " (this one)"
		}
		if m.State != cluster.Ready.String() {
			mood = bad
		}
		busy, held, budget := "not said", "", ""
		if m.Busy != nil {
			busy, held, budget = comma(positive(*m.Busy)), humanize.IBytes(positive(m.Disk)), humanize.IBytes(positive(m.Budget))
		}
		p.row(mood, name, m.Addr, percent(m.Share, 1), strconv.Itoa(m.Weight), busy, held, budget, m.Zone, m.Version, m.State)
	}
}
