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
	who      asked // who began it, and in whose name the source is asked
	ctx      context.Context
	stop     context.CancelFunc
	part     *partial // nil: no file is to be had
	runs     sync.WaitGroup
	prepared chan struct{} // closed when part is there, or is known not to be had
	over     chan struct{} // closed when a flight that did not land has left its file

	mu      sync.Mutex // taken after the cache's and a stream's
	moved   signal     // for those who follow the flight as such; riders are woken one by one
	size    int64      // -1: not known yet
	noted   bool       // the file's map knows the size
	held    spans
	claimed spans // held, or being written
	active  []*run
	riders  map[*rider]struct{}
	begun   Urgency            // of the one who began it
	direct  bool               // somebody aboard must not wait for another member
	way                        // that it comes, as far as is known
	senders map[string]bool    // who has sent of it: members, and "" for the registry or an earlier download
	keep    bool               // somebody aboard wants it kept here, whoever owns it
	ahead   bool               // nobody but those who fetch ahead was ever aboard
	granted map[asked]struct{} // the source said yes to these: they may have it, and once it is proven are linked to it
	whole   bool               // fetched to the end, whether somebody waits for it or not
	rigid   bool               // the source cannot skip, or fails at it: one run, from the front
	right   bool               // all of it is there and is what the digest names
	entry   *entry             // on the books, once it has landed
	err     error              // why it ended; unless it is corrupt, what is held may still be read
	tail    *checkpoint        // where the hash stopped; nil: it has not
	baton   *baton
}

// checkpoint is a hash of everything up to off, from which a reader can go on to prove what it gets elsewhere.
type checkpoint struct {
	off   int64
	state []byte // of a hash of the digest's algorithm
}

var (
	// errIdle ends a flight that nobody needs for now.
	errIdle = errors.New("nobody asks for more")
)

const (
	// linger is how long a flight with nothing to do stays open for the next range of a lazy reader.
	linger = time.Minute
	// hashChunk is read back at a time to be hashed; small enough to be still in the processor's cache.
	hashChunk = 256 << 10
)

// fire tells everybody that something changed, other than that bytes came. f.mu is held.
func (f *flight) fire() {
	f.moved.fire()
	for r := range f.riders {
		r.poke()
	}
}

// end notes the first reason for the flight to end. f.mu is held.
func (f *flight) end(err error) {
	if f.err == nil && !f.right {
		f.err = err
		f.fire()
	}
}

// full reports whether the flight ended for want of room. f.mu is held.
func (f *flight) full() bool { return errors.Is(f.err, ErrNoRoom) }

// dead reports whether the flight ended otherwise, so that who comes now must not share its fate. f.mu is held.
func (f *flight) dead() bool { return f.err != nil && !f.full() }

// cameBy is the way that it comes, as far as is known.
func (f *flight) cameBy() way {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.way
}

// isDirect reports whether somebody aboard must not wait for another member.
func (f *flight) isDirect() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.direct
}

// waits notes that r waits for another member, where that may be.
func (f *flight) waits(r *run, member string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.direct && member != "" {
		return false
	}
	r.via = member
	return true
}

// straighten has the flight asked for where no other member is waited for, because one of them has come aboard: it may
// be the very one that is waited for. What another member sends meanwhile, or is asked for, is given up; what it has
// sent stays. f.mu is held.
func (f *flight) straighten() {
	if f.direct {
		return
	}
	f.direct = true
	for _, r := range f.active {
		if r.turn != nil && r.via != "" {
			r.turn(errTurn)
		}
	}
}

// arrived is how many bytes are held.
func (f *flight) arrived() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held.total()
}

func (f *flight) sizeNow() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

// urgency is that of the most urgent reader; of a flight without readers, that of who began it.
func (f *flight) urgency() Urgency {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.riders) == 0 {
		return f.begun
	}
	most := Repair
	for r := range f.riders {
		most = min(most, r.urgency)
	}
	return most
}

// fly follows the front with the hash until the flight ends, and ends it.
func (f *flight) fly() {
	defer f.c.flying.Done()
	err := f.follow(f.key.digest.Hash())
	f.stop() // whatever is still being fetched, nobody needs it
	f.runs.Wait()
	if err == nil {
		f.land()
		return
	}
	if !errors.Is(err, errIdle) && !errors.Is(err, ErrNoRoom) && !errors.Is(err, ErrClosed) {
		f.c.log.Warn("download failed", zap.Stringer("ref", f.who.ref), zap.Int("readers", f.aboard()), zap.Error(err))
	}
	if errors.Is(err, ErrCorrupt) && !f.accuse() {
		f.c.doubts.add(f.key)
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNoRoom) {
		f.part.discard()
	} else {
		f.mu.Lock()
		held := f.held.total()
		f.mu.Unlock()
		f.part.park(held)
	}
	f.c.forget(f)
	f.unclaimed()
}

// accuse tells of who has sent something else, where that was one member alone, and reports whether somebody heard it.
func (f *flight) accuse() bool {
	f.mu.Lock()
	senders := f.senders
	f.mu.Unlock()
	for member := range senders {
		if len(senders) == 1 {
			return f.c.lied(f.who.ref.At(f.key.digest), member)
		}
	}
	return false
}

// lied tells who wants to know that a member has sent something else, and reports whether anybody does.
func (c *Cache) lied(ref Ref, member string) bool {
	if member == "" || c.o.Lied == nil {
		return false
	}
	c.o.Lied(ref, member)
	return true
}

func (f *flight) aboard() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.riders)
}

// follow hashes the front as it moves. It returns nil when the whole is there and is what the digest names.
func (f *flight) follow(h hash.Hash) error {
	var at int64
	buf := make([]byte, hashChunk)
	for {
		front, err := f.front(at)
		if front == at {
			return f.settle(at, h, err)
		}
		for at < front {
			n, err := f.part.file.ReadAt(buf[:min(hashChunk, front-at)], at)
			if n == 0 {
				return f.settle(at, h, fmt.Errorf("%w: read back: %w", ErrNoRoom, err))
			}
			h.Write(buf[:n])
			at += int64(n)
		}
	}
}

// front waits until bytes beyond at are held in one piece from the start and returns how far they go; at itself when
// there is nothing more to come, with the reason if that is not that all of it is there.
func (f *flight) front(at int64) (int64, error) {
	idle := time.NewTimer(linger)
	defer idle.Stop()
	for {
		f.mu.Lock()
		reach, size, err, busy := f.held.reach(0), f.size, f.err, f.busy()
		wait := f.moved.wait()
		f.mu.Unlock()
		switch {
		case errors.Is(err, ErrCorrupt):
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
			f.rest()
		case <-f.ctx.Done():
			return at, ErrClosed
		}
	}
}

// busy reports whether anybody needs the flight. f.mu is held.
func (f *flight) busy() bool { return f.whole || len(f.active)+len(f.riders) > 0 }

// rest ends a flight that nobody needs.
func (f *flight) rest() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.busy() {
		f.end(errIdle)
	}
}

// settle judges what h has seen, which is everything up to at. err is why there is no more.
func (f *flight) settle(at int64, h hash.Hash, err error) error {
	if err == nil && !f.key.digest.Matches(h) {
		f.c.stats.corrupt.Add(1)
		err = corrupt(f.who.ref, "%d bytes came that are something else", at)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tail = &checkpoint{off: at, state: snapshot(h)}
	f.err, f.right = err, err == nil
	f.fire()
	return err
}

// snapshot is the state of h.
func snapshot(h hash.Hash) []byte {
	b, _ := h.(encoding.BinaryMarshaler).MarshalBinary() // the standard hashes never fail
	return b
}

// resumeHash is a hash that goes on from a checkpoint.
func resumeHash(d Digest, at *checkpoint) hash.Hash {
	h := d.Hash()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(at.state); err != nil {
		panic(err) // our own snapshot, of the same algorithm
	}
	return h
}

// hashAt is the hash of everything up to off: of what the flight's own had seen when it ended, and of the rest in file.
// nil: it cannot be had.
func (f *flight) hashAt(off int64, file io.ReaderAt) hash.Hash {
	f.mu.Lock()
	tail := f.tail
	f.mu.Unlock()
	if tail == nil || tail.off > off || (tail.off < off && file == nil) {
		return nil
	}
	for range 2 { // a disk that failed once may well do it the next time
		h, gap := resumeHash(f.key.digest, tail), off-tail.off
		if gap == 0 {
			return h
		}
		if n, _ := io.Copy(h, io.NewSectionReader(file, tail.off, gap)); n == gap {
			return h
		}
	}
	return nil
}

// land hands the proven file to the disk tier. Readers are released first; between the flight and the disk there is
// no moment in which the content is in neither.
func (f *flight) land() {
	f.c.link(f)
	f.part.close()
	f.c.mu.Lock()
	f.mu.Lock()
	keeping := f.c.keeping(f.who.ref.At(f.key.digest), f.keep)
	f.entry = f.part.land(f.size, len(f.riders), keeping)
	f.c.stats.landed.Add(1) // before any reader knows
	f.fire()
	f.mu.Unlock()
	delete(f.c.flights, f.key)
	f.c.mu.Unlock()
	f.c.announce(f.who.ref.At(f.key.digest), Desc{Digest: f.key.digest, Size: f.size}, keeping)
}

// open opens the file for one reader, wherever it is by now.
func (f *flight) open() (File, error) {
	file, err := f.part.open()
	if err != nil {
		return f.c.disk.fs.OpenFile(f.c.disk.path(slot{digest: f.key.digest}), os.O_RDONLY, 0)
	}
	return file, nil
}

// baton is an open answer that a flight without room leaves to the stream that goes on: nothing is asked twice.
type baton struct {
	Answer
	pos    int64  // of what the body brings next, after rest
	rest   []byte // read already, not written
	toEnd  bool   // it goes to the end of the content
	cancel context.CancelFunc
}

// Close gives the answer up.
func (b *baton) Close() error {
	defer b.cancel()
	return b.Body.Close()
}

// hand leaves an open answer to the stream that goes on.
func (f *flight) hand(b *baton) {
	f.mu.Lock()
	old := f.baton
	f.baton = b
	f.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

// yield is what a stream from pos on needs of a flight that ended for want of room: its open answer, if that fits.
func (f *flight) yield(pos int64) (b *baton) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.baton != nil && f.baton.pos == pos {
		b, f.baton = f.baton, nil
	}
	return b
}

// unclaimed gives up the open answer when nobody is left to take it.
func (f *flight) unclaimed() {
	f.mu.Lock()
	var b *baton
	if len(f.riders) == 0 {
		b, f.baton = f.baton, nil
	}
	f.mu.Unlock()
	if b != nil {
		_ = b.Close()
	}
}
