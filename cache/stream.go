package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// stream is a download that cannot be kept: larger than the budget, or nothing can be written. One request feeds a
// window that moves with its slowest reader. It begins where its first reader is, and leaves nothing behind. Readers of
// the whole, who may have come from anywhere, prove by themselves what they were shown.
type stream struct {
	c     *Cache
	key   flightKey
	who   asked // in whose name the source is asked
	ctx   context.Context
	stop  context.CancelFunc
	end   int64   // forever: to the end of the content
	next  *baton  // an answer that is open already
	after *flight // whose readers are still on their way here; nil: nobody's

	mu      sync.Mutex // taken after the cache's and before a flight's
	changed signal
	ring    *ring // changed by flow alone
	size    int64 // -1: not known yet
	base    int64 // the window begins here
	pos     int64 // and ends here; changed by flow alone
	began   time.Time
	stuck   time.Time // since when the window is full; zero: it is not
	riders  map[*rider]*seat
	said    bool // the source has answered
	over    bool // all of it came
	err     error
}

// seat is what a stream knows of a reader.
type seat struct {
	from  int64 // where it came aboard
	moved time.Time
	busy  bool // copying: its place must stay
	out   bool // it held the others up, or could not be served; it goes on by a stream of its own
}

const (
	// gather is how long a window stays at its start, so that those who come together share one stream.
	gather = 250 * time.Millisecond
	// patience is how long one reader may hold the others up.
	patience = 10 * time.Second
)

var (
	// errOut tells a reader that its stream has moved on without it.
	errOut = errors.New("outside the window")
	// errStranger asks for permission before somebody joins another's stream.
	errStranger = errors.New("not known to be allowed")
	errUnproved = fmt.Errorf("too large to be proven before it is sent, and it cannot be kept: %w", ErrUnavailable)
)

// hail takes b's reader to a stream that it can follow, or begins one where it is. after is the flight that it comes
// from, if it does, and size what is known.
func (c *Cache) hail(ctx context.Context, b *Blob, size int64, after *flight) (*stream, error) {
	switch r := b.rider; {
	case c.o.ProvenRanges && !r.whole:
		return nil, fmt.Errorf("%s: %w", b.ref, errUnproved)
	case r.whole && b.own == nil && r.off > 0:
		return nil, b.cutOff()
	case r.whole && b.own == nil:
		b.own = b.ref.Digest.Hash()
	}
	for {
		s, err := c.hailOnce(ctx, b, size, after)
		if !errors.Is(err, errStranger) {
			return s, err
		}
		if err := c.mayFollow(ctx, b.who()); err != nil {
			return nil, err
		}
		b.allowed = true
	}
}

func (c *Cache) hailOnce(ctx context.Context, b *Blob, size int64, after *flight) (*stream, error) {
	key, r := flightKey{b.ref.Registry, b.ref.Digest}, b.rider
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if s, err := c.carrier(key, b, r); s != nil || err != nil {
		return s, err
	}
	s := &stream{c: c, key: key, who: b.who(), after: after, end: r.end, size: size, base: r.off, pos: r.off,
		began: time.Now(), ring: &ring{}, riders: map[*rider]*seat{}}
	if after != nil {
		s.next = after.yield(s.pos)
	}
	if r.direct && s.next != nil && s.next.Via != "" {
		_ = s.next.Close() // it may wait for the one who comes
		s.next = nil
	}
	s.ctx, s.stop = context.WithCancel(c.doubts.tell(context.WithoutCancel(ctx), key))
	s.riders[r] = &seat{from: r.off, moved: s.began}
	c.streams[key] = append(c.streams[key], s)
	c.flying.Add(1)
	go s.flow()
	return s, nil
}

// carrier is the stream that takes r aboard; nil where there is none. errStranger: there is, but r must be allowed
// first. c.mu is held.
func (c *Cache) carrier(key flightKey, b *Blob, r *rider) (*stream, error) {
	for _, s := range c.streams[key] {
		switch allowed := b.allowed || s.who == b.who() && c.permits.allow(s.who); {
		case !s.carry(r, allowed):
		case !allowed:
			return nil, errStranger
		default:
			return s, nil
		}
	}
	return nil, nil
}

// passing takes r aboard what passes through just now without being kept, where there is such a thing and its window
// has the place: the source need not be asked for that again. nil: there is none.
func (c *Cache) passing(ctx context.Context, b *Blob, r *rider) (*stream, error) {
	if c.o.ProvenRanges && !r.whole || r.whole && r.off > 0 {
		return nil, nil
	}
	key := flightKey{b.ref.Registry, b.ref.Digest}
	for {
		c.mu.Lock()
		s, err := c.carrier(key, b, r)
		c.mu.Unlock()
		if !errors.Is(err, errStranger) {
			return s, err
		}
		if err := c.mayFollow(ctx, b.who()); err != nil {
			return nil, err
		}
		b.allowed = true
	}
}

// carry reports whether the window has r's place or will soon have it, and takes it aboard if it is allowed.
func (s *stream) carry(r *rider, allowed bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil || s.ctx.Err() != nil || r.off < s.base || s.end < r.end || s.over && r.off > s.pos:
		return false
	case r.direct && !DirectOf(s.ctx):
		return false // what feeds it may wait for the one who comes
	case r.off > s.pos+memoryWindow:
		return false // too far ahead to wait for
	}
	if allowed {
		s.riders[r] = &seat{from: r.off, moved: time.Now()}
	}
	return true
}

// leave removes a reader; a stream without readers has no purpose.
func (s *stream) leave(r *rider) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.riders, r)
	s.changed.fire()
	if len(s.riders) == 0 {
		s.fail(ErrClosed)
		s.stop()
	}
}

// replace puts a reader in the place of another.
func (s *stream) replace(old, r *rider) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.riders[r] = s.riders[old]
	delete(s.riders, old)
}

// fail notes why the stream ended. s.mu is held.
func (s *stream) fail(err error) {
	if s.err == nil && !s.over {
		s.err = err
		s.changed.fire()
	}
}

// flow fetches until everything went by.
func (s *stream) flow() {
	defer s.c.flying.Done()
	defer s.stop()
	ring := s.c.newRing(s.size)
	s.mu.Lock()
	s.ring = ring
	s.mu.Unlock()
	err := again(s.ctx, s.leg)
	if errors.Is(err, errEnough) {
		err = nil
	}
	if s.next != nil {
		_ = s.next.Close()
	}
	s.mu.Lock()
	readers := len(s.riders)
	if err != nil {
		s.fail(err)
	} else if s.err == nil {
		s.over = true
		s.changed.fire()
	}
	s.mu.Unlock()
	if err != nil && s.ctx.Err() == nil {
		s.c.log.Warn("download failed", zap.Stringer("ref", s.who.ref), zap.Int("readers", readers), zap.Error(err))
	}
	s.linger()
	s.c.leaveStream(s)
	s.ring.close()
}

// linger waits until the readers have read what the window holds.
func (s *stream) linger() {
	for {
		s.mu.Lock()
		done := len(s.riders) == 0 || s.err != nil
		wait := s.changed.wait()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-wait:
		case <-s.ctx.Done():
			return
		}
	}
}

// leaveStream takes an ended stream off the table.
func (c *Cache) leaveStream(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.streams[s.key]
	for i := range list {
		if list[i] == s {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if c.streams[s.key] = list; len(list) == 0 {
		delete(c.streams, s.key)
	}
}
