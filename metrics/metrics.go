// Package metrics shows the rooms' counters to Prometheus. The rooms count and know nothing of it; it reads them when
// it is asked.
//
// Its invariant: the number of time series is bounded, because a label's value comes from the configuration or from a
// fixed set, never from what a client wrote.
package metrics

import (
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidepool-oci/tidepool/cache"
)

// Sources are where the numbers come from. Each is called once per scrape.
type Sources struct {
	Cache     func() cache.Stats
	Upstreams func() []Upstream
	Dropped   func() uint64   // lines that the log has lost; nil: none
	Saved     *Saved          // nil: nothing is counted
	Warmed    func() Warmed   // nil: nothing is fetched ahead
	Cluster   func() *Cluster // nil, or nil from it: there is none
	Version   string
}

// Cluster is what a member knows of the others, and counts of what it asked them since start.
type Cluster struct {
	Members                        map[string]int // by state
	Ring                           uint64         // the number of its view
	Share                          float64        // of the ring, its own
	Told, Silent, Held, Spilt, Hub uint64

	HotCopies                                      int64  // bytes
	Behind, Repaired, Handed, Pins, Failed, Rounds uint64 // what others were given to keep, by why
	Sent, Received                                 uint64 // bytes
	Busy                                           int64
	Refused, RefusedGossip, Conflicts, Rejoins     uint64
	CopiedBytes                                    uint64

	Streams uint64            // times that a member was reached by TCP which no packet reached, by UDP
	Health  int               // of the gossip: 0 is well
	Events  map[string]uint64 // to and from all other members, by what came of them
}

// Warmed counts images that were fetched ahead, by what came of them.
type Warmed struct {
	Fetched, Unchanged, Failed uint64
	Last                       time.Time // when an image was last dealt with; zero: none was
}

// Upstream is what there is to count about one upstream registry. The numbers of bytes and requests are since start.
type Upstream struct {
	Name            string // as configured, or one name for all that are not
	Requests        uint64
	Failures        uint64
	LimitedPulls    uint64 // refused by a limit on pulls
	LimitedRequests uint64 // refused by a limit on requests of every kind
	Unasked         uint64 // not made because of either
	Bytes           uint64
	Fetches         int
	Offline         bool
	Endpoints       []Endpoint
	RefusedLogins   int
}

// Endpoint is one place where an upstream is asked.
type Endpoint struct {
	URL      string
	Up       bool
	Circuit  string    // closed, open or half-open
	Pace     float64   // requests a second that are let out at most; 0: no such bound
	Quiet    time.Time // until then it is sent nothing; zero: it is
	Accounts []Account
}

// Account is one for which an endpoint counts pulls.
type Account struct {
	Name             string    // "" is nobody in particular
	Limit, Remaining int       // pulls in a window; -1: it did not say
	Blocked          time.Time // until then it grants none; zero: it does
}

// Answer is one request that was answered.
type Answer struct {
	Kind    string // blob, manifest, tags or referrers; "": none of them
	Tier    string // where content came from; "": none was served
	Status  int
	Bytes   int64
	Seconds float64
	First   float64  // seconds until the first byte; 0: there was none
	Held    float64  // of Seconds: waiting for the end of an upstream's limit
	Limited *Refused // who was refused because of one; nil: nobody was
}

// Refused is who was told that an upstream limits us.
type Refused struct {
	Client   string // the kind of client, of a fixed set
	Fallback string // whether it went round us then: yes, maybe or no
}

// Metrics counts answers, and reads everything else where it is counted.
type Metrics struct {
	series   sync.Map // labels → *series: to find them by their labels takes longer than to count
	registry *prometheus.Registry
	answers  *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	took     *prometheus.HistogramVec
	first    *prometheus.HistogramVec
	refused  *prometheus.CounterVec
	held     prometheus.Counter
}

// Answers take from microseconds, of a manifest in memory, to many minutes, of a large layer from a slow hub.
var seconds = []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 10, 60, 600}

// New registers all metrics.
func New(s Sources) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidepool_http_requests_total",
			Help: "Requests of clients that were answered."}, []string{"kind", "tier", "status"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidepool_http_sent_bytes_total",
			Help: "Bytes of bodies that clients were sent."}, []string{"kind", "tier"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tidepool_http_request_duration_seconds",
			Help: "Time from a request to the end of its answer.", Buckets: seconds}, []string{"kind", "tier"}),
		first: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tidepool_http_first_byte_seconds",
			Help: "Time from a request to the first byte of its answer.", Buckets: seconds}, []string{"kind", "tier"}),
	}
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tidepool_http_limited_refusals_total",
		Help: "Requests refused because an upstream limits us, by the kind of client and whether it then went round us."},
		[]string{"client", "fallback"})
	m.held = prometheus.NewCounter(prometheus.CounterOpts{Name: "tidepool_http_held_total",
		Help: "Requests that waited for the end of an upstream's limit."})
	m.registry.MustRegister(m.answers, m.bytes, m.took, m.first, m.refused, m.held, rooms{s}, buildInfo(s.Version),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.Saved != nil {
		m.registry.MustRegister(s.Saved)
	}
	m.begin()
	return m
}

// begin makes the usual series start at 0: a rate over a counter that appears with 1 misses that one.
func (m *Metrics) begin() {
	for _, kind := range []cache.Kind{cache.KindBlob, cache.KindManifest} {
		for _, tier := range tiers {
			m.answers.WithLabelValues(kind.String(), tier.String(), "200")
			m.bytes.WithLabelValues(kind.String(), tier.String())
		}
	}
}

// labels tell answers apart.
type labels struct {
	kind, tier string
	status     int
}

// series are what answers with the same labels are counted in.
type series struct {
	answers, bytes prometheus.Counter
	took, first    prometheus.Observer
}

// Observe counts one answer.
func (m *Metrics) Observe(a Answer) {
	s := m.find(labels{a.Kind, a.Tier, a.Status})
	s.answers.Inc()
	s.bytes.Add(float64(a.Bytes))
	s.took.Observe(a.Seconds)
	if a.First > 0 {
		s.first.Observe(a.First)
	}
	if a.Held > 0 {
		m.held.Inc()
	}
	if a.Limited != nil {
		m.refused.WithLabelValues(a.Limited.Client, a.Limited.Fallback).Inc()
	}
}

func (m *Metrics) find(l labels) *series {
	if s, ok := m.series.Load(l); ok {
		return s.(*series)
	}
	kind, tier := orNone(l.kind), orNone(l.tier)
	s := &series{
		m.answers.WithLabelValues(kind, tier, strconv.Itoa(l.status)), m.bytes.WithLabelValues(kind, tier),
		m.took.WithLabelValues(kind, tier), m.first.WithLabelValues(kind, tier),
	}
	m.series.Store(l, s)
	return s
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Gatherer is what Handler shows.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tidepool_build_info",
		Help:        "1, with the version as a label.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()}})
	g.Set(1)
	return g
}
