package cache

import (
	"context"
	"errors"
)

// errLanded says that what was to be fetched has just landed.
var errLanded = errors.New("landed meanwhile")

// embark puts a reader on a flight, or where nothing can be kept on a stream, and waits for the source's first answer.
func (c *Cache) embark(ctx context.Context, b *Blob, want Want) error {
	anew := c.disk.holds(b.ref.Digest) // held, but its registry must show that it has it
	for {
		err := c.embarkOnce(ctx, b, want, anew)
		switch {
		case errors.Is(err, errLanded):
			held, err := c.openHeld(ctx, b.ref)
			if errors.Is(err, ErrNotHeld) {
				anew = true
				continue
			}
			if err == nil {
				*b = *held
			}
			return err
		case !errors.Is(err, errOthers):
			return err
		}
	}
}

// errOthers says that a flight ended with an answer that was meant for somebody else.
var errOthers = errors.New("another's answer")

func (c *Cache) embarkOnce(ctx context.Context, b *Blob, want Want, anew bool) error {
	f, began, err := c.join(ctx, b.ref, anew)
	if err != nil {
		return err
	}
	if b.From = FromFlight; began {
		b.From = FromUpstream
	}
	if f.inherited() || !f.same(ctx, b.ref) {
		if err := c.mayFollow(ctx, b.ref); err != nil {
			return err
		}
	}
	r, err := f.board(ctx, b.ref, want)
	if err != nil && personal(err) && f.ref != b.ref {
		return errOthers
	}
	if err != nil {
		return err
	}
	b.flight, b.rider, b.Size = f, r, f.sizeNow()
	if f.full() {
		b.divert()
		if err = b.stream.board(ctx, r); err != nil {
			b.leave()
		} else {
			b.Size = b.stream.sizeNow()
		}
	}
	return err
}

// join finds the flight for ref, or begins one. anew: although the content is held.
func (c *Cache) join(ctx context.Context, ref Ref, anew bool) (f *flight, began bool, err error) {
	key := flightKey{ref.Registry, ref.Digest}
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, false, ErrClosed
		}
		if !anew && c.disk.books.has(slot{digest: ref.Digest}) {
			c.mu.Unlock()
			return nil, false, errLanded
		}
		f = c.flights[key]
		if f == nil {
			f = c.takeOff(ctx, key, ref)
			c.mu.Unlock()
			f.prepare()
			return f, true, nil
		}
		c.mu.Unlock()
		wait := f.prepared
		if f.ended() {
			wait = f.over // its file is not free yet
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
		if wait == f.prepared {
			return f, false, nil
		}
	}
}

// takeOff enters a new flight. c.mu is held.
func (c *Cache) takeOff(ctx context.Context, key flightKey, ref Ref) *flight {
	f := &flight{
		c: c, key: key, ref: ref, size: -1, prepared: make(chan struct{}), over: make(chan struct{}),
		riders: map[*rider]struct{}{}, granted: map[Ref]struct{}{},
	}
	f.ctx, f.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.flights[key] = f
	c.flying.Add(1)
	return f
}

// prepare opens the flight's file and lets it go.
func (f *flight) prepare() {
	defer close(f.prepared)
	d := f.c.disk
	if d.writable() {
		part, held, size, err := d.startPartial(slot{f.key.digest, partialMark(f.key.registry)})
		if err == nil {
			f.part, f.held, f.size = part, held, size
			go f.fly()
			return
		}
		d.failed(err)
	}
	f.mu.Lock()
	f.err = errNoRoom
	f.mu.Unlock()
	f.c.forget(f)
	f.stop()
	f.c.flying.Done()
}

// forget takes an ended flight off the table.
func (c *Cache) forget(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[f.key] == f {
		delete(c.flights, f.key)
	}
	close(f.over)
}

// leaveStream takes an ended stream off the table.
func (c *Cache) leaveStream(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.streams[s.key]
	for i := range list {
		if list[i] == s {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if c.streams[s.key] = list; len(list) == 0 {
		delete(c.streams, s.key)
	}
}

// inherited reports whether the flight goes on from what an earlier one left.
func (f *flight) inherited() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.part != nil && f.part.reopened
}

// same reports whether ref, asked for by ctx's caller, is what the flight was begun for: then it has the source's
// answer for it.
func (f *flight) same(ctx context.Context, ref Ref) bool {
	return f.ref == ref && CallerOf(f.ctx) == CallerOf(ctx)
}

// ended reports whether the flight has failed, so that who comes now must not share its fate.
func (f *flight) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil && !errors.Is(f.err, errNoRoom)
}

// full reports whether the flight ended for want of room.
func (f *flight) full() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Is(f.err, errNoRoom)
}

// board waits for a stream's first answer.
func (s *stream) board(ctx context.Context, r *rider) error {
	for {
		s.mu.Lock()
		answered, err := s.answered, s.err
		wait := s.changed.wait()
		s.mu.Unlock()
		if answered || err != nil {
			return err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
