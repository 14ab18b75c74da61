package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidepool-oci/tidepool/cache"
)

// rooms reads the counters of the cache and of the upstreams anew for each scrape.
type rooms struct{ Sources }

var tiers = []cache.Tier{cache.FromMemory, cache.FromDisk, cache.FromFlight, cache.FromPeer, cache.FromUpstream}

var circuits = []string{"closed", "half-open", "open"}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tidepool_"+name, help, labels, nil)
}

var (
	opened      = describe("cache_opened_total", "Answers by the tier that their content came from.", "tier")
	sent        = describe("cache_sent_bytes_total", "Bytes handed to readers.")
	fetched     = describe("cache_fetched_bytes_total", "Bytes taken from upstreams.")
	landed      = describe("cache_landed_total", "Things whose digest was proven and that were kept.")
	evicted     = describe("cache_evicted_total", "Things removed to make room.")
	corrupt     = describe("cache_corrupt_total", "Things whose bytes were wrong, as they came or on disk.")
	revalidated = describe("cache_revalidated_total", "Names asked for again because they had aged.")
	stale       = describe("cache_stale_total", "Answers with a name that had aged and could not be asked for.")
	flights     = describe("cache_flights", "Downloads under way.")
	diskBytes   = describe("disk_bytes", "Bytes on the disk tier's books.")
	diskBudget  = describe("disk_budget_bytes", "Bytes that the disk tier may take.")
	diskEntries = describe("disk_entries", "Things in the disk tier.")
	diskScanned = describe("disk_scanned", "1 once the disk tier has been read over after the start, 0 before.")
	pinned      = describe("disk_pinned_bytes", "Bytes in the disk tier that are never evicted.")
	memoryBytes = describe("memory_bytes", "Bytes in the memory tier.")

	warmed   = describe("warm_images_total", "Images that were to be fetched ahead, by what came of it.", "outcome")
	lastWarm = describe("warm_last_timestamp_seconds", "Unix time at which an image was last dealt with that was to be fetched ahead; 0: none was.")

	members     = describe("cluster_members", "Members of the cluster that are alive, this one included, by state.", "state")
	ringVersion = describe("cluster_ring_version", "The number of this member's view of the ring.")
	ringShare   = describe("cluster_ring_share_ratio", "This member's share of the ring.")
	questions   = describe("cluster_questions_total", "Questions to other members, by whether they were answered.", "outcome")
	elsewhere   = describe("cluster_held_elsewhere_total", "Things that a member had which does not own them, or not yet.")
	peerBytes   = describe("cluster_peer_bytes_total", "Bytes of content that went to other members (sent) and came from them (received).", "direction")
	peerBusy    = describe("cluster_peer_requests_in_flight", "Answers to other members under way.")
	turnedAway  = describe("cluster_refused_total", "What was turned away: questions that no member asks (question), and packets, connections and messages of strangers (gossip).", "what")
	conflicts   = describe("cluster_name_conflicts_total", "Messages about a name that two members claim.")
	rejoins     = describe("cluster_rejoins_total", "Members met again that gossip alone would not have met.")
	spilt       = describe("cluster_spilt_total", "Questions that the next member answered, because the owner had too much to do.")
	copies      = describe("cluster_copies_total", "Things that other members were given to keep: just after they had landed (behind), after the ring had changed (repair), before this member left (leave), and pins.", "why")
	copyFails   = describe("cluster_copies_failed_total", "Things that another member did not take, for now.")
	copyBytes   = describe("cluster_copied_bytes_total", "Bytes of things that other members were given to keep.")
	rounds      = describe("cluster_repair_rounds_total", "How often all that is held was looked through, for what belongs elsewhere.")
	hotCopies   = describe("cluster_hot_copies_bytes", "Bytes kept here of what other members own, because these have more to do than others.")
	streams     = describe("cluster_gossip_tcp_only_total", "Times that another member was reached by TCP which UDP did not reach.")
	unwell      = describe("cluster_gossip_health", "How this member follows the gossip: 0 is well; more: it is too slow, or cut off.")
	clusterHub  = describe("cluster_upstream_questions_total", "Questions that went to registries, of a member of a cluster.")

	events = describe("cluster_events_total", "What members tell all others (purges, unpinned images, tags that moved, limits): sent by this one, received, and of those from others dropped as too many or refused.", "outcome")

	dropped = describe("log_dropped_total", "Log lines dropped because whoever reads the log did not take them.")

	requests  = describe("upstream_requests_total", "Requests to an upstream, its token servers and redirects.", "upstream")
	failures  = describe("upstream_failures_total", "Requests to an upstream that failed by its fault.", "upstream")
	limited   = describe("upstream_limited_total", "Requests that an upstream refused because of a limit: on pulls, or on requests of every kind.", "upstream", "kind")
	unasked   = describe("upstream_unasked_total", "Requests not made because of a limit that was known.", "upstream")
	received  = describe("upstream_received_bytes_total", "Bytes of bodies received from an upstream.", "upstream")
	fetches   = describe("upstream_fetches", "Downloads of blobs from an upstream under way.", "upstream")
	limit     = describe("upstream_pull_limit", "Pulls that an upstream grants in a window, where it says so.", "upstream", "endpoint", "account")
	remaining = describe("upstream_pulls_remaining", "Pulls left in the window, where the upstream says so.", "upstream", "endpoint", "account")
	blocked   = describe("upstream_pulls_blocked_until_timestamp_seconds", "Unix time until which no pull is granted; 0 where some are.", "upstream", "endpoint", "account")
	pace      = describe("upstream_pace", "Requests a second that are let out at most, configured or learned, where there is such a bound.", "upstream", "endpoint")
	quiet     = describe("upstream_quiet_until_timestamp_seconds", "Unix time until which nothing is sent, after a refusal of requests of every kind; 0 where something is.", "upstream", "endpoint")
	refused   = describe("upstream_refused_logins", "Configured logins that an upstream refuses at present.", "upstream")
	offline   = describe("upstream_offline", "1 where offline mode keeps an upstream from being asked.", "upstream")
	circuit   = describe("upstream_endpoint_circuit", "1 for the state that an endpoint's circuit is in: open where all requests are refused, half-open where one is let through, closed.", "upstream", "endpoint", "state")
	up        = describe("upstream_endpoint_up", "1 where an endpoint is asked, 0 where it is held to be down.", "upstream", "endpoint")
)

// Describe sends nothing: the series depend on what is configured, and are checked as they are collected.
func (rooms) Describe(chan<- *prometheus.Desc) {}

// Collect reads the rooms.
func (r rooms) Collect(out chan<- prometheus.Metric) {
	to := sink(out)
	to.store(r.Cache())
	to.counter(dropped, r.lost())
	if r.Cluster != nil {
		to.cluster(r.Cluster())
	}
	if r.Warmed != nil {
		to.warm(r.Warmed())
	}
	for _, u := range r.Upstreams() {
		to.hub(u)
	}
}

func (r rooms) lost() uint64 {
	if r.Dropped == nil {
		return 0
	}
	return r.Dropped()
}

// sink is where samples go.
type sink chan<- prometheus.Metric

func (to sink) counter(d *prometheus.Desc, v uint64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (to sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (to sink) store(s cache.Stats) {
	for _, tier := range tiers {
		to.counter(opened, s.Opened[tier], tier.String())
	}
	to.counter(sent, s.Sent)
	to.counter(fetched, s.Fetched)
	to.counter(landed, s.Landed)
	to.counter(evicted, s.Evicted)
	to.counter(corrupt, s.Corrupt)
	to.counter(revalidated, s.Revalidated)
	to.counter(stale, s.Stale)
	to.gauge(flights, float64(s.Flights))
	to.gauge(diskBytes, float64(s.DiskBytes))
	to.gauge(diskBudget, float64(s.DiskBudget))
	to.gauge(diskEntries, float64(s.DiskEntries))
	to.gauge(diskScanned, truth(s.Scanned))
	to.gauge(pinned, float64(s.PinnedBytes))
	to.gauge(memoryBytes, float64(s.MemoryBytes))
}

func (to sink) cluster(c *Cluster) {
	if c == nil {
		return
	}
	for state, n := range c.Members {
		to.gauge(members, float64(n), state)
	}
	to.gauge(ringVersion, float64(c.Ring))
	to.gauge(ringShare, c.Share)
	to.counter(questions, c.Told, "told")
	to.counter(questions, c.Silent, "silent")
	to.counter(elsewhere, c.Held)
	to.counter(spilt, c.Spilt)
	to.counter(peerBytes, c.Sent, "sent")
	to.counter(peerBytes, c.Received, "received")
	to.gauge(peerBusy, float64(c.Busy))
	to.counter(turnedAway, c.Refused, "question")
	to.counter(turnedAway, c.RefusedGossip, "gossip")
	to.counter(conflicts, c.Conflicts)
	to.counter(rejoins, c.Rejoins)
	to.counter(clusterHub, c.Hub)
	to.counter(copies, c.Behind, "behind")
	to.counter(copies, c.Repaired, "repair")
	to.counter(copies, c.Handed, "leave")
	to.counter(copies, c.Pins, "pin")
	to.counter(copyFails, c.Failed)
	to.counter(copyBytes, c.CopiedBytes)
	to.counter(rounds, c.Rounds)
	to.gauge(hotCopies, float64(c.HotCopies))
	to.counter(streams, c.Streams)
	to.gauge(unwell, float64(c.Health))
	for outcome, n := range c.Events {
		to.counter(events, n, outcome)
	}
}

func (to sink) warm(w Warmed) {
	to.counter(warmed, w.Fetched, "fetched")
	to.counter(warmed, w.Unchanged, "unchanged")
	to.counter(warmed, w.Failed, "failed")
	to.gauge(lastWarm, unix(w.Last))
}

func (to sink) hub(u Upstream) {
	to.counter(requests, u.Requests, u.Name)
	to.counter(failures, u.Failures, u.Name)
	to.counter(limited, u.LimitedPulls, u.Name, "pulls")
	to.counter(limited, u.LimitedRequests, u.Name, "requests")
	to.counter(unasked, u.Unasked, u.Name)
	to.counter(received, u.Bytes, u.Name)
	to.gauge(fetches, float64(u.Fetches), u.Name)
	to.gauge(refused, float64(u.RefusedLogins), u.Name)
	to.gauge(offline, truth(u.Offline), u.Name)
	for _, e := range u.Endpoints {
		to.gauge(up, truth(e.Up), u.Name, e.URL)
		for _, state := range circuits {
			to.gauge(circuit, truth(e.Circuit == state), u.Name, e.URL, state)
		}
		to.gauge(quiet, unix(e.Quiet), u.Name, e.URL)
		if e.Pace > 0 {
			to.gauge(pace, e.Pace, u.Name, e.URL)
		}
		for _, a := range e.Accounts {
			to.account(a, u.Name, e.URL, a.Name)
		}
	}
}

func (to sink) account(a Account, labels ...string) {
	to.gauge(blocked, unix(a.Blocked), labels...)
	if a.Limit >= 0 {
		to.gauge(limit, float64(a.Limit), labels...)
		to.gauge(remaining, float64(a.Remaining), labels...)
	}
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
