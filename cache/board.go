package cache

import (
	"context"
	"errors"
	"slices"
)

// errLanded says that what was to be fetched has just landed.
var errLanded = errors.New("landed meanwhile")

// embark puts b's reader on a flight, or where nothing can be kept on a stream, and waits for the source's first
// answer. anew: although the content is held, for its registry has not shown that it has it.
func (c *Cache) embark(ctx context.Context, b *Blob, r *rider, anew bool) error {
	for shut := false; ; { // shut: what has landed cannot be opened, so it must come from the source all the same
		err := c.embarkOnce(ctx, b, r, anew, shut)
		switch {
		case errors.Is(err, errLanded):
			held, err := c.openHeld(ctx, b.ref)
			if err == nil {
				return b.absorb(held, r)
			}
			shut = anew
			if anew = errors.Is(err, ErrNotHeld) || errors.Is(err, errUnproven); !anew {
				return err
			}
		case !errors.Is(err, errAgain):
			return err
		}
	}
}

func (c *Cache) embarkOnce(ctx context.Context, b *Blob, r *rider, anew, shut bool) error {
	s, err := c.passing(ctx, b, r)
	if err != nil {
		return err
	}
	if s != nil {
		return b.catch(ctx, s, r)
	}
	f, began, err := c.join(ctx, b.who(), anew, shut)
	if err != nil {
		return err
	}
	if err := f.admit(ctx, b.who()); err != nil {
		return err
	}
	if err := f.board(ctx, r); err != nil {
		return theirs(err, f.who, b.who())
	}
	if b.rider == nil {
		if b.From = FromFlight; began {
			b.From = fromSource(f.cameBy())
		}
	}
	b.flight, b.rider, b.allowed = f, r, f.admitted(b.who())
	if f.isFull() {
		err = b.transfer(ctx)
	}
	if err == nil {
		err = b.learnSize()
	}
	if err != nil {
		b.leave()
	}
	return err
}

// catch has b's reader r follow s, which has taken it aboard.
func (b *Blob) catch(ctx context.Context, s *stream, r *rider) error {
	if b.rider == nil {
		b.From = FromFlight
	}
	if b.stream, b.rider = s, r; r.whole {
		b.own = b.ref.Digest.Hash()
	}
	err := theirs(s.board(ctx), s.who, b.who())
	if err == nil {
		err = b.learnSize()
	}
	if err != nil {
		b.leave()
	}
	return err
}

// transfer takes a reader that came to a flight without room to a stream, if there is nothing for it where it is.
func (b *Blob) transfer(ctx context.Context) error {
	_, err := b.flight.ready(ctx, b.rider)
	if !errors.Is(err, ErrNoRoom) {
		return err
	}
	if err := b.divert(ctx); err != nil {
		return err
	}
	return theirs(b.stream.board(ctx), b.stream.who, b.who())
}

// theirs turns an answer that was meant for another into errAgain: what the source says to one repository or caller
// is nothing to the next.
func theirs(err error, asked, who asked) error {
	if errors.Is(err, errIdle) || personal(err) && asked != who {
		return errAgain
	}
	return err
}

// absorb makes b, which wanted to fly, one that reads what has landed meanwhile.
func (b *Blob) absorb(held *Blob, r *rider) error {
	if b.rider == nil {
		b.Found = held.Found
	} else if b.Size >= 0 && b.Size != held.Size {
		return errors.Join(resized(b.ref, held.Size, b.Size), held.Close())
	}
	b.rider, b.data, b.held = r, held.data, held.held
	return nil
}

// join finds the flight for who's ref, or begins one. anew: although the content is held.
func (c *Cache) join(ctx context.Context, who asked, anew, shut bool) (f *flight, began bool, err error) {
	key := flightKey{who.ref.Registry, who.ref.Digest}
	for {
		f, began, err := c.find(ctx, key, who, anew, shut)
		if err != nil {
			return nil, false, err
		}
		if began {
			f.prepare()
			return f, true, nil
		}
		wait := f.prepared
		if f.hasEnded() {
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

// find looks for a flight, and for what has landed, and enters a new flight where there is neither.
func (c *Cache) find(ctx context.Context, key flightKey, who asked, anew, shut bool) (f *flight, began bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false, ErrClosed
	}
	if f = c.flights[key]; f != nil {
		return f, false, nil
	}
	// A flight of this registry may have landed since it was found that none had: then its proof is at hand.
	if anew && !shut {
		proof, _ := c.facts.cached(proofKey(key.registry, key.digest))
		anew = proof == nil
	}
	if !anew && c.disk.books.has(slot{digest: key.digest}) {
		return nil, false, errLanded
	}
	return c.takeOff(ctx, key, who), true, nil
}

// takeOff enters a new flight. c.mu is held.
func (c *Cache) takeOff(ctx context.Context, key flightKey, who asked) *flight {
	f := &flight{
		c: c, key: key, who: who, size: -1, prepared: make(chan struct{}), over: make(chan struct{}),
		riders: map[*rider]struct{}{}, granted: map[asked]struct{}{}, senders: map[string]bool{},
	}
	f.begun = UrgencyOf(ctx)
	f.ahead = f.begun >= Warming
	f.direct = DirectOf(ctx) || c.owns(who.ref)
	ctx = withLiveUrgency(c.doubts.tell(context.WithoutCancel(ctx), key), f.urgency)
	ctx = withLiveDirect(ctx, f.isDirect)
	f.ctx, f.stop = context.WithCancel(ctx)
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
			f.part, f.held, f.size, f.noted = part, held, size, size >= 0
			f.held.unsure(size)
			f.claimed = slices.Clone(f.held)
			if f.held.total() > 0 {
				f.senders[""] = true
			}
			go f.fly()
			return
		}
		if !exhausted(err) {
			d.failed(err)
		}
	}
	f.mu.Lock()
	f.err, f.tail = ErrNoRoom, &checkpoint{state: snapshot(f.key.digest.Hash())}
	f.mu.Unlock()
	f.stop()
	f.c.forget(f)
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

// hasEnded reports whether the flight has failed, so that who comes now must not share its fate.
func (f *flight) hasEnded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead()
}

// admit decides whether who may follow, before what comes is proven. About the one in whose name it is asked, the
// source decides by its answer.
func (f *flight) admit(ctx context.Context, who asked) error {
	// Read at once: between two looks the source may answer.
	f.mu.Lock()
	_, yes := f.granted[who]
	_, answered := f.granted[f.who]
	f.mu.Unlock()
	decides := f.who == who && (f.part == nil || !f.part.reopened) && !answered
	if decides || yes && f.c.permits.allow(who) {
		return nil
	}
	if err := f.c.mayFollow(ctx, who); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.granted[who] = struct{}{}
	return nil
}

// admitted reports whether the source has said yes to who, and not too long ago: a flight may outlive a permission.
func (f *flight) admitted(who asked) bool {
	f.mu.Lock()
	_, ok := f.granted[who]
	f.mu.Unlock()
	return ok && f.c.permits.allow(who)
}

func (f *flight) isFull() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.full()
}

// statFlight answers from what is arriving, for one to whom the source has said yes.
func (c *Cache) statFlight(who asked) (Found, bool) {
	c.mu.Lock()
	f := c.flights[flightKey{who.ref.Registry, who.ref.Digest}]
	c.mu.Unlock()
	if f == nil || !f.admitted(who) {
		return Found{}, false
	}
	size := f.sizeNow()
	return Found{Desc: Desc{Digest: who.ref.Digest, Size: size}, From: FromFlight}, size >= 0
}

// learnSize fills in a size that was not known when b was opened. What was told to the client cannot be changed.
func (b *Blob) learnSize() error {
	size := int64(-1)
	if b.flight != nil {
		size = b.flight.sizeNow()
	} else if b.stream != nil {
		size = b.stream.sizeNow()
	}
	if b.Size >= 0 && size >= 0 && b.Size != size {
		return resized(b.ref, size, b.Size)
	}
	b.Size = max(b.Size, size)
	return nil
}
