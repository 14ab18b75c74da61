package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// run is one piece of a flight, fetched from front to end: from pos up to end, which moves nearer when another run
// takes the rest over.
type run struct {
	pos, end int64 // guarded by the flight's mutex
	main     bool  // it moves the front
	answered bool

	open record // what is held but not yet in the map
}

// baton is an open answer that a flight without room hands to the stream that goes on: nothing is asked twice.
type baton struct {
	Answer
	pos  int64
	rest []byte // read already, not written
}

const (
	// tries is how often a request is made again that brought nothing new.
	tries = 4
	// firstPause and longestPause bound the wait between them; a hub that asks for more than the latter is told to
	// the clients instead.
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
	// pieceSize is read from the network at a time: larger ones cost memory per run and save little.
	pieceSize = 128 << 10
)

var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// errEnough ends a leg at the end of its run.
var errEnough = errors.New("the run is over")

// fetch brings a run to its end, with as many requests as it takes.
func (f *flight) fetch(r *run) {
	defer f.runs.Done()
	err := again(f.ctx, func() (bool, error) { return f.leg(r) })
	f.log(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, a := range f.active {
		if a == r {
			f.active = append(f.active[:i], f.active[i+1:]...)
			break
		}
	}
	if err != nil && !errors.Is(err, errEnough) {
		f.end(err)
	}
	f.advance()
	f.changed.fire()
}

// again calls leg until it succeeds, fails for good, or has failed several times without bringing anything new.
func again(ctx context.Context, leg func() (progress bool, err error)) error {
	pause := firstPause
	for n := 1; ; n++ {
		progress, err := leg()
		if progress {
			n, pause = 0, firstPause
		}
		var limit *LimitedError
		wait := pause/2 + rand.N(pause)
		switch {
		case err == nil || errors.Is(err, errEnough) || errors.Is(err, errNoRoom):
			return err
		case ctx.Err() != nil:
			return ErrClosed
		case errors.As(err, &limit) && time.Until(limit.Until) < longestPause:
			wait = max(wait, time.Until(limit.Until))
		case final(err):
			return err
		}
		if n >= tries {
			return err
		}
		pause = min(2*pause, longestPause)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ErrClosed
		}
	}
}

// leg makes one request for what is left of r.
func (f *flight) leg(r *run) (progress bool, err error) {
	f.mu.Lock()
	pos, end := r.pos, r.end
	if f.size >= 0 {
		end = min(end, f.size)
	}
	f.mu.Unlock()
	if pos >= end {
		return false, nil
	}
	want := Want{Off: pos, N: -1}
	if end != forever && (pos > 0 || end != f.sizeNow()) {
		want.N = end - pos
	}
	a, err := f.c.src.Open(f.ctx, f.ref, want)
	if err != nil {
		return false, err
	}
	if err := f.accept(r, a); err != nil {
		return false, joinClose(err, a.Body)
	}
	f.part.noteSize(f.sizeNow())
	n, err := f.pour(r, a)
	if f.handed() {
		return n > 0, err
	}
	return n > 0, joinClose(err, a.Body)
}

// handed reports whether an open answer waits for the stream that goes on.
func (f *flight) handed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.baton != nil
}

func joinClose(err error, body io.Closer) error {
	if e := body.Close(); err == nil {
		return e
	}
	return err
}

func (f *flight) sizeNow() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

// accept notes what the source said before its first byte.
func (f *flight) accept(r *run, a Answer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.Size >= 0 && f.size >= 0 && a.Size != f.size { // one of them is wrong: what is held proves nothing
		return corrupt(f.ref, "now has %d bytes, had %d", a.Size, f.size)
	}
	if a.Off > r.pos {
		return fmt.Errorf("%s: asked from byte %d on, answered from %d: %w", f.ref, r.pos, a.Off, ErrUnavailable)
	}
	if a.Size >= 0 && f.size < 0 {
		f.size = a.Size
	}
	if a.Off < r.pos {
		f.rigid, f.whole = true, true
	}
	if f.rigid && !r.main {
		return errEnough // the main run will come here
	}
	if f.rigid {
		r.end = forever // what is held beyond is fetched again, once, and not once for each gap
	}
	r.answered = true
	f.changed.fire()
	if f.size > f.c.disk.books.limit() && r.main && a.Off == r.pos {
		f.baton = &baton{Answer: a, pos: r.pos} // it will never fit: let it pass through
	}
	return nil
}

// pour writes what the source sends into the file, and returns how much of it was new.
func (f *flight) pour(r *run, a Answer) (n int64, err error) {
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	if f.handed() {
		return 0, errNoRoom
	}
	skip := r.pos - a.Off // where the source cannot skip
	for {
		m, err := a.Body.Read(buf[:])
		p := buf[:m]
		f.c.stats.fetched.Add(uint64(m))
		over := min(skip, int64(m))
		skip -= over
		if p = p[over:]; len(p) > 0 {
			w, e := f.put(r, p)
			n += w
			if e != nil {
				if errors.Is(e, errNoRoom) && r.main && err == nil {
					f.hand(&baton{Answer: a, pos: r.pos, rest: append([]byte(nil), p...)})
				}
				return n, e
			}
		}
		if err == io.EOF {
			return n, f.complete(r)
		}
		if err != nil {
			return n, err
		}
	}
}

// hand leaves an open answer to the stream that goes on.
func (f *flight) hand(b *baton) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.baton = b
}

// complete is the source's clean end: of the content, where its size was not known, or of the run.
func (f *flight) complete(r *run) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.size < 0 && r.end == forever {
		f.size = r.pos
		f.changed.fire()
	}
	if r.pos < min(r.end, f.size) {
		return fmt.Errorf("%s: ended at byte %d: %w", f.ref, r.pos, io.ErrUnexpectedEOF)
	}
	return nil
}

// put writes p, which is what comes next in r, and shows it to the readers.
func (f *flight) put(r *run, p []byte) (int64, error) {
	f.mu.Lock()
	end := r.end
	if f.size >= 0 {
		end = min(end, f.size)
	}
	f.mu.Unlock()
	if int64(len(p)) > end-r.pos {
		p = p[:max(0, end-r.pos)]
	}
	if err := f.part.write(p, r.pos); err != nil {
		if !errors.Is(err, errNoRoom) {
			f.c.disk.failed(err)
			err = fmt.Errorf("%w: %w", errNoRoom, err)
		}
		return 0, err
	}
	if r.open.n == 0 {
		r.open.off = r.pos
	}
	r.open.sum = crc32.Update(r.open.sum, castagnoli, p)
	r.open.n += int64(len(p))
	if r.open.n >= step {
		f.log(r)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	before := r.pos
	r.pos += int64(len(p))
	f.held.add(before, r.pos)
	f.changed.fire()
	if !f.whole && before/step != r.pos/step && !f.wanted(r.pos) {
		r.end = min(r.end, r.pos)
	}
	if r.pos >= r.end || r.pos == f.size {
		return int64(len(p)), errEnough
	}
	return int64(len(p)), nil
}

// wanted reports whether any reader is on its way to off. f.mu is held.
func (f *flight) wanted(off int64) bool {
	for r := range f.riders {
		if r.off <= off && off < r.end {
			return true
		}
	}
	return false
}

// log puts what r brought since the last time into the map.
func (f *flight) log(r *run) {
	if r.open.n == 0 {
		return
	}
	f.part.note(r.open)
	r.open = record{}
}
