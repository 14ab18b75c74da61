package cache

import (
	"context"
	"errors"
	"io"
	"time"
)

// rider is one reader of what is arriving. Who it is aboard of guards it with its mutex.
type rider struct {
	off, end int64 // what it is at, and how far it wants to read
	size     int64 // what its client was told that there is in all; -1: nothing
	whole    bool  // it reads the whole, and is shown the end only when that is proven
	moving   bool  // it was shown something since it came here

	urgency Urgency
	direct  bool // it must not wait for another member
	keep    bool // it wants the whole kept here

	wake  chan struct{} // has a token when it should look again; nil before it boards
	least int64         // it wants to be woken for this many bytes; 0: it is not waiting
}

func newRider(off, n, size int64, whole bool) *rider {
	r := &rider{off: off, end: forever, size: size, whole: whole}
	if n >= 0 {
		r.end = off + n
	}
	return r
}

// poke makes r look again.
func (r *rider) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

const (
	// holdback is what is kept from whole readers until the digest is proven. Of a blob of unknown length the end is
	// not known before it is there, so this much is always kept back.
	holdback = 64 << 10
	// gulp is what a reader on the heels of a fast source waits for rather than to be woken for each piece, and sip is
	// how long: long enough for a gulp at 200 MB/s, and nobody notices it.
	gulp = 1 << 20
	sip  = 5 * time.Millisecond
)

// errAgain sends a reader back to the start: what ended was not meant for it.
var errAgain = errors.New("another's answer")

// board adds a reader and waits until the source has answered for what it wants first, or refused.
func (f *flight) board(ctx context.Context, r *rider) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.entry != nil {
		return errLanded
	}
	f.enter(r)
	for !f.answered(r) {
		f.cover(r)
		if err := f.await(ctx, r, 1, 0); err != nil {
			f.drop(r)
			return err
		}
	}
	if f.dead() {
		f.drop(r)
		return f.err
	}
	return nil
}

// enter adds a reader. f.mu is held.
func (f *flight) enter(r *rider) {
	r.wake, r.moving = make(chan struct{}, 1), false
	f.riders[r] = struct{}{}
	f.ahead = f.ahead && r.urgency >= Warming
	f.keep = f.keep || r.keep
	if r.direct {
		f.straighten()
	}
}

// replace puts a reader in the place of another.
func (f *flight) replace(old, r *rider) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.riders, old)
	f.enter(r)
}

// answered reports whether the source has said yes for what r wants first and is not held, or no. f.mu is held.
func (f *flight) answered(r *rider) bool {
	at := f.held.reach(r.off)
	if f.entry != nil || f.err != nil || at >= f.last(r) {
		return true
	}
	for _, run := range f.active {
		if run.answered && (f.rigid || run.pos <= at && at < run.end) {
			return true
		}
	}
	return false
}

// last is where r's reading ends, as far as is known. f.mu is held.
func (f *flight) last(r *rider) int64 {
	if f.size >= 0 {
		return min(r.end, f.size)
	}
	return r.end
}

// leave removes a reader; the flight goes on without it.
func (f *flight) leave(r *rider) {
	f.mu.Lock()
	f.drop(r)
	orphan := len(f.riders) == 0 && f.baton != nil
	f.mu.Unlock()
	if orphan {
		f.unclaimed()
	}
}

// drop is leave with f.mu held.
func (f *flight) drop(r *rider) {
	if _, aboard := f.riders[r]; !aboard {
		return
	}
	delete(f.riders, r)
	if f.entry != nil {
		f.c.disk.books.closed(f.entry)
	}
	if len(f.riders) == 0 && f.ahead {
		f.end(errIdle) // nobody who fetches ahead leaves but to have it stopped
	}
	f.moved.fire()
}

// await waits until at least n bytes may be shown to r, until something else has changed, or for d where that is not 0.
// f.mu is held, but not while waiting.
func (f *flight) await(ctx context.Context, r *rider, n int64, d time.Duration) error {
	select {
	case <-r.wake: // of a change that the caller has seen
	default:
	}
	r.least = n
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		r.least = 0
	}()
	var late <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-r.wake:
	case <-late:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// ready waits until bytes from r.off on may be shown to r, and returns how many; io.EOF at the end.
func (f *flight) ready(ctx context.Context, r *rider) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for hurried := !r.moving; ; {
		n, err := f.shown(r)
		switch {
		case err != nil || n >= gulp || n > 0 && (hurried || r.off+n == f.last(r)):
			return n, err
		case n > 0:
			hurried = true
			err = f.await(ctx, r, gulp, sip)
		default:
			f.cover(r)
			err = f.await(ctx, r, 1, 0)
		}
		if err != nil {
			return 0, err
		}
	}
}

// shown is how many bytes from r.off on r may have now. f.mu is held.
func (f *flight) shown(r *rider) (int64, error) {
	if errors.Is(f.err, ErrCorrupt) {
		return 0, f.err
	}
	if r.size >= 0 && f.size >= 0 && r.size != f.size {
		return 0, resized(f.who.ref, f.size, r.size)
	}
	if to := min(f.visible(r), r.end); to > r.off {
		return to - r.off, nil
	}
	switch {
	case f.err != nil && f.tail == nil:
		return 0, nil // what is held is being hashed
	case f.err != nil:
		return 0, f.err
	case f.size >= 0 && r.off >= f.size && (f.entry != nil || !r.whole):
		return 0, io.EOF
	}
	return 0, nil
}

// visible is up to where r may see what is held. f.mu is held.
func (f *flight) visible(r *rider) int64 {
	to := f.held.reach(r.off)
	switch {
	case f.entry != nil:
		return f.size
	case !r.whole && f.c.o.ProvenRanges:
		return r.off
	case !r.whole:
		return to
	case f.tail != nil && f.tail.off != f.size:
		return f.tail.off // the end is not here: whoever brings it, r will prove the whole by itself
	case f.err != nil:
		return r.off
	case f.size >= 0:
		return min(to, f.size-min(holdback, f.size))
	default:
		return to - holdback
	}
}

// show wakes the readers for whom it is worth it, after bytes came. f.mu is held.
func (f *flight) show() {
	f.moved.fire()
	for r := range f.riders {
		if r.least == 0 {
			continue
		}
		if n, _ := f.shown(r); n >= r.least || r.off+n == f.last(r) {
			r.poke()
		}
	}
}

// advanced notes that r has read n bytes.
func (f *flight) advanced(r *rider, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.off += n
	r.moving = true
}

// prove waits until everything is there and proven.
func (f *flight) prove(ctx context.Context, r *rider) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.entry == nil {
		if f.err != nil && f.tail != nil {
			return f.err
		}
		f.cover(r)
		if err := f.await(ctx, r, forever, 0); err != nil {
			return err
		}
	}
	return nil
}
