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
// window that moves with its slowest reader. It reads as a flight does, proves as a flight does where it began at a
// checkpoint, and leaves nothing behind.
type stream struct {
	c    *Cache
	key  flightKey
	ref  Ref
	ctx  context.Context
	stop context.CancelFunc
	end  int64     // forever: to the end of the content
	hash hash.Hash // nil: a range, which is not proven
	next *baton    // an answer that is open already

	mu       sync.Mutex
	changed  signal
	ring     ring
	size     int64 // -1: not known yet
	base     int64 // the window begins here
	pos      int64 // and ends here
	began    time.Time
	riders   map[*rider]*seat
	marks    []checkpoint
	answered bool
	proven   bool
	err      error
}

// seat is what a stream knows of a reader.
type seat struct {
	moved time.Time
	out   bool       // it held the others up; it goes on by a stream of its own
	from  checkpoint // where that one may begin
}

const (
	// diskWindow and memoryWindow are how far the fastest reader may be ahead of the slowest.
	diskWindow   = 64 << 20
	memoryWindow = 4 << 20
	// gather is how long a window stays at its start, so that those who come together share one stream.
	gather = 250 * time.Millisecond
	// patience is how long one reader may hold the others up.
	patience = 10 * time.Second
)

// errOut tells a reader that its stream has moved on without it.
var errOut = errors.New("outside the window")

// hail finds a stream that r can follow from r.off on, or begins one, at the checkpoint or, for a range, at r.off.
func (c *Cache) hail(ctx context.Context, key flightKey, ref Ref, r *rider, size int64, at checkpoint, b *baton) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams[key] {
		if s.carry(r) {
			return s
		}
	}
	s := &stream{c: c, key: key, ref: ref, end: r.end, size: size, base: r.off, riders: map[*rider]*seat{}}
	if r.whole {
		if at.off > r.off {
			at = checkpoint{}
		}
		s.hash, s.base, s.end = resumeHash(key.digest, at), at.off, forever
	}
	if s.pos = s.base; b != nil && b.pos == s.pos {
		s.next = b
	} else if b != nil {
		_ = b.Body.Close()
	}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.began = time.Now()
	s.marks = []checkpoint{{off: s.base, state: at.state}}
	s.riders[r] = &seat{moved: s.began}
	c.streams[key] = append(c.streams[key], s)
	c.flying.Add(1)
	go s.flow()
	return s
}

// carry takes r aboard if the window still has its place.
func (s *stream) carry(r *rider) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || r.off < s.base || (r.whole && s.hash == nil) || (s.end < r.end && !s.proven) {
		return false
	}
	if !r.whole && r.off > s.pos+s.ring.size {
		return false // too far ahead to wait for
	}
	s.riders[r] = &seat{moved: time.Now()}
	return true
}

// leave removes a reader; a stream without readers has no purpose.
func (s *stream) leave(r *rider) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.riders, r)
	s.changed.fire()
	if len(s.riders) == 0 && !s.proven {
		s.fail(ErrClosed)
		s.stop()
	}
}

// fail notes why the stream ended. s.mu is held.
func (s *stream) fail(err error) {
	if s.err == nil && !s.proven {
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
	s.mu.Lock()
	switch {
	case err != nil:
		s.fail(err)
	case s.hash == nil || s.key.digest.Matches(s.hash):
		s.proven = true
		s.changed.fire()
	default:
		s.c.stats.corrupt.Add(1)
		err = corrupt(s.ref, "%d bytes came that are something else", s.pos)
		s.fail(err)
	}
	s.mu.Unlock()
	if err != nil && s.ctx.Err() == nil {
		s.c.log.Warn("download failed", zap.Stringer("ref", s.ref), zap.Error(err))
	}
	s.last()
	s.c.leaveStream(s)
	s.ring.close()
}

// last waits until the readers have read what the window holds.
func (s *stream) last() {
	for {
		s.mu.Lock()
		over := len(s.riders) == 0 || s.err != nil || s.ctx.Err() != nil
		wait := s.changed.wait()
		s.mu.Unlock()
		if over {
			return
		}
		select {
		case <-wait:
		case <-s.ctx.Done():
		}
	}
}

// leg makes one request for what is left.
func (s *stream) leg() (progress bool, err error) {
	b := s.next
	s.next = nil
	if b == nil {
		want := Want{Off: s.pos, N: -1}
		if s.end != forever {
			want.N = s.end - s.pos
		}
		a, err := s.c.src.Open(s.ctx, s.ref, want)
		if err != nil {
			return false, err
		}
		b = &baton{Answer: a, pos: a.Off}
	}
	defer func() { err = joinClose(err, b.Body) }()
	s.mu.Lock()
	before := s.pos
	if b.Size >= 0 && s.size >= 0 && b.Size != s.size {
		err = fmt.Errorf("%s: now has %d bytes, had %d: %w", s.ref, b.Size, s.size, ErrUnavailable)
	}
	s.size, s.answered = max(s.size, b.Size), true
	s.changed.fire()
	s.mu.Unlock()
	if err == nil {
		err = s.pour(b)
	}
	return s.pos > before, err
}

func (s *stream) pour(b *baton) error {
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	skip := s.pos - b.pos
	if skip < 0 {
		return fmt.Errorf("%s: asked from byte %d on, answered from %d: %w", s.ref, s.pos, b.pos, ErrUnavailable)
	}
	if err := s.put(b.rest); err != nil {
		return err
	}
	for {
		n, err := b.Body.Read(buf[:])
		s.c.stats.fetched.Add(uint64(n))
		over := min(skip, int64(n))
		skip -= over
		if e := s.put(buf[over:n]); e != nil {
			return e
		}
		if err == io.EOF {
			return s.ended()
		}
		if err != nil {
			return err
		}
	}
}

func (s *stream) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size < 0 && s.end == forever {
		s.size = s.pos
	}
	if s.pos < min(s.end, s.size) {
		return fmt.Errorf("%s: ended at byte %d: %w", s.ref, s.pos, io.ErrUnexpectedEOF)
	}
	return nil
}

// put moves the window over p.
func (s *stream) put(p []byte) error {
	for len(p) > 0 {
		n, err := s.makeRoom(int64(len(p)))
		if err != nil {
			return err
		}
		if n = min(n, s.end-s.pos); n == 0 {
			return errEnough
		}
		if s.hash != nil {
			s.hash.Write(p[:n])
		}
		s.mu.Lock()
		if err := s.ring.put(p[:n], s.pos); err != nil {
			s.shelter(err)
			_ = s.ring.put(p[:n], s.pos) // memory takes everything
		}
		s.pos += n
		if last := s.marks[len(s.marks)-1]; s.hash != nil && s.pos-last.off >= step {
			s.marks = append(s.marks, checkpoint{off: s.pos, state: snapshot(s.hash)})
		}
		s.changed.fire()
		s.mu.Unlock()
		p = p[n:]
	}
	return nil
}

// shelter moves the window from a disk that failed into memory, with as much of it as that holds. s.mu is held.
func (s *stream) shelter(err error) {
	s.c.disk.failed(err)
	old, from := s.ring, max(s.base, s.pos-memoryWindow/2)
	s.ring = memoryRing()
	buf := make([]byte, s.pos-from)
	if old.get(buf, from) == nil {
		_ = s.ring.put(buf, from)
	} else {
		from = s.pos
	}
	old.close()
	s.base = max(s.base, from)
	for r, seat := range s.riders {
		if r.off < s.base && !seat.out {
			seat.out, seat.from = true, s.mark(r.off)
		}
	}
}

// exit is where the stream of a reader that fell out may begin.
func (s *stream) exit(r *rider) checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.riders[r].from
}

// makeRoom waits until the window can take some of n more bytes, and returns how many.
func (s *stream) makeRoom(n int64) (int64, error) {
	for {
		s.mu.Lock()
		now := time.Now()
		free := s.base + s.ring.size - s.pos
		wait := gather - now.Sub(s.began)
		if free <= 0 && wait <= 0 {
			wait = s.advance(now)
			free = s.base + s.ring.size - s.pos
		}
		changed := s.changed.wait()
		s.mu.Unlock()
		if free > 0 {
			return min(n, free), nil
		}
		t := time.NewTimer(wait)
		select {
		case <-changed:
		case <-t.C:
		case <-s.ctx.Done():
		}
		t.Stop()
		if s.ctx.Err() != nil {
			return 0, ErrClosed
		}
	}
}

// advance moves the window's start to the slowest reader, which falls out when it has not moved for too long. It
// returns how long to wait for that. s.mu is held.
func (s *stream) advance(now time.Time) (wait time.Duration) {
	wait = patience
	base := s.pos
	for r, seat := range s.riders {
		if seat.out {
			continue
		}
		if still := now.Sub(seat.moved); r.off <= s.pos-s.ring.size && still >= patience {
			seat.out, seat.from = true, s.mark(r.off)
			continue
		} else if r.off <= s.pos-s.ring.size {
			wait = min(wait, patience-still)
		}
		base = min(base, r.off)
	}
	if base > s.base {
		s.base = base
		for len(s.marks) > 1 && s.marks[1].off <= base {
			s.marks = s.marks[1:]
		}
	}
	return wait
}

// mark is the last checkpoint at or before off. s.mu is held.
func (s *stream) mark(off int64) (at checkpoint) {
	for _, m := range s.marks {
		if m.off <= off {
			at = m
		}
	}
	return at
}

// read copies what r may have from r.off on into buf and moves r on; io.EOF at the end, errOut where the window has
// left it behind.
func (s *stream) read(ctx context.Context, r *rider, buf []byte) (int, error) {
	for {
		s.mu.Lock()
		n, err := s.shown(r)
		if n > 0 {
			n = min(n, int64(len(buf)))
			err = s.ring.get(buf[:n], r.off)
			r.off += n
			s.riders[r].moved = time.Now()
			s.changed.fire()
		}
		wait := s.changed.wait()
		s.mu.Unlock()
		if n > 0 || err != nil {
			return int(n), err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// shown is how many bytes from r.off on r may have now. s.mu is held.
func (s *stream) shown(r *rider) (int64, error) {
	if s.riders[r].out {
		return 0, errOut
	}
	to := s.pos
	switch {
	case s.err != nil:
		return 0, s.err
	case s.proven:
	case r.whole && s.size >= 0:
		to = min(to, s.size-min(holdback, s.size))
	case r.whole:
		to -= holdback
	}
	if to = min(to, r.end); to > r.off {
		return to - r.off, nil
	}
	if s.proven {
		return 0, io.EOF
	}
	return 0, nil
}

// prove waits for the end, which can only be had for what fits the window.
func (s *stream) prove(ctx context.Context) error {
	for {
		s.mu.Lock()
		proven, err := s.proven, s.err
		if err == nil && s.pos-s.base >= memoryWindow {
			err = fmt.Errorf("%s: too large to be proven before it is sent, and cannot be kept: %w", s.ref, ErrUnavailable)
		}
		wait := s.changed.wait()
		s.mu.Unlock()
		if proven || err != nil {
			return err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ring holds the bytes of a window, each at its offset modulo the size.
type ring struct {
	size int64
	mem  []byte
	file File
}

// newRing makes a window: on disk where that takes writes, else in memory.
func (c *Cache) newRing(size int64) ring {
	if c.disk.writable() && (size < 0 || size > memoryWindow) && c.disk.books.reserve(diskWindow) {
		f, path, err := c.disk.temp()
		if err == nil {
			if err = c.disk.fs.Remove(path); err == nil {
				return ring{size: diskWindow, file: &window{f, c.disk.books}}
			}
			_ = f.Close()
		}
		c.disk.books.release(diskWindow)
	}
	return memoryRing()
}

func memoryRing() ring { return ring{size: memoryWindow, mem: make([]byte, memoryWindow)} }

// window is a ring's file, with its place on the books.
type window struct {
	File
	books *books
}

func (w *window) Close() error {
	w.books.release(diskWindow)
	return w.File.Close()
}

func (g ring) put(p []byte, off int64) error {
	return g.pieces(p, off, func(p []byte, at int64) error {
		if g.file == nil {
			copy(g.mem[at:], p)
			return nil
		}
		_, err := g.file.WriteAt(p, at)
		return err
	})
}

func (g ring) get(p []byte, off int64) error {
	return g.pieces(p, off, func(p []byte, at int64) error {
		if g.file == nil {
			copy(p, g.mem[at:])
			return nil
		}
		_, err := g.file.ReadAt(p, at)
		return err
	})
}

// pieces calls do for p's one or two places.
func (g ring) pieces(p []byte, off int64, do func(p []byte, at int64) error) error {
	at := off % g.size
	n := min(int64(len(p)), g.size-at)
	if err := do(p[:n], at); err != nil || n == int64(len(p)) {
		return err
	}
	return do(p[n:], 0)
}

func (g ring) close() {
	if g.file != nil {
		_ = g.file.Close()
	}
}

func (s *stream) sizeNow() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}
