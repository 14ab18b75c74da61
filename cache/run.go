package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// run is one piece of a flight, fetched from front to end: from pos up to end, which moves nearer when another run
// takes the rest over.
type run struct {
	pos, end int64 // guarded by the flight's mutex
	main     bool  // it moves the front
	whole    bool  // its last request was for everything
	answered bool
	via      string                  // the member that is asked, or sends; "": none
	turn     context.CancelCauseFunc // has the rest asked for anew; nil: nothing is asked for

	open record // what is held but not yet in the map
}

const (
	// tries is how often a source is asked that has sent nothing yet: its clients wait for a word. One that breaks off
	// in the middle is asked more often, for some 12 seconds in all: about as long as a registry takes to restart.
	tries, moreTries = 4, 7
	// firstPause and longestPause bound the wait between them; a hub that asks for more than the latter is told to
	// the clients instead.
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
	// enough is what a request must bring to count as a success: else a source could have itself asked for each byte.
	enough = 64 << 10
	// pieceSize passes through user space at a time.
	pieceSize = 128 << 10
	// readSize is what a flight reads from the network at a time, if so much is there: a tenth faster than a quarter of it,
	// for half a MiB of memory for each download under way, of which there are at most some hundreds.
	readSize = 512 << 10
	// tlsRecord is the most that TLS gives at a time; whoever gives less has no more now. prompt is how long it takes where
	// more is there already: to wait for the network takes longer.
	tlsRecord = 16 << 10
	prompt    = time.Millisecond
)

var (
	pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}
	reads  = sync.Pool{New: func() any { return new([readSize]byte) }}
)

// errTurn ends a leg whose rest is to come another way.
var errTurn = errors.New("another way")

// errEnough ends a leg at the end of its run.
var errEnough = errors.New("the run is over")

// fetch brings a run to its end, with as many requests as it takes.
func (f *flight) fetch(r *run) {
	defer f.runs.Done()
	err := again(f.ctx, func() (int64, error) { return f.legs(r) })
	f.log(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active = slices.DeleteFunc(f.active, func(a *run) bool { return a == r })
	switch {
	case err == nil || errors.Is(err, errEnough):
	case f.dispensable(r, err):
		f.rigid, f.whole = true, true
	default:
		f.end(err)
	}
	f.advance()
	f.fire()
}

// dispensable reports whether the flight can go on although r failed: there are sources that break over ranges, and
// the front needs none. f.mu is held.
func (f *flight) dispensable(r *run, err error) bool {
	switch {
	case f.ctx.Err() != nil || errors.Is(err, ErrNoRoom):
		return false
	case final(err):
		return !r.main && slices.ContainsFunc(f.active, func(a *run) bool { return a.main && a.answered })
	default:
		return !r.whole
	}
}

// again calls leg until it succeeds, fails for good, or has failed several times without bringing much.
func again(ctx context.Context, leg func() (got int64, err error)) error {
	gap, most := firstPause, tries
	for n := 1; ; n++ {
		got, err := leg()
		if got >= enough {
			n, gap, most = 0, firstPause, moreTries
		}
		switch {
		case err == nil || errors.Is(err, errEnough) || errors.Is(err, ErrNoRoom):
			return err
		case ctx.Err() != nil:
			return ErrClosed
		}
		wait := gap/2 + rand.N(gap)
		longer, hope := patienceWith(err, most > tries)
		if !hope || n >= most {
			return err
		}
		wait = max(wait, longer)
		gap = min(2*gap, longestPause)
		pause(ctx, wait)
	}
}

// patienceWith is how long a source wants to be left alone after err; no hope: asking it again changes nothing, or not
// soon enough. What has brought something, and has clients in the middle of it, waits where others do not begin to.
func patienceWith(err error, underWay bool) (wait time.Duration, hope bool) {
	var limit *LimitedError
	var outage *OutageError
	switch {
	case errors.As(err, &limit) && (underWay || !limit.Until.IsZero()):
		wait = time.Until(limit.Until)
		return wait, wait < longestPause
	case errors.As(err, &outage):
		wait = time.Until(outage.Until)
		return wait, underWay && wait < longestPause
	}
	return 0, !final(err)
}

// legs is leg, and the one after it where it was turned.
func (f *flight) legs(r *run) (int64, error) {
	got, err := f.leg(r)
	if errors.Is(err, errTurn) { // once in a flight
		more, err := f.leg(r)
		return got + more, err
	}
	return got, err
}

// leg makes one request for what is left of r, and returns how many bytes it brought.
func (f *flight) leg(r *run) (got int64, err error) {
	want := f.request(r)
	if want.N == 0 {
		return 0, nil
	}
	// The answer may outlive the flight: see hand.
	ctx, turn := context.WithCancelCause(context.WithoutCancel(f.ctx))
	cancel := func() { turn(nil) }
	untie := context.AfterFunc(f.ctx, cancel)
	defer f.turned(ctx, r, &err)
	f.turnable(r, turn)
	ctx = withWait(ctx, func(member string) bool { return f.waits(r, member) })
	a, err := f.c.src.Open(ctx, f.who.ref, want)
	if err != nil {
		untie()
		cancel()
		return 0, err
	}
	b := &baton{Answer: a, pos: r.pos, toEnd: want.N < 0 || a.Off < want.Off, cancel: cancel}
	over := false
	if err = f.accept(r, a); err == nil {
		f.noteSize()
		got, over, err = f.pour(r, b)
		f.noteSize()
	}
	if tied := !untie(); errors.Is(err, ErrNoRoom) && b.toEnd && !over && !tied {
		f.hand(b)
		return got, err
	}
	if e := b.Close(); err == nil {
		err = e
	}
	return got, err
}

// turnable says how the request that r makes now is given up for another way.
func (f *flight) turnable(r *run, turn context.CancelCauseFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.turn, r.via = turn, ""
}

// turned makes *err errTurn where that is why the request ended.
func (f *flight) turned(ctx context.Context, r *run, err *error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.turn, r.answered = nil, r.answered && *err == nil; *err != nil && errors.Is(context.Cause(ctx), errTurn) {
		*err = errTurn
	}
}

// request is what is left of r; N is 0 where that is nothing.
func (f *flight) request(r *run) Want {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := r.end
	if f.size >= 0 {
		end = min(end, f.size)
	}
	r.whole = false
	switch {
	case r.pos >= end:
		return Want{}
	case f.rigid || r.pos == 0 && (end == forever || end == f.size):
		r.whole = true
		return Whole
	case end == forever:
		return Want{Off: r.pos, N: -1}
	default:
		return Want{Off: r.pos, N: end - r.pos}
	}
}

// resized says that a source changed its mind: one of the two sizes is wrong, and so what is held proves nothing.
func resized(ref Ref, now, before int64) error {
	return corrupt(ref, "has %d bytes, was said to have %d", now, before)
}

// accept notes what the source said before its first byte.
func (f *flight) accept(r *run, a Answer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case a.Size >= 0 && f.size >= 0 && a.Size != f.size:
		return resized(f.who.ref, a.Size, f.size)
	case a.Size >= 0 && a.Size < f.held.end():
		return resized(f.who.ref, a.Size, f.held.end())
	case a.Off > r.pos:
		return fmt.Errorf("%s: asked from byte %d on, answered from %d: %w", f.who.ref, r.pos, a.Off, ErrUnavailable)
	}
	defer f.fire()
	r.via, f.way = a.Via, wayOf(a)
	f.senders[a.Via] = true
	f.granted[f.who] = struct{}{}
	f.size = max(f.size, a.Size)
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
	if f.size > f.c.disk.books.limit() && r.main && a.Off == r.pos {
		return ErrNoRoom // it will never fit: let it pass through
	}
	return nil
}

// noteSize writes the size into the file's map as soon as it is known.
func (f *flight) noteSize() {
	f.mu.Lock()
	size, news := f.size, f.size >= 0 && !f.noted
	f.noted = f.noted || news
	f.mu.Unlock()
	if news {
		f.part.noteSize(size)
	}
}

// pour writes what the source sends into the file. It returns how much of it was new, and whether the body is over.
func (f *flight) pour(r *run, b *baton) (got int64, over bool, err error) {
	buf := reads.Get().(*[readSize]byte)
	defer reads.Put(buf)
	skip := r.pos - b.Off // where the source cannot skip
	for {
		n, err := fill(b.Body, buf[:readSize-r.pos%readSize], got > 0)
		f.c.stats.fetched.Add(uint64(n))
		past := min(skip, int64(n))
		skip -= past
		before := r.pos
		new, e := f.put(r, buf[past:n])
		got += new
		switch {
		case errors.Is(e, ErrNoRoom):
			b.pos, b.rest = r.pos, bytes.Clone(buf[past+r.pos-before:n])
			return got, err != nil, e
		case e != nil:
			return got, err != nil, e
		case err == io.EOF:
			return got, true, f.complete(r, b.toEnd, r.pos-skip)
		case err != nil:
			return got, true, err
		}
	}
}

// fill reads what comes next and, where many is true, as much after it as comes as fast as it is read, up to a piece: TLS
// gives one record at a time, and to write each and wake its readers costs more than to decipher it. What comes slowly is
// not held back; of what suddenly stands still, less than a piece is.
func fill(body io.Reader, buf []byte, many bool) (n int, err error) {
	for began := time.Now(); ; {
		m, err := body.Read(buf[n:])
		n += m
		now := time.Now()
		if err != nil || !many || m < tlsRecord || n >= pieceSize || n == len(buf) || now.Sub(began) > prompt {
			return n, err
		}
		began = now
	}
}

// complete is the source's clean end of an answer, at a byte. Of one that went as far as it could, this is the end of the
// content, which may not have been known.
func (f *flight) complete(r *run, toEnd bool, at int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.size < 0 && toEnd && at >= f.held.end() {
		f.size = at
		f.fire()
	}
	if f.size >= 0 && r.pos >= f.size || r.pos >= r.end {
		return nil
	}
	return fmt.Errorf("%s: ended at byte %d: %w", f.who.ref, at, io.ErrUnexpectedEOF)
}

// put writes p, which is what comes next in r, and shows it to the readers. It returns how much of it was new.
func (f *flight) put(r *run, p []byte) (got int64, err error) {
	for {
		n, mine := f.claim(r, int64(len(p)))
		if n < 0 {
			return got, errEnough
		}
		if len(p) == 0 {
			return got, nil
		}
		if mine {
			if err := f.write(r, p[:n]); err != nil {
				return got, err
			}
			got += n
		}
		f.pass(r, n, mine)
		p = p[n:]
	}
}

// claim is how many of the next n bytes of r are alike, and whether they are r's to write: bytes are written once, so
// that what a reader was shown is what is hashed. n is negative when r is over.
func (f *flight) claim(r *run, n int64) (_ int64, mine bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := r.end
	if f.size >= 0 {
		end = min(end, f.size)
	}
	if r.pos >= end || errors.Is(f.err, errIdle) {
		return -1, false
	}
	n = min(n, end-r.pos)
	if to := f.claimed.reach(r.pos); to > r.pos {
		return min(n, to-r.pos), false
	}
	n = min(n, f.claimed.next(r.pos)-r.pos)
	f.claimed.add(r.pos, r.pos+n)
	return n, true
}

func (f *flight) write(r *run, p []byte) error {
	if err := f.part.write(p, r.pos); errors.Is(err, ErrNoRoom) {
		return err
	} else if err != nil {
		f.c.disk.failed(err)
		return fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	if r.open.off+r.open.n != r.pos {
		f.log(r)
		r.open.off = r.pos
	}
	r.open.sum = crc32.Update(r.open.sum, castagnoli, p)
	r.open.n += int64(len(p))
	if r.open.n >= step {
		f.log(r)
	}
	return nil
}

// pass moves r over n bytes, which it may just have written.
func (f *flight) pass(r *run, n int64, wrote bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := r.pos
	r.pos += n
	if wrote {
		f.held.add(before, r.pos)
		f.show()
	}
	if !f.whole && before/step != r.pos/step && !f.wanted(r.pos) {
		r.end = min(r.end, r.pos)
	}
}

// log puts what r brought since the last time into the map.
func (f *flight) log(r *run) {
	if r.open.n > 0 {
		f.part.note(r.open)
		r.open = record{off: r.open.off + r.open.n}
	}
}
