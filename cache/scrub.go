package cache

import (
	"context"
	"io"
	"time"

	"golang.org/x/time/rate"
)

const (
	// defaultScrub reads a terabyte in a day and a half and leaves any disk idle for the rest.
	defaultScrub = 8 << 20
	// scrubPause lies between two rounds.
	scrubPause = 24 * time.Hour
)

// scrub looks for bits that flipped on disk, until ctx ends: what was read by nobody for long is looked at as well.
func (c *Cache) scrub(ctx context.Context) {
	if c.o.ScrubRate < 0 {
		return
	}
	limit := rate.NewLimiter(rate.Limit(c.o.ScrubRate), copySize)
	for ctx.Err() == nil {
		for _, s := range c.disk.books.all() {
			if ctx.Err() == nil && s.partial == 0 {
				c.scrubOne(ctx, s, limit)
			}
		}
		pause(ctx, scrubPause)
	}
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
		if err == io.EOF {
			err = nil
			if s.digest.Matches(sum) {
				h.disk.books.proved(h.entry)
				return
			}
			err = ErrCorrupt
		}
		if err != nil {
			c.stats.corrupt.Add(1)
			c.memory.drop(s.digest)
			c.disk.bad(s, h.entry, err)
			return
		}
	}
}
