package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Blob is one thing, open for reading by one reader, with a file descriptor of its own. Manifests and lists are always
// whole in memory and proven when Open returns them.
type Blob struct {
	Found
	c      *Cache
	ref    Ref
	caller Caller
	rider  *rider
	own    hash.Hash // of all that a reader of the whole was shown, where no flight proves that for it; else nil

	// Where the bytes come from, one at a time; none: it must be found anew.
	data []byte // the whole, in memory
	held *held  // the whole, on disk
	ride        // what is arriving
}

// ride is a reader's place in what is arriving.
type ride struct {
	flight  *flight
	stream  *stream
	file    File // the flight's, with a place of its own
	misread bool // it failed just now
	allowed bool // the source said yes to this reader, so that it may change over to another's stream
}

func (b *Blob) who() asked { return asked{b.ref, b.caller} }

// Bytes is the whole content where it is in memory, as manifests and lists always are; else nil. Not to be changed.
func (b *Blob) Bytes() []byte { return b.data }

// Close releases the reader's hold. A download goes on without its readers.
func (b *Blob) Close() error {
	b.leave()
	if b.held == nil {
		return nil
	}
	err := b.held.Close()
	b.held = nil
	return err
}

// leave takes the reader off what is arriving.
func (b *Blob) leave() {
	if b.file != nil {
		_ = b.file.Close()
	}
	if b.flight != nil {
		b.flight.leave(b.rider)
	}
	if b.stream != nil {
		b.stream.leave(b.rider)
	}
	b.ride = ride{allowed: b.allowed}
}

// SendRange writes the n bytes from off on to w; n < 0: to the end. It is the one path for hits, for what is still
// arriving, and for ranges of both. It goes in stretches of at most 16 MiB, each of which renews w's write deadline
// where w has a SetWriteDeadline; a stretch of a file goes out by sendfile where w has a ReadFrom that knows how.
// Any error after the first byte means that the answer must be torn down, never ended. Bytes that turn out not to be
// what the digest names are never sent to the end: then the error is ErrCorrupt. A range that is not within the
// content is io.ErrUnexpectedEOF.
func (b *Blob) SendRange(ctx context.Context, w io.Writer, off, n int64) error {
	if err := b.learnSize(); err != nil {
		return err
	}
	if off < 0 || b.Size >= 0 && (off > b.Size || n > b.Size-off) {
		return fmt.Errorf("%s: %d bytes from %d on, of %d: %w", b.ref, n, off, b.Size, io.ErrUnexpectedEOF)
	}
	b.place(ctx, off, n)
	out := &outlet{w: w, ctx: ctx}
	defer func() {
		out.done()
		b.c.stats.sent.Add(uint64(out.sent))
	}()
	return b.send(ctx, out)
}

// place sets where the reader is and how far it wants to go.
func (b *Blob) place(ctx context.Context, off, n int64) {
	// Who reads the whole has no end of its own: the content's end is where it is proven.
	whole := off == 0 && (n < 0 || n == b.Size)
	if whole {
		n = -1
	}
	r := newRider(off, n, b.Size, whole)
	r.urgency, r.direct, r.keep = UrgencyOf(ctx), DirectOf(ctx), KeepOf(ctx)
	switch {
	case b.flight != nil:
		b.flight.replace(b.rider, r)
	case b.stream != nil && b.rider.off == off && b.rider.whole == whole && r.end <= b.stream.end:
		b.stream.replace(b.rider, r)
	case b.stream != nil: // its window may be elsewhere
		b.leave()
	}
	b.rider, b.own = r, nil
	if whole && b.stream != nil {
		b.own = b.ref.Digest.Hash()
	}
}

// send sends everything that the reader is to have, from wherever it comes.
func (b *Blob) send(ctx context.Context, out *outlet) error {
	for r := b.rider; r.whole || r.off < r.end; {
		err := b.more(ctx, out)
		switch {
		case err == io.EOF && b.own != nil && !b.ref.Digest.Matches(b.own):
			return corrupt(b.ref, "%d bytes came that are something else", r.off)
		case err == io.EOF && (r.whole || r.end == forever || r.off == r.end):
			return nil
		case err == io.EOF:
			return fmt.Errorf("%s: the content ended at byte %d: %w", b.ref, r.off, io.ErrUnexpectedEOF)
		case err != nil:
			return err
		}
	}
	return nil
}

// more sends the next stretch; io.EOF at the end.
func (b *Blob) more(ctx context.Context, out *outlet) error {
	switch {
	case b.data != nil:
		return b.fromMemory(out)
	case b.held != nil:
		return b.fromDisk(out)
	case b.stream != nil:
		return b.fromStream(ctx, out)
	case b.flight != nil:
		return b.fromFlight(ctx, out)
	default:
		return b.embark(ctx)
	}
}

// embark looks for a download anew.
func (b *Blob) embark(ctx context.Context) error {
	if b.rider.off == 0 {
		b.own = nil // whatever comes now proves all of it
	}
	return b.c.embark(ctx, b, b.rider, false)
}

func (b *Blob) fromMemory(out *outlet) error {
	r := b.rider
	before := out.sent
	err := b.pass(out, b.data[r.off:min(r.end, int64(len(b.data)))], true)
	if r.off += out.sent - before; err == nil {
		err = io.EOF
	}
	return err
}

// fromDisk sends the rest. Where the disk fails, the source goes on: what was sent so far had been proven, or was part
// of a range.
func (b *Blob) fromDisk(out *outlet) error {
	r := b.rider
	before := out.sent
	var err error
	if n := min(r.end, b.held.size) - r.off; b.own != nil {
		err = b.passFile(out, b.held, r.off, n, true)
	} else {
		err = b.sendHeld(out, r.off, n)
	}
	r.off += out.sent - before
	var rot *rotten
	switch {
	case err == nil:
		return io.EOF
	case errors.As(err, &rot):
		return b.rotted(err)
	default:
		return err
	}
}

// pass sends p. A reader that proves by itself hashes it, and does not send the last of it unless all was right.
func (b *Blob) pass(out *outlet, p []byte, last bool) error {
	if b.own != nil {
		b.own.Write(p)
	}
	if last && b.own != nil && !b.ref.Digest.Matches(b.own) {
		b.c.stats.corrupt.Add(1)
		return corrupt(b.ref, "what came before was something else")
	}
	return out.bytes(p)
}

// passFile is pass for n bytes of f from off on.
func (b *Blob) passFile(out *outlet, f io.ReaderAt, off, n int64, last bool) error {
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	for n > 0 {
		m, err := f.ReadAt(buf[:min(n, pieceSize)], off)
		if m == 0 {
			return &rotten{err}
		}
		off, n = off+int64(m), n-int64(m)
		if err := b.pass(out, buf[:m], last && n == 0); err != nil {
			return err
		}
	}
	return nil
}

// rotted lets go of a file that cannot be read.
func (b *Blob) rotted(err error) error {
	b.c.disk.bad(b.held.entry, err)
	_ = b.held.Close()
	b.held = nil
	return nil
}

// rotten is a file that cannot be read to its end.
type rotten struct{ err error }

func (r *rotten) Error() string { return "read from disk: " + r.err.Error() }
func (r *rotten) Unwrap() error { return r.err }

func (b *Blob) fromFlight(ctx context.Context, out *outlet) error {
	f, r := b.flight, b.rider
	n, err := f.ready(ctx, r)
	if errors.Is(err, ErrNoRoom) {
		return b.divert(ctx)
	}
	if err != nil {
		return b.elsewhere(err, f.who)
	}
	if b.file == nil {
		if b.file, err = f.open(); err != nil {
			return b.divert(ctx)
		}
	}
	before := out.sent // a stretch at a time: it may turn out wrong while it is being read
	if b.own == nil {
		_, err = out.some(b.file, r.off, n)
	} else {
		n = min(n, pieceSize)
		err = b.passFile(out, b.file, r.off, n, r.off+n == f.sizeNow())
	}
	f.advanced(r, out.sent-before)
	var rot *rotten
	if !errors.As(err, &rot) {
		b.misread = false
		return err
	}
	_ = b.file.Close()
	if b.file = nil; b.misread {
		return b.divert(ctx)
	}
	b.misread = true // a disk that failed once may well do it the next time
	return nil
}

// elsewhere judges why what was arriving, asked for in another's name, ended: if that is nothing to this reader, it
// looks for a download of its own.
func (b *Blob) elsewhere(err error, asked asked) error {
	if !errors.Is(theirs(err, asked, b.who()), errAgain) {
		return err
	}
	if err := b.carryOn(); err != nil {
		return err
	}
	b.leave()
	return nil
}

// carryOn has a reader of the whole that leaves a flight in the middle prove by itself what it was shown there.
func (b *Blob) carryOn() error {
	r := b.rider
	if b.flight == nil || !r.whole || r.off == 0 || b.own != nil {
		return nil
	}
	if b.own = b.flight.hashAt(r.off, b.file); b.own == nil {
		return b.cutOff()
	}
	return nil
}

// cutOff is the end of a reader whose beginning nobody can prove.
func (b *Blob) cutOff() error {
	return fmt.Errorf("%s: broke off at byte %d, and the rest could not be proven: %w", b.ref, b.rider.off, ErrUnavailable)
}

// Arrived is how many bytes of the content are here, now.
func (b *Blob) Arrived() int64 {
	switch {
	case b.data != nil || b.held != nil:
		return b.Size
	case b.flight != nil:
		return b.flight.arrived()
	}
	return 0
}

// divert goes on by a stream, from the reader's place. What is fetched ahead is of no use where it cannot be kept.
func (b *Blob) divert(ctx context.Context) error {
	if UrgencyOf(ctx) >= Warming {
		return fmt.Errorf("%s: %w", b.ref, ErrNoRoom)
	}
	f, after := b.flight, b.flight
	if !f.isFull() {
		after = nil
	}
	if err := b.carryOn(); err != nil {
		return err
	}
	s, err := b.c.hail(ctx, b, f.sizeNow(), after)
	if err == nil {
		b.leave()
		b.stream = s
	}
	return err
}

func (b *Blob) fromStream(ctx context.Context, out *outlet) error {
	s, r := b.stream, b.rider
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	n, last, err := s.read(ctx, r, buf[:])
	switch {
	case errors.Is(err, errOut):
		b.leave()
		b.stream, err = b.c.hail(ctx, b, s.sizeNow(), nil)
		return err
	case err == io.EOF && b.own != nil:
		return cmp.Or(s.judge(r, b.own), err)
	case err != nil:
		return b.elsewhere(err, s.who)
	}
	if b.own != nil {
		b.own.Write(buf[:n])
		if last {
			err = s.judge(r, b.own)
		}
	}
	if err == nil {
		err = out.bytes(buf[:n])
	}
	return err
}

// Prove waits until the content is whole and its digest proven, for clients to whom a torn answer looks like an end.
// Desc.Size is known after it.
func (b *Blob) Prove(ctx context.Context) error {
	if b.data == nil {
		b.place(ctx, 0, -1)
	}
	for {
		switch proven, err := b.proveOnce(ctx); {
		case err != nil:
			return err
		case proven:
			return b.learnSize()
		}
	}
}

func (b *Blob) proveOnce(ctx context.Context) (proven bool, err error) {
	switch {
	case b.data != nil:
		return true, nil
	case b.held != nil:
		err = b.held.prove(ctx)
		if rot := (*rotten)(nil); errors.As(err, &rot) {
			return false, b.rotted(err)
		}
		return true, err
	case b.stream != nil:
		if err = b.stream.prove(ctx, b.rider); err != nil {
			return false, b.elsewhere(err, b.stream.who)
		}
		return true, nil
	case b.flight != nil:
		switch err = b.flight.prove(ctx, b.rider); {
		case err == nil:
			return true, nil
		case errors.Is(err, ErrNoRoom):
			return false, b.divert(ctx)
		default:
			return false, b.elsewhere(err, b.flight.who)
		}
	default:
		return false, b.embark(ctx)
	}
}
