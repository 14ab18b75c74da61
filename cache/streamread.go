package cache

import (
	"context"
	"fmt"
	"hash"
	"io"
	"time"
)

// This file is how a stream's window is read, and proven.

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
