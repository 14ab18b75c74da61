package origintest

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// piece is how much is made and written at a time: large enough that system calls do not count, small enough to stay
// in the processor's cache between being made and being written.
const piece = 256 << 10

var pieces = sync.Pool{New: func() any { b := make([]byte, piece); return &b }}

// send puts a on the wire.
func (x *exchange) send(a *answer) {
	for _, do := range a.before {
		do(x)
	}
	a.narrow(x.r)
	x.head(a)
	if x.r.Method == http.MethodHead || a.content == nil {
		return
	}
	buf := pieces.Get().(*[]byte)
	if x.r.ProtoMajor == 1 {
		defer pieces.Put(buf) // over HTTP/2 a write that failed may still be reading it
	}
	x.body(a, *buf)
}

func (x *exchange) head(a *answer) {
	h := x.w.Header()
	for k, v := range a.header {
		h[k] = v
	}
	if a.content != nil {
		if !a.noRange {
			h.Set("Accept-Ranges", "bytes")
		}
		if !a.noLength {
			h.Set("Content-Length", strconv.FormatInt(max(0, a.n+a.pad+a.lie), 10))
		}
	}
	for _, o := range a.override {
		if o[1] == "" {
			h[http.CanonicalHeaderKey(o[0])] = nil // a nil value keeps the server from filling it in
		} else {
			h.Set(o[0], o[1])
		}
	}
	x.o.log.change(func() { x.rec.Status, x.rec.Off, x.rec.Digest = a.status, a.off, a.digest })
	x.w.WriteHeader(a.status)
}

// body writes the part of the content that a is about, and stops on the way where a says.
func (x *exchange) body(a *answer, buf []byte) {
	end := a.n + a.pad + min(0, a.lie)
	pos := int64(0)
	for _, s := range a.sortedStops() {
		if s.at > end {
			break
		}
		if !x.copy(a, pos, s.at, buf) {
			return
		}
		pos = s.at
		// A client that is gone shows at the next write.
		_ = http.NewResponseController(x.w).Flush()
		s.do(x)
	}
	x.copy(a, pos, end, buf)
}

// copy writes the bytes of the body from pos to end, and reports whether the client took them.
func (x *exchange) copy(a *answer, pos, end int64, buf []byte) bool {
	pacers := x.pacers(a)
	for pos < end {
		b := a.fill(pos, buf[:min(end-pos, piece, smallest(pacers))])
		for _, p := range pacers {
			p.wait(x, len(b))
		}
		n, err := x.write(b)
		if err != nil || x.r.Context().Err() != nil {
			return false
		}
		if len(pacers) > 0 {
			_ = http.NewResponseController(x.w).Flush()
		}
		pos += int64(n)
	}
	return true
}

// write counts b before it writes, so that no client has bytes that are not counted yet.
func (x *exchange) write(b []byte) (int, error) {
	x.rec.sent.Add(int64(len(b)))
	n, err := x.w.Write(b)
	x.rec.sent.Add(int64(n - len(b)))
	return n, err
}

// fill makes the body's bytes from pos on.
func (a *answer) fill(pos int64, b []byte) []byte {
	n, _ := a.content.ReadAt(b[:max(0, min(int64(len(b)), a.n-pos))], a.off+pos)
	for i := n; i < len(b); i++ {
		b[i] = '~' // what a pads with
	}
	for _, f := range a.flips {
		if at := f - a.off - pos; at >= 0 && at < int64(n) {
			b[at] ^= 0xff
		}
	}
	return b
}

// pacers are those that an answer has to wait for: its own and its connection's.
func (x *exchange) pacers(a *answer) (ps []*pacer) {
	if a.pace != nil {
		ps = append(ps, a.pace)
	}
	x.o.mu.Lock()
	rate := x.o.connRate
	x.o.mu.Unlock()
	if w, ok := x.r.Context().Value(wireKey{}).(*wire); ok && rate > 0 {
		w.pacer.set(rate)
		ps = append(ps, &w.pacer)
	}
	return ps
}

// pacer lets bytes go at a rate. It keeps a timetable, so that a sleep that took too long is made up for.
type pacer struct {
	mu   sync.Mutex
	rate int64 // bytes per second
	next time.Time
}

func (p *pacer) set(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = rate
}

const (
	// tick is how far ahead of the timetable bytes may go: sleeps of less are not exact.
	tick = 2 * time.Millisecond
	// lag is how much of a delay is made up for: more was not our sleep but the client's.
	lag = 100 * time.Millisecond
)

// wait sleeps until n more bytes may go.
func (p *pacer) wait(x *exchange, n int) {
	p.mu.Lock()
	now := time.Now()
	if now.Sub(p.next) > lag {
		p.next = now
	}
	ahead := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	if ahead > tick {
		x.sleep(ahead)
	}
}

// flake is how small a piece need not be, unless that takes more than a second: each costs the test a write, and everybody
// who follows it a look.
const flake = 512

// smallest is the largest piece that keeps the slowest of ps smooth: what it sends in 10 ms, or a flake.
func smallest(ps []*pacer) int64 {
	n := int64(piece)
	for _, p := range ps {
		p.mu.Lock()
		n = min(n, max(1, p.rate/100, min(p.rate, flake)))
		p.mu.Unlock()
	}
	return n
}
