package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Bytes are shared, permission is not: content that is held is served to a repository only if its registry has said
// yes to it for that repository, and has shown once that it has these very bytes. Otherwise anybody who runs a
// registry could claim a digest of somebody else's private image and read it here.

const (
	// privateLink is how long a yes lasts that was given to credentials: they may be revoked.
	privateLink = 24 * time.Hour
	// sample is how much a registry must send to show that it has a blob: too much to guess, one round trip to send.
	sample = 4 << 10
)

// errUnproven says that the registry has not shown that it has the bytes that we hold: they must come from it.
var errUnproven = errors.New("possession not proven")

func (c *Cache) private(registry string) bool { return c.o.Private != nil && c.o.Private(registry) }

// linked reports whether ref's registry has said yes to ref, recently enough.
func (c *Cache) linked(ref Ref) bool {
	l, ok := decodeLink(c.facts.get(linkKey(ref.Registry, ref.Repo, ref.Kind, ref.Digest)))
	return ok && (!c.private(ref.Registry) || c.now().Sub(l.at) < privateLink)
}

// possesses reports whether a registry has sent, or shown to have, these very bytes.
func (c *Cache) possesses(registry string, d Digest) bool {
	return c.facts.get(linkKey(registry, "", KindBlob, d)) != nil
}

// grant notes a yes for ref.
func (c *Cache) grant(ref Ref, size int64) {
	l := link{at: c.now(), size: size}.encode()
	c.facts.put(linkKey(ref.Registry, ref.Repo, ref.Kind, ref.Digest), l)
}

// proved notes that ref's registry has the bytes, and said yes to ref.
func (c *Cache) proved(ref Ref, size int64) {
	c.facts.put(linkKey(ref.Registry, "", KindBlob, ref.Digest), link{at: c.now(), size: size}.encode())
	c.grant(ref, size)
}

// link notes the yeses that a flight has proven.
func (c *Cache) link(f *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ref := range f.granted {
		c.proved(ref, f.size)
	}
}

// permit decides whether what is held under ref's digest may be served for ref; own is the content, for a sample to
// be compared with. nil: yes. errUnproven: only what the registry itself sends.
func (c *Cache) permit(ctx context.Context, ref Ref, size int64, own io.ReaderAt) error {
	if c.linked(ref) {
		return nil
	}
	if !c.possesses(ref.Registry, ref.Digest) {
		return c.challenge(ctx, ref, size, own)
	}
	err := c.allowed(ctx, ref)
	switch {
	case err == nil:
		c.grant(ref, size)
		return nil
	case unreachable(err) && !c.private(ref.Registry):
		return nil // it has shown the bytes and it is open to all: being out of reach changes neither
	default:
		return err
	}
}

func unreachable(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrLimited)
}

// allowed asks the registry whether ref is there for the one who asks.
func (c *Cache) allowed(ctx context.Context, ref Ref) error {
	_, _, err := c.checks.do(ctx, asked{ref, CallerOf(ctx)}, func(ctx context.Context) (struct{}, error) {
		a, err := c.src.Resolve(ctx, ref, Whole)
		if err == nil && a.Body != nil {
			err = a.Body.Close()
		}
		return struct{}{}, err
	})
	return err
}

// mayFollow decides whether ref may have what another's download brings, before that is proven.
func (c *Cache) mayFollow(ctx context.Context, ref Ref) error {
	if c.linked(ref) {
		return nil
	}
	return c.allowed(ctx, ref)
}

// challenge asks a registry that never sent these bytes for some of them, from a place that it cannot foresee.
func (c *Cache) challenge(ctx context.Context, ref Ref, size int64, own io.ReaderAt) error {
	if ref.Kind != KindBlob || own == nil || size <= sample {
		return errUnproven // as small as the sample: then it may as well be fetched
	}
	off := place(size - sample)
	a, err := c.src.Open(ctx, ref, Want{Off: off, N: sample})
	if err != nil {
		if unreachable(err) && c.o.Private == nil {
			return nil // nothing here is anybody's secret
		}
		return err
	}
	defer func() { _ = a.Body.Close() }()
	if a.Off != off || (a.Size >= 0 && a.Size != size) {
		return errUnproven
	}
	theirs, ours := make([]byte, sample), make([]byte, sample)
	if _, err := io.ReadFull(a.Body, theirs); err != nil {
		return errUnproven
	}
	if _, err := own.ReadAt(ours, off); err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	if !bytes.Equal(theirs, ours) {
		c.stats.corrupt.Add(1)
		return corrupt(ref, "the upstream's bytes from %d on are not those of the digest", off)
	}
	c.proved(ref, size)
	return nil
}

// place is a random offset below n that nobody can foresee.
func place(n int64) int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, as its documentation says
	return int64(binary.LittleEndian.Uint64(b[:]) % uint64(n))
}
