package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// request is something that a client wants of a member, and what is known when it asks.
type request struct {
	sim   *Sim
	run   *running
	ref   cache.Ref
	off   int64
	n     int64
	leave time.Duration // when the client goes away; 0: it stays
	began time.Time
	held  bool // the member had it
	owned bool // all agreed, and its owner had it and was honest
}

const (
	// attempts are how often a client tries, as containerd and docker do, and between is how long it waits.
	attempts, between = 3, time.Second
	// tooLong is how long nobody waits for an answer, whatever hubs and members do: what has brought something and broken
	// off is asked for seven times, of an owner and of the hub, each of which may be silent until it is given up.
	tooLong = 8 * time.Minute
	// longWell is how long nobody waits where the hub is well and nothing changes: a member that stops in the midst of a
	// body is given up after 20 seconds, and may be asked three times.
	longWell = 90 * time.Second
	// grace is how long a member may go on as if the hub were not well: what it asked just before is given up, and then the
	// hub is left alone for a while.
	grace = giveUp + mostRest + 5*time.Second
)

// pull pulls an image by its tag: the manifest, and then all layers at once.
func (s *Sim) pull(r *running, tag cache.Ref) {
	d, err := s.fetch(&request{sim: s, run: r, ref: tag, n: -1})
	if err != nil {
		return
	}
	var all sync.WaitGroup
	for _, l := range s.corpus.layersOf(d) {
		all.Go(func() { _, _ = s.fetch(&request{sim: s, run: r, ref: l, n: -1}) })
	}
	all.Wait()
}

// fetch is one request with all its attempts. What goes wrong is noted; what is returned says whether there is more to
// ask for.
func (s *Sim) fetch(q *request) (d cache.Digest, err error) {
	q.begin()
	defer s.over(q)
	for n := range attempts {
		if n > 0 {
			time.Sleep(between)
		}
		if over(q.run.gone) {
			return d, cache.ErrClosed
		}
		if d, err = q.try(); err == nil || errors.Is(err, context.Canceled) {
			return d, err
		}
	}
	q.judge(err)
	return d, err
}

// begin notes what is known before.
func (q *request) begin() {
	s := q.sim
	q.began = time.Now()
	q.held = q.run.holds(q.ref)
	if o := s.owner(q.run, q.ref); o != nil && s.calm() {
		q.owned = o.member.lie.Load() == honest && o.holds(q.ref)
	}
	d, _, _ := s.corpus.now(q.ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[q] = true
	s.requests++
	s.wanted[d]++
	s.taint(d)
}

func (s *Sim) over(q *request) {
	d, _, _ := s.corpus.now(q.ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, q)
	s.taint(d)
}

// holds says whether a member would serve a thing though it were alone.
func (r *running) holds(ref cache.Ref) bool {
	b, err := r.store.Open(r.ctx, ref, cache.Want{N: -1, HeldOnly: true})
	if err != nil {
		return false
	}
	return b.Close() == nil
}

// try is one attempt.
func (q *request) try() (cache.Digest, error) {
	s := q.sim
	ctx, cancel := context.WithTimeout(s.ctx, tooLong)
	defer cancel()
	if q.leave > 0 {
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer time.AfterFunc(q.leave, cancel).Stop()
	}
	began := time.Now()
	var got bytes.Buffer
	b, err := q.run.store.Open(ctx, q.ref, cache.Want{Off: q.off, N: q.n})
	opened := err == nil
	if opened {
		err = errors.Join(b.SendRange(ctx, &got, q.off, q.n), b.Close())
	}
	took := time.Since(began)
	if s.longest(took); took > 30*time.Second {
		s.logf("%s: took %v: %v", q, took, err)
	}
	switch {
	case errors.Is(err, context.Canceled) && q.leave > 0:
		return cache.Digest{}, context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		s.fail("%s: no end after %v", q, took)
	case err != nil && !opened && !plain(err) && !over(q.run.gone):
		s.fail("%s: no clear refusal: %v", q, err)
	case err != nil && errors.Is(err, cache.ErrNotFound) && q.exists():
		s.fail("%s: said not to be there: %v", q, err)
	case took > longWell && s.wellSince(q.run.member, began) && s.calmSince(began):
		s.fail("%s: took %v though the hub is well (%v)", q, took, err)
	}
	if err != nil {
		s.logf("%s: %v", q, err)
		return cache.Digest{}, err
	}
	return b.Digest, q.right(b.Found, got.Bytes(), began)
}

// right checks what came.
func (q *request) right(f cache.Found, got []byte, began time.Time) error {
	s := q.sim
	want := s.corpus.of(f.Digest)
	if q.off < int64(len(want)) {
		want = want[q.off:]
	}
	if q.n >= 0 && q.n < int64(len(want)) {
		want = want[:q.n]
	}
	switch {
	case (q.off > 0 || q.n >= 0) && !q.held && len(got) == len(want) && s.lied():
		// a part goes out as it comes, before the whole is proven
	case !q.ref.Digest.IsZero() && q.ref.Digest != f.Digest || !bytes.Equal(got, want):
		s.fail("%s: wrong bytes: %d of %s", q, len(got), f.Digest)
	case q.ref.Tag == "":
	case !s.corpus.stood(q.ref, f.Digest, time.Time{}):
		s.fail("%s: it never was %s", q, f.Digest)
	case !f.Stale() && !s.corpus.stood(q.ref, f.Digest, began.Add(-s.window())):
		s.fail("%s: it has not been %s for %v, as of %v", q, f.Digest, s.window(), f.AsOf)
	}
	return nil
}

// exists says whether there is what is asked for.
func (q *request) exists() bool {
	_, _, found := q.sim.corpus.now(q.ref)
	return found
}

// plain says whether an error says what is the matter.
func plain(err error) bool {
	for _, kind := range []error{
		cache.ErrNotFound, cache.ErrUnavailable, cache.ErrLimited, cache.ErrCorrupt, // and not of another's end
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// judge says whether a client may go without.
func (q *request) judge(err error) {
	s := q.sim
	switch {
	case over(q.run.gone) || !q.exists():
	case q.held && q.run.holds(q.ref):
		s.fail("%s: refused though it is held: %v", q, err)
	case s.wellSince(q.run.member, q.began):
		s.fail("%s: refused though the hub is well: %v", q, err)
	case q.owned && s.calmSince(q.began) && !s.doubted(q.ref.Digest):
		s.fail("%s: refused though its owner has it: %v", q, err)
	}
}

// String is for the log.
func (q *request) String() string {
	s := q.ref.String()
	if q.ref.Tag == "" {
		s = fmt.Sprintf("%s@%.12s", q.ref.Repo, q.ref.Digest.String()[7:])
	}
	if q.n >= 0 || q.off > 0 {
		s += fmt.Sprintf(" %d+%d", q.off, q.n)
	}
	return q.run.member.name + ": " + s
}
