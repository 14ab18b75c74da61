package main

import (
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/bench/ground"
)

// report is everything that a run found.
type report struct {
	Schema  int      `json:"schema"`
	CPU     string   `json:"cpu"`
	Kernel  string   `json:"kernel"`
	Commit  string   `json:"commit"`
	Short   bool     `json:"short"`
	Figures []figure `json:"figures"`
	LeftOut []string `json:"left_out,omitempty"`
}

// figure is one that was measured, with what it is to reach.
type figure struct {
	What    string   `json:"what"`
	Members int      `json:"members"`
	Value   float64  `json:"value"`
	Unit    string   `json:"unit,omitempty"`
	Digits  int      `json:"-"`
	Most    *float64 `json:"most,omitempty"`
	Least   *float64 `json:"least,omitempty"`
	Note    string   `json:"note,omitempty"`
}

func (r *report) add(f figure) { r.Figures = append(r.Figures, f) }

// skip says why something was not measured.
func (r *report) skip(why string) { r.LeftOut = append(r.LeftOut, why) }

// atMost and atLeast are what figures are to reach.
func atMost(f figure, most float64) figure {
	f.Most = &most
	return f
}

func atLeast(f figure, least float64) figure {
	f.Least = &least
	return f
}

// goal is what f is to reach, and whether it does, as it is printed.
func (f figure) goal() (goal, reached string) {
	shown, _ := strconv.ParseFloat(strconv.FormatFloat(f.Value, 'f', f.Digits, 64), 64)
	ok := true
	switch {
	case f.Most != nil:
		goal, ok = "≤ "+f.number(*f.Most), shown <= *f.Most
	case f.Least != nil:
		goal, ok = "≥ "+f.number(*f.Least), shown >= *f.Least
	default:
		return "", ""
	}
	if ok {
		return goal, "yes"
	}
	return goal, "**no**"
}

func (f figure) number(v float64) string {
	return strings.TrimSpace(strconv.FormatFloat(v, 'f', f.Digits, 64) + " " + f.Unit)
}

// deliver prints r and writes it where it is wanted.
func (r *report) deliver(o options) error { return ground.Deliver(r, r.table, o.output, o.write) }

// table writes r as Markdown.
func (r *report) table(w io.Writer) {
	fmt.Fprint(w, "# A cluster\n\nTidepools in processes of their own on one machine, before a registry that counts.\n\n")
	ground.Row(w, "what", "members", "measured", "to reach", "reached", "")
	ground.Row(w, "---", "---", "---", "---", "---", "---")
	for _, f := range r.Figures {
		goal, reached := f.goal()
		ground.Row(w, f.What, strconv.Itoa(f.Members), f.number(f.Value), goal, reached, f.Note)
	}
	fmt.Fprint(w, "\n## Where and how\n\n")
	fmt.Fprintf(w, "- %s, %d cores, %s, %s, %s, commit %s\n", r.CPU, runtime.NumCPU(), r.Kernel, runtime.Version(), time.Now().UTC().Format(time.DateOnly), r.Commit)
	if r.Short {
		fmt.Fprint(w, "- short: fewer members and pulls\n")
	}
	fmt.Fprint(w, "- Members, registry and clients share the cores.\n")
	for _, why := range r.LeftOut {
		fmt.Fprintf(w, "- Left out: %s\n", why)
	}
}
