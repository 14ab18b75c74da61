package cache

import (
	"fmt"
	"io"
)

// What was on disk when the last process ended without warning may be anything: a name without all its bytes, or
// bytes that are not those. Such a file is hashed once before it is believed.

// smallProof is up to which size a file is hashed before a range of it is sent: at 1 GB/s, 64 ms.
const smallProof = 64 << 20

func (h *held) isProven() bool {
	if !h.proven {
		_, _, h.proven = h.disk.books.look(h.entry)
	}
	return h.proven
}

// prove hashes the whole file, unless that was done. A file that fails is dropped.
func (h *held) prove() error {
	if h.isProven() {
		return nil
	}
	sum := h.slot.digest.Hash()
	if _, err := io.Copy(sum, io.NewSectionReader(h.File, 0, h.size)); err != nil {
		return &rotten{err}
	}
	if !h.slot.digest.Matches(sum) {
		return &rotten{fmt.Errorf("%s: %w", h.slot.digest, ErrCorrupt)}
	}
	h.disk.books.proved(h.entry)
	return nil
}

// sendHeld sends from a landed file.
func (b *Blob) sendHeld(out *outlet, off, n int64) error {
	h := b.held
	if !h.isProven() {
		if off == 0 && n == h.size {
			return b.sendProving(out)
		}
		if h.size <= smallProof {
			if err := h.prove(); err != nil {
				return err
			}
		}
	}
	return out.file(h.File, off, n)
}

// sendProving sends the whole file through the hash, and its end only when that agrees. What went out before was not
// proven, so after the first byte there is no going on from the source.
func (b *Blob) sendProving(out *outlet) error {
	h, sum, buf := b.held, b.held.slot.digest.Hash(), make([]byte, copySize)
	for off := int64(0); off < h.size; {
		n, err := h.ReadAt(buf[:min(copySize, h.size-off)], off)
		if n == 0 {
			return b.spoilt(out, err)
		}
		sum.Write(buf[:n])
		if off += int64(n); off == h.size && !h.slot.digest.Matches(sum) {
			return b.spoilt(out, ErrCorrupt)
		}
		if err := out.bytes(buf[:n]); err != nil {
			return err
		}
	}
	h.disk.books.proved(h.entry)
	return nil
}

func (b *Blob) spoilt(out *outlet, err error) error {
	b.c.stats.corrupt.Add(1)
	if out.sent == 0 {
		return &rotten{err}
	}
	b.c.disk.bad(b.held.slot, b.held.entry, err)
	return fmt.Errorf("%s: from disk: %w: %w", b.ref, err, ErrCorrupt)
}
