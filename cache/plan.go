package cache

// What is fetched, and from where to where: a main run moves the front; side runs go to readers who are far from it.

const (
	// lead is how far behind a reader's place a run may be for the reader to wait for it: at 100 MB/s a tenth of a
	// second, about what a request of its own would take.
	lead = 8 << 20
	// step is how often a run that only serves ranges looks whether anybody still wants more.
	step = 1 << 20
	// mostRuns bounds the requests of one flight at a time. Clients that fetch in parallel use 3 to 8.
	mostRuns = 16
)

// cover sees to it that somebody fetches what r waits for. f.mu is held.
func (f *flight) cover(r *rider) {
	if f.right || f.err != nil {
		return
	}
	if r.whole || f.rigid || f.c.o.Fill == FillWhole || f.c.o.ProvenRanges {
		f.whole = true
	}
	f.advance()
	at := f.held.reach(r.off)
	if r.whole || f.rigid || at >= f.last(r) || len(f.active) >= mostRuns {
		return
	}
	end := f.held.next(at)
	if !f.whole {
		end = min(end, r.end)
	}
	var behind *run
	for _, run := range f.active {
		switch {
		case run.pos > at:
			end = min(end, run.pos)
		case at < run.end && at-run.pos <= lead:
			return // it will be here soon
		case at < run.end:
			behind = run
		}
	}
	if behind != nil {
		end = min(end, behind.end)
		behind.end = at // who comes from behind ends where this one begins
	}
	f.take(&run{pos: at, end: end})
}

// advance sees to it that the first byte that nobody fetches is fetched, if all of them are to be. f.mu is held.
func (f *flight) advance() {
	if f.right || f.err != nil {
		return
	}
	if f.c.o.Fill == FillAuto && f.size > 0 && f.held.total() > f.size/2 && f.size <= f.c.disk.books.limit() {
		f.whole = true
	}
	at := f.first()
	if !f.whole || at == forever || f.size >= 0 && at >= f.size {
		return
	}
	end := f.held.next(at)
	for _, run := range f.active {
		switch {
		case run.pos > at:
			end = min(end, run.pos)
		case run.main:
			return // it comes here
		}
	}
	f.take(&run{pos: at, end: end, main: true})
}

// first is the first byte that is neither held nor in the way of a run. f.mu is held.
func (f *flight) first() int64 {
	at := f.held.reach(0)
	for moved := true; moved; {
		moved = false
		for _, run := range f.active {
			if run.pos <= at && at < run.end {
				at, moved = f.held.reach(run.end), true
			}
		}
	}
	return at
}

// take starts a run. f.mu is held.
func (f *flight) take(r *run) {
	f.active = append(f.active, r)
	f.runs.Add(1)
	go f.fetch(r)
}

// wanted reports whether any reader is on its way to off. f.mu is held.
func (f *flight) wanted(off int64) bool {
	for r := range f.riders {
		if r.off <= off && off < r.end {
			return true
		}
	}
	return false
}
