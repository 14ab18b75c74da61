package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
)

// What was on disk when the last process ended without warning may be anything: a name without all its bytes, or
// bytes that are not those. Such a file is hashed once before it is believed.

// smallProof is up to which size a file is hashed before a range of it is sent: at 1 GB/s, 64 ms.
const smallProof = 64 << 20

// sized reports whether a file has the length that was proven when it landed: what a process that ended in good order
// left is believed, but only if all of it is there. One that has not is dropped.
func (c *Cache) sized(ref Ref, h *held) bool {
	l, ok := decodeLink(c.facts.get(proofKey(ref.Registry, ref.Digest)))
	if !ok || l.size == h.size {
		return true
	}
	c.disk.bad(h.entry, fmt.Errorf("%d bytes, %d had landed", h.size, l.size))
	return false
}

func (h *held) isProven() bool {
	if !h.proven {
		_, now := h.disk.books.look(h.entry)
		h.proven = now.proven
	}
	return h.proven
}

// keeping says what becomes of it, as of now.
func (h *held) keeping() Keeping {
	_, now := h.disk.books.look(h.entry)
	return now.keeping
}

// prove hashes the whole file, unless that was done. One that fails is rotten.
func (h *held) prove(ctx context.Context) error {
	if h.isProven() {
		return nil
	}
	return h.each(ctx, func([]byte) error { return nil })
}

// each calls do for the file's pieces in turn, for the last one when the whole is proven.
func (h *held) each(ctx context.Context, do func(piece []byte) error) error {
	sum, buf := h.digest.Hash(), make([]byte, copySize)
	for off := int64(0); ; {
		n, err := h.ReadAt(buf[:min(copySize, h.size-off)], off)
		if n == 0 && off < h.size {
			return &rotten{cmp.Or(err, io.ErrUnexpectedEOF)}
		}
		sum.Write(buf[:n])
		off += int64(n)
		if off == h.size && !h.digest.Matches(sum) {
			return &rotten{fmt.Errorf("%s: %w", h.digest, ErrCorrupt)}
		}
		if err := cmp.Or(ctx.Err(), do(buf[:n])); err != nil {
			return err
		}
		if off == h.size {
			h.disk.books.proved(h.entry)
			return nil
		}
	}
}

// sendHeld sends from a landed file.
func (b *Blob) sendHeld(out *outlet, off, n int64) error {
	h := b.held
	if !h.isProven() {
		if off == 0 && n == h.size {
			return b.sendProving(out)
		}
		if h.size <= smallProof {
			if err := h.prove(out.ctx); err != nil {
				return err
			}
		}
	}
	return out.file(h.File, off, n)
}

// sendProving sends the whole file through the hash, and its end only when that agrees. What went out before was not
// proven, so after the first byte there is no going on from the source.
func (b *Blob) sendProving(out *outlet) error {
	err := b.held.each(out.ctx, out.bytes)
	var rot *rotten
	if out.sent == 0 || !errors.As(err, &rot) {
		return err
	}
	b.c.disk.bad(b.held.entry, err)
	return fmt.Errorf("%s: from disk: %w: %w", b.ref, rot.err, ErrCorrupt)
}
