package cache

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// Blob is one thing, open for reading by one reader, with a file descriptor of its own. Manifests and lists are always
// whole in memory and proven when Open returns them.
type Blob struct {
	Found
	c    *Cache
	ref  Ref
	data []byte // the whole, in memory; or
	held *held  // the whole, on disk; or
	ride        // arriving
}

// ride is a reader's place in what is arriving: on a flight, then perhaps on streams.
type ride struct {
	flight *flight
	stream *stream
	rider  *rider
	file   File // the flight's, with a place of its own
}

const (
	// stretch is the longest piece that is handed to the kernel at once.
	stretch = 16 << 20
	// slowest is how long a client may take for the next bytes, and slowestRate what it must have taken by then, in
	// bytes: below 1 KiB/s it is not reading but holding resources.
	slowest     = 60 * time.Second
	slowestRate = 60 << 10
	// copySize is used where the bytes pass through user space.
	copySize = 256 << 10
)

// Bytes is the whole content where it is in memory, as manifests and lists always are; else nil. Not to be changed.
func (b *Blob) Bytes() []byte { return b.data }

// Close releases the reader's hold. A download goes on without its readers.
func (b *Blob) Close() error {
	b.leave()
	if b.held != nil {
		return b.held.Close()
	}
	return nil
}

func (b *Blob) leave() {
	if b.file != nil {
		_ = b.file.Close()
		b.file = nil
	}
	if b.flight != nil {
		b.flight.leave(b.rider)
		b.flight = nil
	}
	if b.stream != nil {
		b.stream.leave(b.rider)
		b.stream = nil
	}
}

// SendRange writes the n bytes from off on to w; n < 0: to the end. It is the one path for hits, for what is still
// arriving, and for ranges of both. It goes in stretches of at most 16 MiB, each of which renews w's write deadline
// where w has a SetWriteDeadline; a stretch of a file goes out by sendfile where w has a ReadFrom that knows how.
// Any error after the first byte means that the answer must be torn down, never ended. Bytes that turn out not to be
// what the digest names are never sent to the end: then the error is ErrCorrupt.
func (b *Blob) SendRange(ctx context.Context, w io.Writer, off, n int64) error {
	if n < 0 && b.Size >= 0 {
		n = b.Size - off
	}
	out := &outlet{w: w, ctx: ctx}
	defer func() {
		out.done()
		b.c.stats.sent.Add(uint64(out.sent))
	}()
	if b.data != nil {
		return out.bytes(b.data[off : off+n])
	}
	if b.held != nil {
		err := b.sendHeld(out, off, n)
		var rot *rotten
		if !errors.As(err, &rot) {
			return err
		}
		// What was sent so far was proven; the rest comes from the source.
		b.c.disk.bad(b.held.entry, err)
		off, n = off+out.sent, n-out.sent
	}
	return b.follow(ctx, out, off, n)
}

// rotten is a file that cannot be read to its end.
type rotten struct{ err error }

func (r *rotten) Error() string { return "read from disk: " + r.err.Error() }
func (r *rotten) Unwrap() error { return r.err }

// follow sends what is arriving.
func (b *Blob) follow(ctx context.Context, out *outlet, off, n int64) error {
	if b.rider == nil {
		b.rider = &rider{}
	}
	whole := off == 0 && (n < 0 || n == b.Size)
	if whole && n == 0 { // there is no last byte to hold back
		return b.Prove(ctx)
	}
	b.place(b.rider, off, n, whole)
	for {
		if n >= 0 && b.rider.off >= off+n { // it may be another rider by now
			return nil
		}
		err := b.more(ctx, out)
		if err == io.EOF && n < 0 {
			return nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
}

// place sets where the reader is and how far it wants to go.
func (b *Blob) place(r *rider, off, n int64, whole bool) {
	if b.stream != nil && r.off != off { // its window may be elsewhere: more finds the one for this place
		b.stream.leave(r)
		b.stream = nil
	}
	if b.flight != nil {
		b.flight.mu.Lock()
		defer b.flight.mu.Unlock()
	}
	if b.stream != nil {
		b.stream.mu.Lock()
		defer b.stream.mu.Unlock()
	}
	r.off, r.end, r.whole = off, forever, whole
	if n >= 0 {
		r.end = off + n
	}
}

// more sends the next stretch, from wherever it comes.
func (b *Blob) more(ctx context.Context, out *outlet) error {
	switch {
	case b.stream != nil:
		return b.fromStream(ctx, out)
	case b.flight != nil:
		return b.fromFlight(ctx, out)
	default:
		return b.reembark(ctx)
	}
}

func (b *Blob) fromFlight(ctx context.Context, out *outlet) error {
	f, r := b.flight, b.rider
	n, err := f.ready(ctx, r)
	switch {
	case errors.Is(err, errNoRoom):
		b.divert()
		return nil
	case err != nil && personal(err) && f.ref != b.ref:
		b.leave() // that was the answer to somebody else's question; more asks our own
		return nil
	case err != nil:
		return err
	}
	if b.file == nil {
		if b.file, err = f.open(); err != nil {
			b.divert()
			return nil
		}
	}
	before := out.sent
	err = out.file(b.file, r.off, n)
	f.moved(r, out.sent-before)
	var rot *rotten
	if errors.As(err, &rot) {
		b.divert()
		return nil
	}
	return err
}

// reembark asks anew, for the rest.
func (b *Blob) reembark(ctx context.Context) error {
	old := *b.rider
	f, _, err := b.c.join(ctx, b.ref, true)
	if err != nil {
		return err
	}
	want := Want{Off: old.off, N: -1}
	if old.end != forever {
		want.N = old.end - old.off
	}
	r, err := f.board(ctx, b.ref, want)
	if err != nil {
		return err
	}
	f.mu.Lock()
	r.whole = old.whole
	f.mu.Unlock()
	b.flight, b.rider = f, r
	if size := f.sizeNow(); size >= 0 && b.Size >= 0 && size != b.Size { // the file that we had was of another length
		return corrupt(b.ref, "%d bytes, %d were announced", size, b.Size)
	}
	return nil
}

// divert goes on by a stream, from the reader's place.
func (b *Blob) divert() {
	f := b.flight
	tail, baton, size := f.yield()
	s := b.c.hail(f.ctx, f.key, b.ref, b.rider, size, tail, baton)
	b.leave()
	b.stream = s
}

func (b *Blob) fromStream(ctx context.Context, out *outlet) error {
	s, r := b.stream, b.rider
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	n, err := s.read(ctx, r, buf[:])
	if errors.Is(err, errOut) {
		b.stream = b.c.hail(s.ctx, s.key, b.ref, r, s.sizeNow(), s.exit(r), nil)
		s.leave(r)
		return nil
	}
	if err != nil {
		return err
	}
	return out.bytes(buf[:n])
}

// Prove waits until the content is whole and its digest proven, for clients to whom a torn answer looks like an end.
// Desc.Size is known after it.
func (b *Blob) Prove(ctx context.Context) (err error) {
	if b.data != nil {
		return nil
	}
	if b.held != nil {
		err := b.held.prove(ctx)
		var rot *rotten
		if !errors.As(err, &rot) {
			return err
		}
		b.c.disk.bad(b.held.entry, err)
		err = b.held.Close()
		b.held, b.rider = nil, &rider{end: forever}
		if err = errors.Join(err, b.reembark(ctx)); err != nil {
			return err
		}
	}
	b.place(b.rider, 0, -1, true)
	if b.flight != nil {
		err = b.flight.prove(ctx, b.rider)
		b.Size = b.flight.sizeNow()
		if !errors.Is(err, errNoRoom) {
			return err
		}
		b.divert()
	}
	err = b.stream.prove(ctx)
	b.Size = b.stream.sizeNow()
	return err
}

// outlet is where a blob's bytes go.
type outlet struct {
	w     io.Writer
	ctx   context.Context
	sent  int64
	timed bool // a deadline is set
}

// renew gives the client another while for the next bytes.
func (o *outlet) renew() error {
	if d, ok := o.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		if err := d.SetWriteDeadline(time.Now().Add(slowest)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		o.timed = true
	}
	return o.ctx.Err()
}

// done takes the deadline back: the connection may wait for its next request as long as it likes.
func (o *outlet) done() {
	if d, ok := o.w.(interface{ SetWriteDeadline(time.Time) error }); ok && o.timed {
		_ = d.SetWriteDeadline(time.Time{})
	}
}

// bytes sends p. What fits the kernel's own buffers needs no deadline.
func (o *outlet) bytes(p []byte) error {
	const small = 64 << 10
	for len(p) > 0 {
		if len(p) > small || o.timed {
			if err := o.renew(); err != nil {
				return err
			}
		}
		n, err := o.w.Write(p[:min(len(p), copySize)])
		o.sent += int64(n)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// file sends n bytes of f from off on.
func (o *outlet) file(f File, off, n int64) error {
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return &rotten{err}
	}
	for n > 0 {
		if err := o.renew(); err != nil {
			return err
		}
		m, err := o.stretch(f, min(n, stretch))
		o.sent += m
		off, n = off+m, n-m
		if errors.Is(err, os.ErrDeadlineExceeded) && m >= slowestRate && !passesThrough(f) {
			continue // slow, but reading
		}
		if err == nil && m == 0 {
			err = &rotten{io.ErrUnexpectedEOF}
		}
		if err != nil {
			return o.blame(f, off, err)
		}
	}
	return nil
}

// stretch sends up to n bytes from f's place on.
func (o *outlet) stretch(f File, n int64) (int64, error) {
	if to, ok := o.w.(io.ReaderFrom); ok {
		return to.ReadFrom(&io.LimitedReader{R: f, N: n})
	}
	return io.CopyN(o.w, f, n)
}

// passesThrough reports whether f's bytes pass through user space: then a deadline may have torn a piece.
func passesThrough(f File) bool {
	_, ok := f.(*os.File)
	return !ok
}

// blame says whether an error of a stretch is the file's.
func (o *outlet) blame(f File, off int64, err error) error {
	var rot *rotten
	if errors.As(err, &rot) || o.ctx.Err() != nil {
		return err
	}
	if errors.Is(err, syscall.EIO) { // no socket says that, and a disk may say it once only
		return &rotten{err}
	}
	var b [1]byte
	if _, e := f.ReadAt(b[:], off); e != nil {
		return &rotten{e}
	}
	return err
}
