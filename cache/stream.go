package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
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
		switch allowed := b.allowed || s.who == b.who(); {
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

// leg makes one request for what is left.
func (s *stream) leg() (got int64, err error) {
	b := s.next
	if s.next = nil; b == nil {
		if b, err = s.ask(); err != nil {
			return 0, err
		}
	}
	before := s.pos
	if err = s.accept(b); err == nil {
		err = s.pour(b)
	}
	if e := b.Close(); err == nil {
		err = e
	}
	return s.pos - before, err
}

// ask opens what is left.
func (s *stream) ask() (*baton, error) {
	want := Want{Off: s.pos, N: -1}
	if s.end != forever {
		want.N = s.end - s.pos
	}
	ctx, cancel := context.WithCancel(s.ctx)
	a, err := s.c.src.Open(ctx, s.who.ref, want)
	if err != nil {
		cancel()
		return nil, err
	}
	return &baton{Answer: a, pos: a.Off, cancel: cancel}, nil
}

// accept notes what the source said before its first byte.
func (s *stream) accept(b *baton) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case b.Size >= 0 && s.size >= 0 && b.Size != s.size:
		return resized(s.who.ref, b.Size, s.size)
	case b.Size >= 0 && b.Size < s.pos:
		return resized(s.who.ref, b.Size, s.pos)
	case b.pos > s.pos:
		return fmt.Errorf("%s: asked from byte %d on, answered from %d: %w", s.who.ref, s.pos, b.pos, ErrUnavailable)
	}
	s.size, s.said = max(s.size, b.Size), true
	s.changed.fire()
	return nil
}

// pour lets what the source sends pass through the window.
func (s *stream) pour(b *baton) error {
	// What a flight has opened does not end with this stream yet.
	defer context.AfterFunc(s.ctx, b.cancel)()
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	skip := s.pos - b.pos
	if err := s.put(b.rest); err != nil {
		return err
	}
	for {
		n, err := b.Body.Read(buf[:])
		s.c.stats.fetched.Add(uint64(n))
		past := min(skip, int64(n))
		skip -= past
		if e := s.put(buf[past:n]); e != nil {
			return e
		}
		if err == io.EOF {
			return s.complete(s.pos - skip)
		}
		if err != nil {
			return err
		}
	}
}

// complete is the source's clean end, at a byte.
func (s *stream) complete(at int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size < 0 && s.end == forever && at == s.pos {
		s.size = at
	}
	if at < s.last() {
		return fmt.Errorf("%s: ended at byte %d: %w", s.who.ref, at, io.ErrUnexpectedEOF)
	}
	return nil
}

// last is where the stream ends, as far as is known. s.mu is held.
func (s *stream) last() int64 {
	if s.size >= 0 {
		return min(s.end, s.size)
	}
	return s.end
}

// put moves the window over p.
func (s *stream) put(p []byte) error {
	for len(p) > 0 {
		n, err := s.makeRoom(int64(len(p)))
		if err != nil {
			return err
		}
		if err := s.ring.put(p[:n], s.pos); err != nil {
			s.shelter(err)
			_ = s.ring.put(p[:n], s.pos) // memory takes everything
		}
		s.mu.Lock()
		s.pos += n
		s.changed.fire()
		s.mu.Unlock()
		p = p[n:]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pos >= s.last() {
		return errEnough
	}
	return nil
}

// shelter moves the window from a disk that failed into memory, with as much of it as that holds.
func (s *stream) shelter(err error) {
	s.c.disk.failed(err)
	fresh, from := memoryRing(), max(s.base, s.pos-memoryWindow/2)
	buf := make([]byte, s.pos-from)
	if s.ring.get(buf, from) == nil {
		_ = fresh.put(buf, from)
	} else {
		from = s.pos
	}
	old := s.ring
	s.mu.Lock()
	s.ring = fresh
	for r, seat := range s.riders {
		seat.out = seat.out || r.off < from
	}
	s.base = from
	s.changed.fire()
	s.mu.Unlock()
	old.close()
}

// makeRoom waits until the window can take some of n more bytes, and returns how many; errEnough at the end.
func (s *stream) makeRoom(n int64) (int64, error) {
	for {
		s.mu.Lock()
		left := s.last() - s.pos
		free, wait := s.advance(time.Now())
		changed := s.changed.wait()
		s.mu.Unlock()
		switch {
		case left <= 0:
			return 0, errEnough
		case free > 0:
			return min(n, free, left), nil
		}
		t := time.NewTimer(wait)
		select {
		case <-changed:
		case <-s.following():
		case <-t.C:
		case <-s.ctx.Done():
		}
		t.Stop()
		if s.ctx.Err() != nil {
			return 0, ErrClosed
		}
	}
}

// advance moves a full window's start to the slowest reader, which falls out when it has not moved for too long while
// others wait. It returns how much room there is and, where that is none, how long to wait for more. s.mu is held.
func (s *stream) advance(now time.Time) (free int64, wait time.Duration) {
	if free = s.base + s.ring.size - s.pos; free > 0 {
		return free, 0
	}
	if s.stuck.IsZero() {
		s.stuck = now
	}
	if wait = s.gathering(now); wait > 0 {
		return 0, wait
	}
	wait = patience
	base := s.pos
	for r, seat := range s.riders {
		if seat.out {
			continue
		}
		if r.off <= s.base && len(s.riders) > 1 && !seat.busy {
			left := patience - min(now.Sub(seat.moved), now.Sub(s.stuck))
			if left <= 0 {
				seat.out = true
				continue
			}
			wait = min(wait, left)
		}
		base = min(base, r.off)
	}
	if base > s.base {
		s.base, s.stuck = base, time.Time{}
	}
	return s.base + s.ring.size - s.pos, wait
}

// gathering is how much longer the window stays at its start: for those who come together, and for those who still
// read what the flight before it left. s.mu is held.
func (s *stream) gathering(now time.Time) time.Duration {
	age := now.Sub(s.began)
	if age < patience && s.after != nil && s.after.aboard() > 0 {
		return patience - age
	}
	return gather - age
}

// following tells when a reader has left the flight before.
func (s *stream) following() <-chan struct{} {
	if s.after == nil {
		return nil
	}
	s.after.mu.Lock()
	defer s.after.mu.Unlock()
	return s.after.moved.wait()
}

// board waits for the first answer.
func (s *stream) board(ctx context.Context) error {
	for {
		s.mu.Lock()
		said, err := s.said, s.err
		wait := s.changed.wait()
		s.mu.Unlock()
		if said || err != nil {
			return err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read copies what r may have from r.off on into buf and moves r on; last says that it was all. io.EOF at the end,
// errOut where the window has left it behind.
func (s *stream) read(ctx context.Context, r *rider, buf []byte) (n int64, last bool, err error) {
	for {
		s.mu.Lock()
		n, err := s.shown(r)
		ring, wait := s.ring, s.changed.wait()
		if n > 0 {
			s.riders[r].busy = true
		}
		s.mu.Unlock()
		if err != nil {
			return 0, false, err
		}
		if n = min(n, int64(len(buf))); n > 0 {
			done, last, err := s.took(r, n, ring, ring.get(buf[:n], r.off))
			if done {
				return n, last, err
			}
			continue
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
}

// took moves r over the n bytes that it copied from a ring, if they still were there.
func (s *stream) took(r *rider, n int64, from *ring, err error) (done, last bool, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seat := s.riders[r]
	seat.busy = false
	switch {
	case seat.out || s.ring != from: // look again
		return false, false, nil
	case err != nil && s.ctx.Err() != nil:
		return true, false, ErrClosed
	case err != nil: // a disk that does not give back what it took
		s.c.disk.failed(err)
		seat.out = true
		return false, false, nil
	}
	r.off += n
	seat.moved = time.Now()
	s.changed.fire()
	return true, s.over && r.off == s.pos, nil
}

// shown is how many bytes from r.off on r may have now. s.mu is held.
func (s *stream) shown(r *rider) (int64, error) {
	switch {
	case s.err != nil:
		return 0, s.err
	case s.riders[r].out:
		return 0, errOut
	case r.size >= 0 && s.size >= 0 && r.size != s.size:
		return 0, resized(s.who.ref, s.size, r.size)
	}
	to := s.pos
	switch {
	case s.over || !r.whole:
	case s.size >= 0:
		to = min(to, s.size-min(holdback, s.size))
	default:
		to -= holdback
	}
	if to = min(to, r.end); to > r.off {
		return to - r.off, nil
	}
	if s.over {
		return 0, io.EOF
	}
	return 0, nil
}

// prove waits for the end and compares everything with the digest, which can only be done for what fits the window.
func (s *stream) prove(ctx context.Context, r *rider) error {
	for {
		s.mu.Lock()
		over, err := s.over, s.err
		if !over && s.ring.size > 0 && s.pos-s.base >= s.ring.size && s.pos < s.last() {
			err = fmt.Errorf("%s: %w", s.who.ref, errUnproved)
		}
		wait := s.changed.wait()
		s.mu.Unlock()
		switch {
		case err != nil:
			return err
		case over:
			return s.compare(r)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// compare hashes everything from where r is, which is the start. The window does not move any more.
func (s *stream) compare(r *rider) error {
	h, buf := s.key.digest.Hash(), make([]byte, copySize)
	for off := r.off; off < s.pos; {
		n := min(int64(len(buf)), s.pos-off)
		if err := s.ring.get(buf[:n], off); err != nil {
			return fmt.Errorf("%s: %w: %w", s.who.ref, err, ErrUnavailable)
		}
		h.Write(buf[:n])
		off += n
	}
	return s.judge(r, h)
}

// judge compares what r, a reader of the whole, was shown with the digest. If all of that came from here, nobody else
// is shown more of it.
func (s *stream) judge(r *rider, h hash.Hash) error {
	if s.key.digest.Matches(h) {
		return nil
	}
	s.c.stats.corrupt.Add(1)
	s.c.doubts.add(s.key)
	err := corrupt(s.who.ref, "something else came")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.riders[r].from == 0 && s.err == nil {
		s.err = err
		s.changed.fire()
	}
	return err
}

func (s *stream) sizeNow() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}
