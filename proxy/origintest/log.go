package origintest

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// Request is a request that came, and what became of it.
type Request struct {
	Time   time.Time // when it came
	Host   string    // which host it was for, with its port
	From   string    // the client's address: one per connection
	Proto  string    // "HTTP/1.1"
	Method string
	Path   string
	Query  string
	Kind   Kind
	Repo   string
	Ref    string       // tag or digest, as in the path
	Range  string       // the Range header
	Header http.Header  // all of them, Authorization too
	Digest cache.Digest // of the content that was sent; zero: none

	Status int           // 0: not answered yet, or hung up on
	Off    int64         // where in the content the body began
	Bytes  int64         // of the body, written or being written
	Took   time.Duration // until the answer was over
	Over   bool          // whether it is
}

// Authorized reports whether the request carried credentials of any kind.
func (r *Request) Authorized() bool { return r.Header.Get("Authorization") != "" }

// record is a Request in the making. What changes is guarded by the log's lock, but for the bytes: they are counted
// on the way of each write.
type record struct {
	Request
	sent atomic.Int64
}

func (r *record) snapshot() Request {
	c := r.Request
	c.Bytes = r.sent.Load()
	return c
}

// journal is what came so far, and wakes those who wait for more.
type journal struct {
	mu      sync.Mutex
	records []*record
	news    chan struct{} // closed and replaced at each change
	conns   map[net.Conn]struct{}
}

func (j *journal) add(r Request) *record {
	rec := &record{Request: r}
	j.change(func() { j.records = append(j.records, rec) })
	return rec
}

// change runs f under the lock and wakes who waits.
func (j *journal) change(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f()
	if j.news != nil {
		close(j.news)
		j.news = nil
	}
}

// await returns nil once done holds, and ctx's error if that comes first.
func (j *journal) await(ctx context.Context, done func() bool) error {
	for {
		j.mu.Lock()
		if done() {
			j.mu.Unlock()
			return nil
		}
		if j.news == nil {
			j.news = make(chan struct{})
		}
		news := j.news
		j.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// note keeps the books of open connections.
func (j *journal) note(c net.Conn, s http.ConnState) {
	if j.conns == nil {
		j.conns = map[net.Conn]struct{}{}
	}
	j.conns[c] = struct{}{}
	if s == http.StateClosed || s == http.StateHijacked {
		delete(j.conns, c)
	}
}

func (j *journal) matching(matches []Match) []Request {
	var out []Request
	for _, rec := range j.records {
		if r := rec.snapshot(); all(matches, &r) {
			out = append(out, r)
		}
	}
	return out
}

// Requests are those that came so far and match, in the order in which they came, running ones too.
func (o *Origin) Requests(matches ...Match) []Request {
	o.log.mu.Lock()
	defer o.log.mu.Unlock()
	return o.log.matching(matches)
}

// Count is the number of requests that match.
func (o *Origin) Count(matches ...Match) int { return len(o.Requests(matches...)) }

// Bytes is how many body bytes were written to the requests that match.
func (o *Origin) Bytes(matches ...Match) (n int64) {
	for _, r := range o.Requests(matches...) {
		n += r.Bytes
	}
	return n
}

// Await returns once n requests that match have come (not: are over), or with ctx's error.
func (o *Origin) Await(ctx context.Context, n int, matches ...Match) error {
	return o.log.await(ctx, func() bool { return len(o.log.matching(matches)) >= n })
}

// AwaitIdle returns once every request that came is over, or with ctx's error.
func (o *Origin) AwaitIdle(ctx context.Context) error {
	return o.log.await(ctx, func() bool {
		return !slices.ContainsFunc(o.log.records, func(r *record) bool { return !r.Over })
	})
}

// Forget empties the log; requests under way are forgotten too.
func (o *Origin) Forget() { o.log.change(func() { o.log.records = nil }) }

// OpenConns is how many connections are open, of the servers that Server made.
func (o *Origin) OpenConns() int {
	o.log.mu.Lock()
	defer o.log.mu.Unlock()
	return len(o.log.conns)
}

// Span is a stretch of content and how often it was sent.
type Span struct {
	Off, N int64
	Times  int
}

// Coverage says how often each byte of some content was sent: in order, without overlap, and without what was never
// sent.
type Coverage []Span

// Sent says how often each byte of the content d was written to clients, by the origin and its CDN together.
func (o *Origin) Sent(d cache.Digest) Coverage {
	var edges []boundary
	for _, r := range o.Requests() {
		if r.Digest == d && r.Bytes > 0 {
			edges = append(edges, boundary{r.Off, +1}, boundary{r.Off + r.Bytes, -1})
		}
	}
	return sweep(edges)
}

// boundary is where a stretch begins (+1) or ends (-1).
type boundary struct {
	at    int64
	delta int
}

func sweep(edges []boundary) (c Coverage) {
	slices.SortFunc(edges, func(a, b boundary) int { return int(min(max(a.at-b.at, -1), 1)) })
	depth := 0
	for i, e := range edges {
		if i > 0 && depth > 0 && e.at > edges[i-1].at {
			c = c.append(Span{edges[i-1].at, e.at - edges[i-1].at, depth})
		}
		depth += e.delta
	}
	return c
}

// append adds s, joined to the last span where both were sent equally often.
func (c Coverage) append(s Span) Coverage {
	if n := len(c); n > 0 && c[n-1].Off+c[n-1].N == s.Off && c[n-1].Times == s.Times {
		c[n-1].N += s.N
		return c
	}
	return append(c, s)
}

// Total is the number of bytes sent, repeated ones counted each time.
func (c Coverage) Total() (n int64) {
	for _, s := range c {
		n += s.N * int64(s.Times)
	}
	return n
}

// Distinct is the number of bytes sent at least once.
func (c Coverage) Distinct() (n int64) {
	for _, s := range c {
		n += s.N
	}
	return n
}

// Repeated is the number of bytes sent that had been sent before.
func (c Coverage) Repeated() int64 { return c.Total() - c.Distinct() }

// Most is how often the byte that was sent most often was sent.
func (c Coverage) Most() (times int) {
	for _, s := range c {
		times = max(times, s.Times)
	}
	return times
}
