package cache

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/time/rate"
)

const (
	// defaultScrub reads a terabyte in a day and a half and leaves any disk idle for the rest.
	defaultScrub = 8 << 20
	// tendEvery lies between two rounds of looking after what is held.
	tendEvery = 24 * time.Hour
)

// tend finds what the directory has, and then looks after it until ctx ends.
func (c *Cache) tend(ctx context.Context) {
	for wait := lookEvery; ctx.Err() == nil; wait = min(2*wait, tendEvery) {
		if !c.disk.scanned.Load() {
			c.disk.scan(ctx)
		}
		if c.disk.scanned.Load() {
			wait = tendEvery
			c.prune(ctx)
			c.scrub(ctx)
		}
		pause(ctx, wait)
	}
}

// scrub looks for bits that flipped on disk: what was read by nobody for long is looked at as well.
func (c *Cache) scrub(ctx context.Context) {
	if c.o.ScrubRate < 0 {
		return
	}
	limit := rate.NewLimiter(rate.Limit(c.o.ScrubRate), copySize)
	_ = c.disk.walk(func(s slot, _ int64, _ time.Time) bool {
		c.scrubOne(ctx, s, limit)
		return ctx.Err() == nil
	})
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// scrubOne hashes one file, at no more than the limit.
func (c *Cache) scrubOne(ctx context.Context, s slot, limit *rate.Limiter) {
	h, ok := c.disk.peek(s)
	if !ok {
		return
	}
	defer func() { _ = h.Close() }()
	sum := s.digest.Hash()
	buf := make([]byte, copySize)
	for {
		n, err := h.Read(buf)
		if n > 0 && limit.WaitN(ctx, n) != nil {
			return
		}
		sum.Write(buf[:n])
		if err == io.EOF && s.digest.Matches(sum) {
			h.disk.books.proved(h.entry)
			return
		}
		if err != nil {
			c.memory.drop(s.digest)
			c.disk.bad(h.entry, errors.Join(err, ErrCorrupt))
			return
		}
	}
}
