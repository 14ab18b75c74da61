package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tidepool-oci/tidepool/cache"
)

// errMember is the fault of a member: it cannot be reached, is silent, or says what no member says. It is no answer, and
// another member is asked.
var errMember = errors.New("a member that does not answer")

const (
	dialTime = time.Second
	// quiet is how long a member may send nothing of a body. The hub's own time-out is the same, and comes first.
	quiet = 20 * time.Second
	// heldQuiet is the same for what it holds, which comes from its disk and memory.
	heldQuiet = 5 * time.Second
	// mostIdle connections to a member are kept for the next question.
	mostIdle = 64
)

// alive has the kernel notice within five seconds that nothing comes any more from where a member was: who waits for the
// rest of a body sends nothing, and would not learn of a cut.
var alive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

// Remotes are the ways to other members. The zero value is not ready.
type Remotes struct {
	Identity *Identity
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error) // nil: the network
	Traffic  *Traffic                                                          // nil: nothing is counted
	Heat     *Heat                                                             // nil: no hot copies

	mu     sync.Mutex
	all    map[string]*remote // by name
	kept   map[string]Member  // those that there were at the last Keep; nil: nobody has said
	left   map[string]uint64  // how often each was left alone, by name
	closed bool

	soundings sync.WaitGroup
	rousing   singleflight.Group // by member
}

// to is the way to a member, as it is known now.
func (r *Remotes) to(m Member) *remote {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.all[m.Name]; x != nil && x.member.Addr == m.Addr {
		return x
	}
	if old := r.all[m.Name]; old != nil {
		old.end()
	}
	if r.all == nil {
		r.all = map[string]*remote{}
	}
	x := r.make(m)
	r.all[m.Name] = x
	return x
}

func (r *Remotes) make(m Member) *remote {
	dial := r.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTime, KeepAliveConfig: alive}).DialContext
	}
	x := &remote{member: m, traffic: r.Traffic, heat: r.Heat, of: r, sounding: sounding{over: r.closed}}
	if x.traffic == nil {
		x.traffic = new(Traffic)
	}
	x.transport = &http.Transport{
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, 2*dialTime)
			defer cancel()
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(c, r.Identity.Client(m.Name))
			if err := secure.HandshakeContext(ctx); err != nil {
				return nil, errors.Join(err, c.Close())
			}
			return secure, nil
		},
		MaxIdleConnsPerHost: mostIdle, IdleConnTimeout: idleTime / 2, DisableCompression: true,
		MaxResponseHeaderBytes: mostHead, WriteBufferSize: 4 << 10, ReadBufferSize: 64 << 10,
	}
	x.client = &http.Client{Transport: x.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return x
}

// Keep closes what leads to members that are gone, or begin anew, and forgets how they answered: one that comes back is
// asked at once.
func (r *Remotes) Keep(members map[string]Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = members
	for name, x := range r.all {
		if m, ok := members[name]; !ok || m.Addr != x.member.Addr || m.State == Joining {
			x.end()
			delete(r.all, name)
		}
	}
	maps.DeleteFunc(r.left, func(name string, _ uint64) bool {
		m, ok := members[name]
		return !ok || m.State == Joining
	})
}

// drop ends and forgets the way to a member that is none any more, or is elsewhere, and reports whether it is: a question
// that began before may have made it anew.
func (r *Remotes) drop(x *remote) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m, ok := r.kept[x.member.Name]; r.kept == nil || ok && m.Addr == x.member.Addr {
		return false
	}
	if r.all[x.member.Name] == x {
		delete(r.all, x.member.Name)
	}
	x.end()
	return true
}

// Close closes what is open and unused.
func (r *Remotes) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.Keep(nil)
	r.soundings.Wait()
	return nil
}

// remote asks one member.
type remote struct {
	member    Member
	transport *http.Transport
	client    *http.Client
	temper    temper
	load      load
	traffic   *Traffic
	heat      *Heat
	sounding  sounding
	of        *Remotes
}

// end is for a member that is gone, or has moved.
func (x *remote) end() {
	x.sounding.end()
	x.transport.CloseIdleConnections()
}

// ask asks q. It gives up where the member shows no sign in time: neither an answer nor word that it has to ask its
// registry, or is still at it. An error that is no errMember is the member's answer.
func (x *remote) ask(ctx context.Context, q question) (cache.Answer, error) {
	if !x.temper.asked(time.Now()) {
		return cache.Answer{}, fmt.Errorf("%w: %s did not a moment ago", errMember, x.member.Name)
	}
	began := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	impatience := time.AfterFunc(x.temper.patience(), func() { cancel(errSilent) })
	heard := sync.OnceFunc(func() { x.temper.answered(time.Since(began)) })
	signs := 0 // none: it answers from what it holds
	a, err := x.exchange(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if signs++; signs <= mostSigns && impatience.Reset(signLate) { // else it is too late
				heard()
			}
			return nil
		},
	}), q, cancel)
	impatience.Stop()
	if b, ok := a.Body.(*body); ok && signs == 0 {
		b.quiet = heldQuiet
	}
	switch {
	case err == nil || !errors.Is(err, errMember):
		heard()
	case context.Cause(ctx) != nil && !errors.Is(context.Cause(ctx), errSilent):
		err = context.Cause(ctx) // who asked is gone, which says nothing of the member
	default:
		x.silent(ctx)
	}
	if err != nil {
		cancel(nil)
	}
	return a, err
}

// errSilent says that a member shows no sign.
var errSilent = errors.New("no sign within its time")

// exchange is one question and its answer. A body ends cancel's context when it is closed.
func (x *remote) exchange(ctx context.Context, q question, cancel context.CancelCauseFunc) (cache.Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+x.member.Addr+q.path(), nil)
	if err != nil {
		return cache.Answer{}, fmt.Errorf("%w: %s: %w", errMember, x.member.Name, err)
	}
	req.Header.Set(headWork, strconv.FormatInt(x.heat.Work(), 10))
	res, err := x.do(req)
	if err != nil {
		return cache.Answer{}, fmt.Errorf("%w: %s: %w", errMember, x.member.Name, err)
	}
	a, err := readHead(res.Header)
	if err != nil {
		_ = res.Body.Close()
		return cache.Answer{}, fmt.Errorf("%w: %s: %w", errMember, x.member.Name, err)
	}
	a.Via = x.member.Name
	if n, err := strconv.ParseInt(res.Header.Get(headLoad), 10, 64); err == nil && n >= 0 {
		x.load.tell(n, time.Now())
	}
	x.heat.hear(x.member.Name, res.Header.Get(headWork))
	if q.pull() {
		x.heat.want(q.ref.Digest, res.Header.Get(headKeep) != "")
	}
	if res.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(res.Body, mostError))
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return cache.Answer{}, fmt.Errorf("%w: %s: %w", errMember, x.member.Name, err)
		}
		return a, readFailure(b)
	}
	if q.resolve && res.ContentLength == 0 {
		cancel(nil)
		return a, res.Body.Close()
	}
	a.Body = newBody(ctx, res.Body, cancel, x)
	return a, nil
}

// do sends a request, once more where that went by a connection that counts no longer.
func (x *remote) do(req *http.Request) (*http.Response, error) {
	res, err := x.client.Do(req)
	if err != nil || !outdated(res) {
		return res, err
	}
	_ = res.Body.Close()
	x.transport.CloseIdleConnections() // the others are as old
	if req.GetBody != nil {
		if req.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return x.client.Do(req)
}

// outdated reports whether an answer is that to one who is not, or no longer, a member: its connection was made by a secret
// that has been taken out since, and another one is made by one that counts.
func outdated(res *http.Response) bool {
	return res.StatusCode == http.StatusForbidden && res.Header.Get(headSize) == ""
}

// body is what a member sends.
type body struct {
	io.ReadCloser
	quiet  time.Duration
	alarm  *time.Timer
	ctx    context.Context
	cancel context.CancelCauseFunc
	member *remote
	done   func() // takes it off the member's load, once
}

func newBody(ctx context.Context, rc io.ReadCloser, cancel context.CancelCauseFunc, x *remote) *body {
	x.load.mine.Add(1)
	alarm := time.AfterFunc(quiet, func() { cancel(errSilent) })
	alarm.Stop() // until somebody reads: that he does not is no fault of the member's
	return &body{
		ReadCloser: rc, quiet: quiet, alarm: alarm, ctx: ctx, cancel: cancel, member: x,
		done: sync.OnceFunc(func() { x.load.mine.Add(-1) }),
	}
}

// Read reads, and does not wait for ever.
func (b *body) Read(p []byte) (int, error) {
	b.alarm.Reset(b.quiet)
	n, err := b.ReadCloser.Read(p)
	b.member.traffic.Received.Add(uint64(n))
	b.alarm.Stop()
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause == nil || errors.Is(cause, errSilent) { // else nobody wants it any more
			b.member.silent(b.ctx) // the rest comes another way
		}
		err = fmt.Errorf("%w: %w: %w", errMember, err, cache.ErrUnavailable)
	}
	return n, err
}

// Close ends it.
func (b *body) Close() error {
	b.alarm.Stop()
	err := b.ReadCloser.Close()
	b.done()
	b.cancel(nil)
	return err
}
