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
// yes to it for that repository and that caller, and has shown once that it has these very bytes. Otherwise anybody
// who runs a registry could claim a digest of somebody else's private image and read it here.

const (
	// privateLink is how long a yes lasts that was given to credentials: they may be revoked.
	privateLink = 24 * time.Hour
	// sample is how much a registry must send to show that it has a blob: too much to guess, one round trip to send.
	sample = 4 << 10
)

// errUnproven says that the registry has not shown that it has the bytes that we hold: they must come from it.
var errUnproven = errors.New("possession not proven")

func (c *Cache) private(registry string) bool {
	return c.o.Private != nil && c.o.Private(registry) || c.byCaller(registry)
}

// trusts reports whether what a registry said at a time still counts as a permission. A clock that was set back must
// not prolong it.
func (c *Cache) trusts(registry string, at time.Time) bool {
	age := c.now().Sub(at)
	return !c.private(registry) || age >= 0 && age < privateLink
}

// linked reports whether ref's registry has said yes to who, recently enough.
func (c *Cache) linked(who asked) bool {
	return c.pins.has(who) || c.permits.allow(who) && c.within(who)
}

// possesses reports whether a registry has sent, or shown to have, these very bytes.
func (c *Cache) possesses(registry string, d Digest) bool {
	return c.facts.get(proofKey(registry, d)) != nil
}

// grant notes a yes to who. Only for what the registry possesses.
func (c *Cache) grant(who asked, size int64) {
	c.facts.put(linkKey(c.keeper(who)), link{at: c.now(), size: size}.encode())
}

// proved notes that ref's registry has said yes to who, and then that it has the bytes: who finds the latter and not the
// former has to ask.
func (c *Cache) proved(who asked, size int64) {
	c.grant(who, size)
	c.facts.put(proofKey(who.ref.Registry, who.ref.Digest), link{at: c.now(), size: size}.encode())
}

// revoke forgets every yes of a registry to a caller for a repository, for it has just said no.
func (c *Cache) revoke(who asked) {
	if c.byCaller(who.ref.Registry) {
		return // who has heard it; the links are everybody's
	}
	prefix := linkPrefix(who.ref.Registry, who.ref.Repo)
	var gone []string
	c.facts.scan(prefix, func(key string, _ []byte) bool {
		if linkCaller(key[len(prefix):]) == who.caller {
			gone = append(gone, key)
		}
		return true
	})
	for _, key := range gone {
		c.facts.put(key, nil)
	}
}

// link notes the yeses that a flight has proven.
func (c *Cache) link(f *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for who := range f.granted {
		c.proved(who, f.size)
	}
}

// permit decides whether what is held, with so many bytes, may be served for ref. nil: yes. errUnproven: only what the
// registry itself sends.
func (c *Cache) permit(ctx context.Context, ref Ref, size int64) error {
	who := asked{ref, CallerOf(ctx)}
	if c.linked(who) {
		return nil
	}
	if !c.possesses(ref.Registry, ref.Digest) {
		return c.challenge(ctx, who, size)
	}
	if c.byCaller(ref.Registry) && c.within(who) {
		return c.renew(ctx, who)
	}
	if c.linked(who) { // just now
		return nil
	}
	_, err := c.inquire(ctx, who)
	if err == nil {
		c.grant(who, size)
	}
	return c.excuse(ref.Registry, err)
}

// mayFollow decides whether who may have what another's download brings, before that is proven.
func (c *Cache) mayFollow(ctx context.Context, who asked) error {
	if c.linked(who) {
		return nil
	}
	_, err := c.inquire(ctx, who)
	return c.excuse(who.ref.Registry, err)
}

// excuse lets pass that a registry that is open to all cannot be asked: that changes nothing of what it has sent.
func (c *Cache) excuse(registry string, err error) error {
	if unreachable(err) && !c.private(registry) {
		return nil
	}
	return err
}

// unreachable reports whether err is no answer.
func unreachable(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrLimited) || errors.Is(err, context.DeadlineExceeded)
}

// inquire asks the source whether who's digest is there for it, and what it is: once for all who ask at a time.
func (c *Cache) inquire(ctx context.Context, who asked) (Found, error) {
	errand := c.errandOf(ctx, who)
	f, _, err := c.checks.Do(errand.in(ctx), errand, 0, func(ctx context.Context) (Found, error) {
		a, err := c.src.Resolve(ctx, who.ref, Whole)
		if errors.Is(err, ErrDenied) {
			c.revoke(who)
		}
		if err != nil {
			return Found{}, err
		}
		f := Found{Desc: Desc{MediaType: a.MediaType, Digest: who.ref.Digest, Size: a.Size}, From: fromSource(wayOf(a))}
		if a.Body == nil {
			return f, nil
		}
		if who.ref.Kind == KindBlob {
			return f, a.Body.Close()
		}
		doc, err := c.receive(ctx, who, a)
		if err == nil {
			f.Desc = doc.Desc
		}
		return f, err
	})
	return f, err
}

// challenge asks a registry that never sent these bytes for some of them, from a place that it cannot foresee.
func (c *Cache) challenge(ctx context.Context, who asked, size int64) error {
	if who.ref.Kind != KindBlob || size <= smallBlob {
		return errUnproven // so small that it may as well be fetched
	}
	errand := c.errandOf(ctx, who)
	_, _, err := c.proofs.Do(errand.in(ctx), errand, 0, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.compare(ctx, who, size)
	})
	if c.o.Private == nil {
		return c.excuse(who.ref.Registry, err) // nothing here is anybody's secret
	}
	return err
}

// compare fetches a sample from the registry and compares it with what is held.
func (c *Cache) compare(ctx context.Context, who asked, size int64) error {
	if c.linked(who) { // just now
		return nil
	}
	own, ok := c.disk.peek(slot{digest: who.ref.Digest})
	if !ok {
		return errUnproven
	}
	defer func() { _ = own.Close() }()
	off := place(size - sample)
	a, err := c.src.Open(ctx, who.ref, Want{Off: off, N: sample})
	if errors.Is(err, ErrDenied) {
		c.revoke(who)
	}
	if err != nil {
		return err
	}
	defer func() { _ = a.Body.Close() }()
	if a.Off != off || a.Size >= 0 && a.Size != size {
		return errUnproven
	}
	theirs, ours := make([]byte, sample), make([]byte, sample)
	if _, err := io.ReadFull(a.Body, theirs); err != nil {
		return errUnproven
	}
	if _, err := own.ReadAt(ours, off); err != nil {
		return fmt.Errorf("%s: %w", who.ref, err)
	}
	if !bytes.Equal(theirs, ours) {
		c.stats.corrupt.Add(1)
		return corrupt(who.ref, "the upstream's bytes from %d on are not those of the digest", off)
	}
	c.proved(who, size)
	return nil
}

// place is a random offset below n that nobody can foresee.
func place(n int64) int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, as its documentation says
	return int64(binary.LittleEndian.Uint64(b[:]) % uint64(n))
}
