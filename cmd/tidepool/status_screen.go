package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/tidepool-oci/tidepool/metrics"
)

// mood is how a line is meant, and its colour where there may be one.
type mood string

const (
	plainly mood = ""
	good    mood = "\x1b[32m" // green
	fair    mood = "\x1b[33m" // yellow: clients are served, but not as ever
	bad     mood = "\x1b[31m" // red
)

// page is what is being written: tables, with an empty line between them.
type page struct {
	*tabwriter.Writer
	colour bool
}

// row writes cells, the last of them coloured: the table counts the bytes of colours as width, and after the last cell
// nothing has to be in line.
func (p page) row(m mood, cells ...string) {
	line := make([]string, len(cells))
	for i, c := range cells {
		line[i] = printable(c)
	}
	if last := len(line) - 1; p.colour && m != plainly {
		line[last] = string(m) + line[last] + "\x1b[0m"
	}
	fmt.Fprintln(p, strings.Join(line, "\t")) // Flush says what went wrong
}

// head begins another table.
func (p page) head(cells ...string) {
	fmt.Fprintln(p)
	p.row(plainly, cells...)
}

// screen writes a status as people read it.
func screen(out io.Writer, s status, colour bool) error {
	p := page{tabwriter.NewWriter(out, 0, 8, 2, ' ', 0), colour}
	p.row(plainly, fmt.Sprintf("tidepool %s, up %s, %s under way", s.Version, lasting(s.Now.Sub(s.Started)), count(s.Downloads, "download")))
	p.hits(s.Hits, s.Cluster != nil)
	p.saved(s.Saved)
	p.tiers(s)
	p.upstreams(s)
	p.limits(s)
	p.cluster(s.Cluster, s.Now)
	return p.Flush()
}

const anotherMember = "another member"

func (p page) hits(h hits, members bool) {
	all := h.Memory + h.Disk + h.Flight + h.Peer + h.Upstream
	p.head("ANSWERS FROM", "COUNT", "SHARE")
	for _, of := range []struct {
		tier string
		n    uint64
	}{{"memory", h.Memory}, {"disk", h.Disk}, {"a download under way", h.Flight}, {anotherMember, h.Peer}, {"upstream", h.Upstream}} {
		if of.tier != anotherMember || members {
			p.row(plainly, of.tier, comma(of.n), percent(float64(of.n), float64(all)))
		}
	}
}

func (p page) saved(s savedStatus) {
	p.head("SAVED", "PULLS", "BYTES")
	for _, of := range []struct {
		when string
		sum  metrics.Sum
	}{{"since the start", s.Start}, {"in 30 days", s.Last}, {"since " + s.Since.UTC().Format(time.DateOnly), s.Ever}} {
		p.row(plainly, of.when, comma(of.sum.Pulls), humanize.IBytes(of.sum.Bytes))
	}
}

func (p page) tiers(s status) {
	p.head("HELD", "USED", "OF", "SHARE", "STATE")
	tier := func(name string, t tierStatus) {
		m, state := good, "ok"
		switch {
		case t.Error != "":
			m, state = bad, t.Error
		case t.Scanned != nil && !*t.Scanned:
			state = "ok, and still being read over after the start"
		case t.Entries != nil:
			state = "ok, " + humanize.Comma(int64(*t.Entries)) + " things"
		}
		if t.Pinned != nil && *t.Pinned > 0 {
			state += ", " + size(*t.Pinned) + " pinned"
		}
		p.row(m, name, size(t.Used), size(t.Budget), percent(float64(t.Used), float64(t.Budget)), state)
	}
	tier("on disk", s.Disk)
	tier("in memory", s.Memory)
}

func (p page) upstreams(s status) {
	p.head("UPSTREAM", "ENDPOINT", "REQUESTS", "FAILED", "RECEIVED", "DOWNLOADS", "CIRCUIT", "STATE")
	for _, u := range s.Upstreams {
		counts := []string{u.Name, "", comma(u.Requests), comma(u.Failures), humanize.IBytes(u.Received), fmt.Sprint(u.Downloads)}
		for _, e := range u.Endpoints {
			m, state := stateOf(u, e, s.Now)
			counts[1] = e.URL
			p.row(m, append(counts, e.Circuit, state)...)
			counts = make([]string, len(counts)) // they are the upstream's, not each endpoint's
		}
	}
}

// stateOf is what there is to say of an endpoint, the gravest only.
func stateOf(u upstreamStatus, e endpointStatus, now time.Time) (mood, string) {
	switch {
	case u.Offline:
		return fair, "offline: what is held is served, nothing is asked for"
	case !e.Up && !e.Until.IsZero():
		return bad, "down, asked again " + when(e.Until, now) + ": " + e.Error
	case !e.Up:
		return bad, "down: " + e.Error
	case len(u.RefusedLogins) > 0:
		return fair, "refuses the login " + strings.Join(u.RefusedLogins, ", ")
	}
	return good, "ok"
}

// limits are those that upstreams are known to have: what is left, whose they are, and until when nothing is granted. Where
// none is known there is no table.
func (p page) limits(s status) {
	begin := sync.OnceFunc(func() { p.head("LIMIT ON", "OF", "WHOSE", "LEFT", "STATE") })
	for _, u := range s.Upstreams {
		for _, e := range u.Endpoints {
			of := u.Name
			if len(u.Endpoints) > 1 {
				of += " at " + e.URL
			}
			for _, a := range e.Accounts {
				begin()
				p.pulls(of, a, s.Now)
			}
			if e.Pace != nil || !e.Quiet.IsZero() {
				begin()
				p.requests(of, e, s.Now)
			}
		}
	}
}

func (p page) pulls(of string, a accountStatus, now time.Time) {
	m, state, left := good, "open", "not said"
	if a.Limit != nil && a.Remaining != nil {
		left = fmt.Sprintf("%s of %s", humanize.Comma(int64(*a.Remaining)), humanize.Comma(int64(*a.Limit)))
		if *a.Remaining == 0 {
			m, state = bad, "used up"
		}
	}
	if !a.Blocked.IsZero() {
		m, state = bad, "reopens "+when(a.Blocked, now)
	}
	who := a.Account
	if a.Source != "" && a.Source != who {
		who = strings.TrimPrefix(who+", "+a.Source, ", ")
	}
	p.row(m, "pulls", of, cmp.Or(who, "this address"), left, state)
}

func (p page) requests(of string, e endpointStatus, now time.Time) {
	m, state, left := good, "open", "not said"
	if e.Pace != nil {
		left = fmt.Sprintf("at most %s in %s", humanize.Comma(int64(e.Pace.Requests)), lasting(time.Duration(e.Pace.Window*float64(time.Second))))
	}
	if !e.Quiet.IsZero() {
		m, state = bad, "reopens "+when(e.Quiet, now)
	}
	p.row(m, "requests", of, "this address", left, state)
}

// when is a time, and how far off it is.
func when(t, now time.Time) string {
	return fmt.Sprintf("at %s (in %s)", clock(t), lasting(t.Sub(now)))
}

// lasting is a duration as precise as anybody wants to know it: two units of it at most.
func lasting(d time.Duration) string {
	const day = 24 * time.Hour
	d = max(0, d)
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

func percent(n, of float64) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*n/of)
}

func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

func comma(n uint64) string { return humanize.Comma(int64(min(n, 1<<62))) }
func size(n int64) string   { return humanize.IBytes(uint64(max(0, n))) }
