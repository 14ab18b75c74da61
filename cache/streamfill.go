package cache

import (
	"context"
	"fmt"
	"io"
	"time"
)

// This file is how a stream's window is filled, and how it moves.

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
