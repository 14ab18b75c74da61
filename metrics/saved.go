package metrics

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sum is what was spared an upstream: pulls, which are manifests that were served without asking it for them, and bytes
// that were served without fetching them.
type Sum struct {
	Pulls uint64 `json:"pulls"`
	Bytes uint64 `json:"bytes"`
}

func (s Sum) plus(o Sum) Sum { return Sum{s.Pulls + o.Pulls, s.Bytes + o.Bytes} }

const (
	// savedDays is for how many days sums are kept for each day, that of today included.
	savedDays = 30
	// mostSaved bounds each table: repositories and clients are as many as strangers like. Others are one row.
	mostSaved = 1000
	otherRow  = "other"
)

// Saved counts what was saved, by upstream, by repository and by the network that clients are in: since it began to
// count, and for each of the last days.
type Saved struct {
	now func() time.Time

	mu      sync.Mutex // guards all below
	books   savings
	changed bool
	day     int64  // since 1970
	today   string // as rows spell it
}

// savings are Saved as they are written down.
type savings struct {
	Schema       int                 `json:"schema"`
	Since        time.Time           `json:"since"`
	Upstreams    map[string]*savedOf `json:"upstreams"`
	Repositories map[string]*savedOf `json:"repositories"`
	Clients      map[string]*savedOf `json:"clients"`
}

// savedOf is one row: its sum in all, and by day (2006-01-02, UTC).
type savedOf struct {
	Sum
	Days map[string]Sum `json:"days,omitempty"`
}

// NewSaved goes on from what Written gave an earlier process. What cannot be read is an error, and counting begins anew.
func NewSaved(written []byte, now func() time.Time) (*Saved, error) {
	s := &Saved{now: now}
	var err error
	if len(written) > 0 {
		if err = json.Unmarshal(written, &s.books); err == nil && s.books.Schema != 1 {
			err = fmt.Errorf("its schema is %d, not 1", s.books.Schema)
		}
	}
	if err != nil || len(written) == 0 {
		s.books = savings{Schema: 1, Since: now().UTC()}
	}
	for _, table := range s.books.tables() {
		if *table == nil {
			*table = map[string]*savedOf{}
		}
		maps.DeleteFunc(*table, func(_ string, row *savedOf) bool { return row == nil })
	}
	return s, err
}

func (b *savings) tables() []*map[string]*savedOf {
	return []*map[string]*savedOf{&b.Upstreams, &b.Repositories, &b.Clients}
}

// Add counts one answer.
func (s *Saved) Add(upstream, repo, client string, sum Sum) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); now.Unix()/86400 != s.day || s.today == "" {
		s.day, s.today = now.Unix()/86400, now.UTC().Format(time.DateOnly)
	}
	for i, key := range []string{upstream, upstream + "/" + repo, client} {
		row(*s.books.tables()[i], key).add(s.today, sum)
	}
	s.changed = true
}

// row is the one of that name, or the one for all others where there are too many.
func row(table map[string]*savedOf, key string) *savedOf {
	if table[key] == nil && len(table) >= mostSaved {
		key = otherRow
	}
	r := table[key]
	if r == nil {
		r = &savedOf{}
		table[key] = r
	}
	return r
}

func (r *savedOf) add(today string, sum Sum) {
	r.Sum = r.plus(sum)
	if r.Days == nil {
		r.Days = map[string]Sum{}
	}
	r.Days[today] = r.Days[today].plus(sum)
	if len(r.Days) > savedDays { // a date sorts as it is written
		delete(r.Days, slices.Min(slices.Collect(maps.Keys(r.Days))))
	}
}

// last is the sum of the last days.
func (r *savedOf) last(now time.Time) (sum Sum) {
	first := now.UTC().AddDate(0, 0, 1-savedDays).Format(time.DateOnly)
	for day, s := range r.Days {
		if day >= first {
			sum = sum.plus(s)
		}
	}
	return sum
}

// Written is what NewSaved takes; nil where nothing has changed since the last time.
func (s *Saved) Written() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.changed {
		return nil
	}
	s.changed = false
	b, err := json.Marshal(s.books)
	if err != nil {
		return nil // numbers and strings: it does not happen
	}
	return b
}

// SavedRow is one line of a report.
type SavedRow struct {
	Name  string `json:"name"`
	Total Sum    `json:"total"`
	Last  Sum    `json:"last_30_days"`
}

// SavedReport is what was saved, the largest sums first.
type SavedReport struct {
	Schema       int        `json:"schema"`
	Since        time.Time  `json:"since"`
	Upstreams    []SavedRow `json:"upstreams"`
	Repositories []SavedRow `json:"repositories"`
	Clients      []SavedRow `json:"clients"`
}

// Report reads the sums.
func (s *Saved) Report() SavedReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := SavedReport{Schema: 1, Since: s.books.Since}
	for i, to := range []*[]SavedRow{&r.Upstreams, &r.Repositories, &r.Clients} {
		*to = []SavedRow{} // an empty list, not null
		for name, of := range *s.books.tables()[i] {
			*to = append(*to, SavedRow{Name: name, Total: of.Sum, Last: of.last(s.now())})
		}
		slices.SortFunc(*to, largestFirst)
	}
	return r
}

func largestFirst(a, b SavedRow) int {
	return cmp.Or(cmp.Compare(b.Total.Pulls, a.Total.Pulls), cmp.Compare(b.Total.Bytes, a.Total.Bytes), cmp.Compare(a.Name, b.Name))
}

var (
	savedPulls = describe("saved_pulls_total", "Manifests that were served without a request to the upstream that it counts as a pull, kept over restarts.", "upstream")
	savedBytes = describe("saved_bytes_total", "Bytes that were served without being fetched from the upstream, kept over restarts.", "upstream")
)

// Describe makes a Saved a prometheus.Collector.
func (s *Saved) Describe(to chan<- *prometheus.Desc) { to <- savedPulls; to <- savedBytes }

// Collect shows the sums by upstream.
func (s *Saved) Collect(to chan<- prometheus.Metric) {
	for _, r := range s.Report().Upstreams {
		to <- prometheus.MustNewConstMetric(savedPulls, prometheus.CounterValue, float64(r.Total.Pulls), r.Name)
		to <- prometheus.MustNewConstMetric(savedBytes, prometheus.CounterValue, float64(r.Total.Bytes), r.Name)
	}
}
