package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Store is what a member serves from: what is held, what is arriving, else what its registry sends.
type Store interface {
	Open(ctx context.Context, ref cache.Ref, want cache.Want) (*cache.Blob, error)
	Stat(ctx context.Context, ref cache.Ref) (cache.Found, error)
}

// Peer answers other members. It never asks another member to fetch something: a question goes one hop.
type Peer struct {
	Store    Store
	Identity *Identity    // who may ask
	Traffic  *Traffic     // nil: nothing is counted
	Heat     *Heat        // nil: nobody is to keep copies
	Taker    *Taker       // takes what other members have it keep, too; nil: nothing is taken
	Doing    func() Doing // how this member does; nil: it does not say
	Log      *zap.Logger  // nil: silence
}

// ServeHTTP answers one question.
func (p *Peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, err := p.Identity.Member(r.TLS)
	if err != nil { // its secret was taken out since it came
		p.traffic().Refused.Add(1)
		w.Header().Set("Connection", "close")
		http.Error(w, "who asks is no member", http.StatusForbidden)
		return
	}
	switch {
	case r.Method == http.MethodGet && r.URL.Path == doingPath:
		p.doing(w)
		return
	case p.Taker != nil && p.Taker.serve(w, r, name):
		return
	}
	defer p.busy(w)()
	q, err := readQuestion(r)
	if err != nil {
		p.traffic().Refused.Add(1)
		http.Error(w, "no question that a member asks", http.StatusBadRequest)
		return
	}
	p.Heat.hear(name, r.Header.Get(headWork))
	if q.pull() && p.Heat.Worth(q.ref.Digest) {
		w.Header().Set(headKeep, "1")
	}
	ctx := cache.WithDirect(cache.WithUrgency(r.Context(), q.urgency))
	if q.doubts > 0 {
		ctx = cache.WithDoubts(ctx, q.doubts)
	}
	if q.vouched {
		ctx = cache.WithCaller(ctx, cache.Member)
	}
	line := http.NewResponseController(w)
	_ = line.SetReadDeadline(time.Time{})
	if q.resolve && q.ref.Kind != cache.KindTags && q.ref.Kind != cache.KindReferrers {
		p.resolve(ctx, w, q)
		return
	}
	b, err := p.open(ctx, w, q)
	if err != nil {
		p.refuse(w, cache.Answer{}, err)
		return
	}
	defer func() { _ = b.Close() }()
	p.send(ctx, w, line, q, b)
}

// busy counts one answer, which says how many there are.
func (p *Peer) busy(w http.ResponseWriter) (done func()) {
	t := p.traffic()
	w.Header().Set(headLoad, strconv.FormatInt(t.Busy.Add(1), 10))
	w.Header().Set(headWork, strconv.FormatInt(p.Heat.Work(), 10))
	return func() { t.Busy.Add(-1) }
}

func (p *Peer) traffic() *Traffic {
	if p.Traffic == nil {
		return new(Traffic)
	}
	return p.Traffic
}

// resolve says what a name is.
func (p *Peer) resolve(ctx context.Context, w http.ResponseWriter, q question) {
	var f cache.Found
	var err error
	busily(w, func() { f, err = p.Store.Stat(ctx, q.ref) }) // the registry may have to be asked
	a := answer(f)
	if err == nil && q.ref.Mutable() && f.Digest == q.want.Known {
		err = cache.ErrUnchanged
	}
	if err != nil {
		p.refuse(w, a, err)
		return
	}
	head(w.Header(), a)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
}

func answer(f cache.Found) cache.Answer {
	return cache.Answer{Desc: f.Desc, AsOf: f.AsOf, Stale: f.Stale(), Fetched: f.From == cache.FromUpstream}
}

// open opens what is held; else, unless that is all that is wanted, what has to be fetched.
func (p *Peer) open(ctx context.Context, w http.ResponseWriter, q question) (*cache.Blob, error) {
	held := q.want
	held.HeldOnly = true
	b, err := p.Store.Open(ctx, q.ref, held)
	if q.want.HeldOnly || !errors.Is(err, cache.ErrNotHeld) {
		return b, err
	}
	busily(w, func() { b, err = p.Store.Open(ctx, q.ref, q.want) })
	return b, err
}

// send sends what is wanted of b.
func (p *Peer) send(ctx context.Context, w http.ResponseWriter, line *http.ResponseController, q question, b *cache.Blob) {
	a := answer(b.Found)
	a.Off = q.want.Off
	n := q.want.N
	switch {
	case b.Size >= 0 && a.Off > b.Size:
		p.refuse(w, a, cache.ErrCorrupt) // of which one of us has the wrong size
		return
	case b.Size >= 0 && (n < 0 || n > b.Size-a.Off):
		n = b.Size - a.Off
	}
	head(w.Header(), a)
	if n >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	}
	w.WriteHeader(http.StatusOK)
	if err := b.SendRange(ctx, paced{w, line, p.traffic()}, a.Off, n); err != nil {
		p.log().Debug("not sent to the end", zap.Stringer("ref", q.ref), zap.Error(err))
		panic(http.ErrAbortHandler) // so that it does not look like the end
	}
}

// paced renews the deadline of what is sent, and counts it.
type paced struct {
	http.ResponseWriter
	line    *http.ResponseController
	traffic *Traffic
}

func (w paced) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.traffic.Sent.Add(uint64(n))
	return n, err
}

func (w paced) SetWriteDeadline(t time.Time) error { return w.line.SetWriteDeadline(t) }

// refuse answers with a failure, and what is known all the same.
func (p *Peer) refuse(w http.ResponseWriter, a cache.Answer, err error) {
	b, e := json.Marshal(failureOf(err))
	if e != nil {
		panic(http.ErrAbortHandler)
	}
	if a.Size == 0 {
		a.Size = -1
	}
	head(w.Header(), a)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf(err))
	_, _ = w.Write(b) // who is gone needs no answer
}

// statusOf is for people who look at the wire: members read the document.
func statusOf(err error) int {
	switch {
	case errors.Is(err, cache.ErrUnchanged):
		return http.StatusPreconditionFailed
	case errors.Is(err, cache.ErrNotFound), errors.Is(err, cache.ErrNotHeld):
		return http.StatusNotFound
	case errors.Is(err, cache.ErrDenied):
		return http.StatusForbidden
	case errors.Is(err, cache.ErrLimited):
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

func (p *Peer) log() *zap.Logger {
	if p.Log == nil {
		return zap.NewNop()
	}
	return p.Log
}

const (
	// headTime is for the head of a question, which is short.
	headTime = 10 * time.Second
	// idleTime is how long a connection between members stays open unused: longer than they stay open at the other end,
	// so that nobody asks on one that is being closed.
	idleTime = 2 * time.Minute
	mostHead = 16 << 10
)

// Server is what listens for members with p.
func (p *Peer) Server() *http.Server {
	tls := p.Identity.Server()
	tls.NextProtos = []string{"http/1.1"}
	return &http.Server{
		Handler: p, TLSConfig: tls, ReadHeaderTimeout: headTime, IdleTimeout: idleTime, MaxHeaderBytes: mostHead,
		ErrorLog: zap.NewStdLog(p.log()),
	}
}
