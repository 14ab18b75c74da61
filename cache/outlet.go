package cache

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// outlet is where a blob's bytes go.
type outlet struct {
	w      io.Writer
	ctx    context.Context
	sent   int64
	length int64 // of the next stretch
	timed  bool  // a deadline is set
}

const (
	// longest is the longest stretch that is handed to the kernel at once.
	longest = 16 << 20
	// slowest is how long a client may take for the next bytes, and slowestRate what it must have taken by then, in
	// bytes: below 1 KiB/s it is not reading but holding resources.
	slowest     = 60 * time.Second
	slowestRate = 60 << 10
	// copySize is used where the bytes of a file pass through user space.
	copySize = 256 << 10
)

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

// bytes sends p, in pieces that even the slowest client takes in time. What fits the kernel's own buffers needs no
// deadline.
func (o *outlet) bytes(p []byte) error {
	const small = 64 << 10
	for len(p) > 0 {
		if len(p) > small || o.timed {
			if err := o.renew(); err != nil {
				return err
			}
		}
		n, err := o.w.Write(p[:min(len(p), slowestRate)])
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
	for n > 0 {
		m, err := o.some(f, off, n)
		if err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

// some sends one stretch of f from off on, of at most n bytes, and returns how many it was.
func (o *outlet) some(f File, off, n int64) (int64, error) {
	if _, ok := f.(*os.File); !ok {
		return o.copy(f, off, n)
	}
	m, err := o.stretch(f, off, n)
	o.sent += m
	if errors.Is(err, os.ErrDeadlineExceeded) && m >= slowestRate {
		return m, nil // slow, but reading
	}
	if err == nil && m == 0 {
		err = &rotten{io.ErrUnexpectedEOF}
	}
	if err != nil {
		err = o.blame(f, off+m, err)
	}
	return m, err
}

// stretch sends up to n bytes of f from off on. Stretches grow while the client takes them at once: where the bytes
// pass through user space after all, as over TLS, a deadline that is missed is the end of the connection, so a slow
// client must not be given much at a time.
func (o *outlet) stretch(f File, off, n int64) (m int64, err error) {
	if err := o.renew(); err != nil {
		return 0, err
	}
	// Each time: what a failed stretch has taken from the file need not be what it gave to the client.
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return 0, &rotten{err}
	}
	began, piece := time.Now(), max(o.length, slowestRate)
	if to, ok := o.w.(io.ReaderFrom); ok {
		m, err = to.ReadFrom(&io.LimitedReader{R: f, N: min(n, piece)})
	} else {
		m, err = io.CopyN(o.w, f, min(n, piece))
	}
	switch took := time.Since(began); {
	case took > slowest/4:
		o.length = piece / 2
	case m == piece && took < time.Second:
		o.length = min(2*piece, longest)
	}
	return m, err
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

// copy is some for files that are not the operating system's own: through user space.
func (o *outlet) copy(f File, off, n int64) (int64, error) {
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	m, err := f.ReadAt(buf[:min(n, pieceSize)], off)
	if m == 0 {
		return 0, &rotten{err}
	}
	before := o.sent
	err = o.bytes(buf[:m])
	return o.sent - before, err
}
