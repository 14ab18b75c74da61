package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tidepool-oci/tidepool/bench/ground"
)

// report is everything that a run found.
type report struct {
	Schema      int               `json:"schema"`
	Machine     machine           `json:"machine"`
	Reps        int               `json:"reps"`
	MiB         int64             `json:"mib"`
	Contestants []string          `json:"contestants"`
	Results     []*result         `json:"results"`
	LeftOut     map[string]string `json:"left_out"`
	Noisy       int               `json:"noisy"` // measurements that began while others used the machine
}

// result is one metric of one load, for every contestant.
type result struct {
	Load    string               `json:"load"`
	Metric  string               `json:"metric"`
	Unit    string               `json:"unit,omitempty"`
	Samples map[string][]float64 `json:"samples"`
	Failed  map[string]string    `json:"failed,omitempty"`
	metric  metric
}

// deliver prints r and writes it where it is wanted.
func (r report) deliver(o options) error { return ground.Deliver(r, r.table, o.output, o.write) }

// failure says what the contestant could not do.
func (r report) failure(name string) error {
	if why := r.LeftOut[name]; why != "" {
		return fmt.Errorf("%s: %s", name, why)
	}
	for _, s := range r.Results {
		if why := s.Failed[name]; why != "" {
			return fmt.Errorf("%s, %s: %s", name, s.Load, why)
		}
	}
	return nil
}

// table writes r as Markdown: what was measured, how tidepool compares, and where.
func (r report) table(w io.Writer) {
	fmt.Fprintf(w, "# Against others\n\nMedians of %d repetitions (with stopped clients: at most 3), each contestant in turn; ± is half the range.\n\n", r.Reps)
	ground.Row(w, append([]string{"load", ""}, r.Contestants...)...)
	ground.Row(w, slices.Repeat([]string{"---"}, len(r.Contestants)+2)...)
	for _, s := range r.Results {
		cells := []string{s.Load, s.what()}
		for _, c := range r.Contestants {
			cells = append(cells, s.cell(c))
		}
		ground.Row(w, cells...)
	}
	r.ratios(w)
	r.notes(w)
}

// ratios compares the first contestant with each of the others, in times theirs, and with what it is to reach.
func (r report) ratios(w io.Writer) {
	us, others := contestants[0].name, slices.Clone(r.Contestants)
	if others[0] != us {
		return
	}
	fmt.Fprintf(w, "\n## %s in times the others\n\n", us)
	ground.Row(w, append([]string{"load", ""}, append(others[1:], "to reach", "reached")...)...)
	ground.Row(w, slices.Repeat([]string{"---"}, len(others)+3)...)
	for _, s := range r.Results {
		cells := []string{s.Load, s.what()}
		for _, c := range others[1:] {
			cells = append(cells, s.ratioCell(us, c))
		}
		goal, reached := s.verdict(us)
		ground.Row(w, append(cells, goal, reached)...)
	}
}

func (r report) notes(w io.Writer) {
	fmt.Fprintf(w, "\n## Where and how\n\n")
	m := r.Machine
	fmt.Fprintf(w, "- %s, %d cores, %s, %s, %s, commit %s\n", m.CPU, m.Cores, m.Kernel, m.Go, m.Date, m.Commit)
	fmt.Fprintf(w, "- network: %s\n", m.Network)
	fmt.Fprintf(w, "- `%s`\n", m.Command)
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		if v := m.Versions[name]; v != "" {
			fmt.Fprintf(w, "- %s: %s\n", name, v)
		}
	}
	fmt.Fprint(w, "- All on the same cores as origin and client, none pinned; the client discards bodies inside the kernel.\n"+
		"- nginx and Varnish verify nothing; Varnish keeps content in memory only; docker-registry asks upstream at each request by tag.\n"+
		"- Kernel socket memory is that of both ends, pages of the page cache that sendfile lends to sockets included.\n")
	if r.Noisy > 0 {
		fmt.Fprintf(w, "- **%d measurements began while other programs used the machine**\n", r.Noisy)
	}
	for _, name := range slices.Sorted(maps.Keys(r.LeftOut)) {
		fmt.Fprintf(w, "- left out: %s: %s\n", name, r.LeftOut[name])
	}
	for _, s := range r.Results {
		for _, c := range slices.Sorted(maps.Keys(s.Failed)) {
			fmt.Fprintf(w, "- failed: %s, %s: %s\n", c, s.Load, strings.ReplaceAll(s.Failed[c], "\n", "; "))
		}
	}
}

func (s *result) what() string {
	if s.Unit == "" {
		return s.Metric
	}
	return s.Metric + ", " + s.Unit
}

// cell is a contestant's median and spread.
func (s *result) cell(name string) string {
	if s.Failed[name] != "" {
		return "failed"
	}
	v := s.Samples[name]
	if len(v) == 0 {
		return "–"
	}
	return s.number(median(v)) + " ± " + s.number((slices.Max(v)-slices.Min(v))/2)
}

func (s *result) number(v float64) string { return strconv.FormatFloat(v, 'f', s.metric.digits, 64) }

// ratio is a's median in times b's.
func (s *result) ratio(a, b string) (float64, bool) {
	if len(s.Samples[a]) == 0 || len(s.Samples[b]) == 0 || median(s.Samples[b]) == 0 {
		return 0, false
	}
	return median(s.Samples[a]) / median(s.Samples[b]), true
}

// ratioCell adds the range over the repetitions, in each of which the two ran one after the other.
func (s *result) ratioCell(a, b string) string {
	r, ok := s.ratio(a, b)
	if !ok {
		return "–"
	}
	var pairs []float64
	for i := range min(len(s.Samples[a]), len(s.Samples[b])) {
		pairs = append(pairs, s.Samples[a][i]/s.Samples[b][i])
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r, slices.Min(pairs), slices.Max(pairs))
}

// verdict says what us was to reach and whether it did: not where us has no figure, and "–" where a rival has none.
func (s *result) verdict(us string) (goal, reached string) {
	var goals []string
	known, met := true, len(s.Samples[us]) > 0 && s.Failed[us] == ""
	for _, rival := range slices.Sorted(maps.Keys(s.metric.atLeast)) {
		times := s.metric.atLeast[rival]
		goals = append(goals, fmt.Sprintf("≥ %gx %s", times, rival))
		r, ok := s.ratio(us, rival)
		known, met = known && ok, met && (r >= times || !ok)
	}
	if most := s.metric.atMost; most > 0 {
		goals = append(goals, "≤ "+s.number(most))
		met = met && median(s.Samples[us]) <= most
	}
	switch {
	case len(goals) == 0:
		return "", ""
	case !met:
		return strings.Join(goals, ", "), "**no**"
	case !known:
		return strings.Join(goals, ", "), "–"
	default:
		return strings.Join(goals, ", "), "yes"
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
