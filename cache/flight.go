package cache

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// flightKey is what a flight is known by: what one registry sends proves nothing of another's.
type flightKey struct {
	registry string
	digest   Digest
}

// flight is one download of one blob. Runs write into its file, wherever somebody needs bytes and nobody fetches them
// yet, each byte once; readers ("riders") follow in the same file as if it were whole; a hash follows the front. When
// it has seen the last byte, the file lands or everybody is cut off. A flight belongs to the cache and not to the one
// who began it: it ends when it has landed, when its source is beyond recovery, or when the process stops.
type flight struct {
	c        *Cache
	key      flightKey
	ref      Ref // as its beginner asked
	ctx      context.Context
	stop     context.CancelFunc
	part     *partial
	runs     sync.WaitGroup
	prepared chan struct{} // closed when part is there, or is known not to be had
	over     chan struct{} // closed when the flight has ended and left its file

	mu      sync.Mutex
	changed signal
	size    int64 // -1: not known yet
	held    spans
	active  []*run
	riders  map[*rider]struct{}
	granted map[Ref]struct{} // who may have it once it is proven
	whole   bool             // fetched to the end, whether somebody waits for it or not
	rigid   bool             // the source cannot skip: one run, from the front
	proven  bool
	entry   *entry // on the books, once landed
	err     error  // why it ended; errNoRoom: what is held may still be read, the rest comes by a stream
	tail    checkpoint
	baton   *baton
}

// checkpoint is a hash of everything up to off, so that another download can be proven from there on.
type checkpoint struct {
	off   int64
	state []byte // of a hash of the digest's algorithm; nil: a new one, and off is 0
}

// rider is one reader of a flight: what it is at, how far it wants to read, and whether it reads the whole, which is
// shown to its end only when that is proven.
type rider struct {
	off, end int64
	whole    bool
}

// errNoRoom ends a flight whose bytes cannot be written.
var errNoRoom = errors.New("no room on disk")

const (
	// holdback is what is kept from whole readers until the digest is proven. Of a blob of unknown length the end is
	// not known before it is there, so this much is always kept back.
	holdback = 64 << 10
	// lead is how far behind a reader's place a run may be for the reader to wait for it: at 100 MB/s a tenth of a
	// second, about what a request of its own would take.
	lead = 8 << 20
	// step is how often a run that only serves ranges looks whether anybody still wants more.
	step = 1 << 20
	// mostRuns bounds the requests of one flight at a time. Clients that fetch in parallel use 3 to 8.
	mostRuns = 16
	// linger is how long a flight with nothing to do stays open for the next range of a lazy reader.
	linger = time.Minute
	// hashChunk is read back at a time to be hashed; small enough to be still in the processor's cache.
	hashChunk = 256 << 10
)

// board adds a reader and waits until the source has answered for its first byte, or refused.
func (f *flight) board(ctx context.Context, ref Ref, want Want) (*rider, error) {
	r := &rider{off: want.Off, end: forever, whole: want.Off == 0 && want.N < 0}
	if want.N >= 0 {
		r.end = want.Off + want.N
	}
	f.mu.Lock()
	f.riders[r] = struct{}{}
	f.granted[ref] = struct{}{}
	for {
		if f.err != nil && !errors.Is(f.err, errNoRoom) {
			delete(f.riders, r)
			defer f.mu.Unlock()
			return nil, f.err
		}
		if f.answered(r) {
			f.mu.Unlock()
			return r, nil
		}
		f.cover(r)
		wait := f.changed.wait()
		f.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			f.leave(r)
			return nil, ctx.Err()
		}
		f.mu.Lock()
	}
}

// answered reports whether the source has said yes for r's first byte. f.mu is held.
func (f *flight) answered(r *rider) bool {
	if f.proven || f.err != nil || f.held.reach(r.off) > r.off {
		return true
	}
	for _, run := range f.active {
		if run.answered && (f.rigid || run.pos <= r.off) {
			return true
		}
	}
	return false
}

// leave removes a reader; the flight goes on without it.
func (f *flight) leave(r *rider) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, aboard := f.riders[r]; !aboard {
		return
	}
	delete(f.riders, r)
	if f.entry != nil {
		f.c.disk.books.closed(f.entry)
	}
	f.changed.fire()
}

// ready waits until bytes from r.off on may be shown to r, and returns how many; io.EOF at the end.
func (f *flight) ready(ctx context.Context, r *rider) (int64, error) {
	for {
		f.mu.Lock()
		n, err := f.shown(r)
		if n > 0 || err != nil {
			f.mu.Unlock()
			return n, err
		}
		f.cover(r)
		wait := f.changed.wait()
		f.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// shown is how many bytes from r.off on r may have now. f.mu is held.
func (f *flight) shown(r *rider) (int64, error) {
	if f.err != nil && !errors.Is(f.err, errNoRoom) {
		return 0, f.err
	}
	to := f.held.reach(r.off)
	switch {
	case f.proven:
		to = f.size
	case r.whole && f.size >= 0:
		to = min(to, f.size-min(holdback, f.size))
	case r.whole:
		to -= holdback
	case f.c.o.ProvenRanges:
		to = r.off
	}
	if to = min(to, r.end); to > r.off {
		return to - r.off, nil
	}
	if f.err != nil {
		return 0, f.err
	}
	if f.size >= 0 && r.off >= f.size && (f.proven || !r.whole) {
		return 0, io.EOF
	}
	return 0, nil
}

// cover sees to it that somebody fetches what r waits for. f.mu is held.
func (f *flight) cover(r *rider) {
	if f.proven || f.err != nil {
		return
	}
	if r.whole || f.rigid || f.c.o.Fill == FillWhole || f.c.o.ProvenRanges {
		f.whole = true
	}
	f.advance()
	if r.whole || f.rigid {
		return
	}
	end := f.held.next(r.off)
	if end == r.off || len(f.active) >= mostRuns {
		return
	}
	var behind *run
	for _, run := range f.active {
		switch {
		case run.pos > r.off:
			end = min(end, run.pos)
		case r.off < run.end && r.off-run.pos <= lead:
			return // it will be here soon
		case r.off < run.end:
			behind = run
		}
	}
	if behind != nil {
		end = min(end, behind.end)
		behind.end = r.off // who comes from behind ends where this one begins
	}
	if !f.whole {
		end = min(end, r.end)
	}
	f.take(&run{pos: r.off, end: end})
}

// advance sees to it that the first byte that nobody fetches is fetched, if all of them are to be. f.mu is held.
func (f *flight) advance() {
	if f.c.o.Fill == FillAuto && f.size > 0 && f.held.total() > f.size/2 {
		f.whole = true
	}
	if !f.whole || f.proven || f.err != nil {
		return
	}
	at := f.held.reach(0)
	for moved := true; moved; {
		moved = false
		for _, run := range f.active {
			if run.main {
				return
			}
			if run.pos <= at && at < run.end {
				at, moved = f.held.reach(run.end), true
			}
		}
	}
	if at == forever || (f.size >= 0 && at >= f.size) {
		return
	}
	end := f.held.next(at)
	for _, run := range f.active {
		if run.pos >= at {
			end = min(end, run.pos)
		}
	}
	if f.rigid {
		end = forever
	}
	f.take(&run{pos: at, end: end, main: true})
}

// take starts a run. f.mu is held.
func (f *flight) take(r *run) {
	f.active = append(f.active, r)
	f.runs.Add(1)
	go f.fetch(r)
}

// end notes the first reason for the flight to end. f.mu is held.
func (f *flight) end(err error) {
	if f.err == nil && !f.proven {
		f.err = err
		f.changed.fire()
	}
}

// fly follows the front with the hash until the flight ends, and ends it.
func (f *flight) fly() {
	defer f.c.flying.Done()
	defer f.stop()
	h := f.key.digest.Hash()
	err := f.follow(h)
	switch {
	case err == nil:
		f.land()
		return
	case errors.Is(err, errNoRoom), errors.Is(err, errIdle), f.ctx.Err() != nil:
	default:
		f.c.log.Warn("download failed", zap.Stringer("ref", f.ref), zap.Int("readers", f.aboard()), zap.Error(err))
	}
	if !f.handed() {
		f.stop()
	}
	f.runs.Wait()
	f.mu.Lock()
	held := f.held.total()
	f.mu.Unlock()
	if errors.Is(err, ErrCorrupt) || errors.Is(err, errNoRoom) {
		f.part.discard()
	} else {
		f.part.park(held)
	}
	f.c.forget(f)
}

func (f *flight) aboard() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.riders)
}

// errIdle ends a flight that nobody needs for now.
var errIdle = errors.New("nobody asks for more")

// follow hashes the front as it moves. It returns nil when the whole is there and is what the digest names.
func (f *flight) follow(h hash.Hash) error {
	var at int64
	buf := make([]byte, hashChunk)
	for {
		front, err := f.front(at)
		if front == at {
			if err == nil && !f.key.digest.Matches(h) {
				f.c.stats.corrupt.Add(1)
				err = corrupt(f.ref, "%d bytes came that are something else", at)
			}
			f.mu.Lock()
			f.tail = checkpoint{off: at, state: snapshot(h)}
			if err != nil {
				f.err = err
				f.changed.fire()
			}
			f.mu.Unlock()
			return err
		}
		for at < front {
			n, err := f.part.file.ReadAt(buf[:min(hashChunk, front-at)], at)
			if n == 0 {
				err = fmt.Errorf("%w: read back: %w", errNoRoom, err)
				f.mu.Lock()
				f.tail = checkpoint{off: at, state: snapshot(h)}
				f.end(err)
				f.mu.Unlock()
				return err
			}
			h.Write(buf[:n])
			at += int64(n)
		}
	}
}

// snapshot is the state of h.
func snapshot(h hash.Hash) []byte {
	b, _ := h.(encoding.BinaryMarshaler).MarshalBinary() // the standard hashes never fail
	return b
}

// resumeHash is a hash that goes on from a checkpoint.
func resumeHash(d Digest, at checkpoint) hash.Hash {
	h := d.Hash()
	if at.state != nil {
		if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(at.state); err != nil {
			panic(err) // our own snapshot, of the same algorithm
		}
	}
	return h
}

// front waits until bytes beyond at are held in one piece from the start and returns how far they go; at itself when
// there is nothing more to come, with the reason if that is not that all of it is there.
func (f *flight) front(at int64) (int64, error) {
	idle := time.NewTimer(linger)
	defer idle.Stop()
	for {
		f.mu.Lock()
		reach, size, err := f.held.reach(0), f.size, f.err
		busy := f.whole || len(f.active) > 0 || len(f.riders) > 0
		wait := f.changed.wait()
		f.mu.Unlock()
		switch {
		case err != nil && !errors.Is(err, errNoRoom):
			return at, err
		case reach > at:
			return reach, nil
		case size == at:
			return at, nil
		case err != nil:
			return at, err
		}
		if busy {
			idle.Reset(linger)
		}
		select {
		case <-wait:
		case <-idle.C:
			if !busy {
				return at, errIdle
			}
		case <-f.ctx.Done():
			return at, ErrClosed
		}
	}
}

// land hands the proven file to the disk tier. Readers are released first; between the flight and the disk there is
// no moment in which the content is in neither.
func (f *flight) land() {
	f.runs.Wait()
	f.c.link(f)
	f.part.close()
	f.c.mu.Lock()
	f.mu.Lock()
	f.entry = f.part.land(f.size, len(f.riders))
	f.proven = true
	f.changed.fire()
	f.mu.Unlock()
	delete(f.c.flights, f.key)
	f.c.mu.Unlock()
	f.c.stats.landed.Add(1)
}

// open opens the file for one reader, wherever it is by now.
func (f *flight) open() (File, error) {
	file, err := f.part.open()
	if err != nil {
		return f.c.disk.fs.OpenFile(f.c.disk.path(slot{digest: f.key.digest}), os.O_RDONLY, 0)
	}
	return file, nil
}

// moved notes that r has read n bytes.
func (f *flight) moved(r *rider, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.off += n
}

// yield is what a stream needs to go on where the flight ended. The open answer goes to the first who comes.
func (f *flight) yield() (at checkpoint, b *baton, size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, f.baton = f.baton, nil
	return f.tail, b, f.size
}

// prove waits until everything is there and proven.
func (f *flight) prove(ctx context.Context, r *rider) error {
	for {
		f.mu.Lock()
		proven, err := f.proven, f.err
		f.cover(r)
		wait := f.changed.wait()
		f.mu.Unlock()
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
