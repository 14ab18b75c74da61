package cache

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Tier says where bytes came from.
type Tier uint8

// The tiers, nearest first.
const (
	FromMemory Tier = iota
	FromDisk
	FromFlight   // joined a download that somebody else began
	FromPeer     // another member of the cluster had it
	FromUpstream // began a download, or asked the upstream; or another member did for it
)

// String is the tier as logs, metrics and Cache-Status spell it.
func (t Tier) String() string {
	return [...]string{"memory", "disk", "flight", "peer", "upstream"}[t]
}

// Options says how a Cache behaves. Only Dir must be set.
type Options struct {
	Dir    string // the data directory; made with mode 0700 where it is missing
	Disk   int64  // budget of the disk tier in bytes; 0: 80 % of the file system
	Memory int64  // budget of the memory tier in bytes; 0: 64 MiB

	Aging        func(Ref) Aging                     // how a name ages; nil: fresh for 5 minutes, stale for as long as it takes
	Absence      time.Duration                       // how long a source is believed that it does not have something; 0: 30 s
	Keep         func(Ref) Keeping                   // what becomes of content once its readers are gone; nil: it is kept
	Owns         func(Ref) bool                      // whether other members have it fetched by this one; nil: none
	Landed       func(Ref, Desc, Keeping)            // told of what has been fetched and is not Passing, at once; nil: nobody
	Lied         func(ref Ref, member string)        // told of what a member of the cluster has sent in the place of something; nil: nobody
	Named        func(Ref, Desc, time.Time)          // told what a registry has said that a tag is, and when, at once; nil: nobody
	Moved        func(Ref, Digest, time.Time)        // called when a source says that a tag that was known is something else, or nothing (the zero Digest), as of a time; it must not block; nil: nobody is told
	Private      func(registry string) bool          // whether an upstream is asked with credentials; for "": any; nil: none
	Callers      func(registry string) time.Duration // how long its yes to a caller's own login is good for a repository; 0, nil: it is asked with ours
	ProvenRanges bool                                // ranges of what is still arriving wait until its digest is proven
	Fill         Fill                                // what becomes of a blob of which only ranges are asked for
	ScrubRate    int64                               // bytes per second read to look for rot; 0: 8 MiB/s; negative: never

	FS  FS               // nil: the operating system's
	Now func() time.Time // the wall clock; nil: time.Now
	Log *zap.Logger      // nil: silence
}

// Fill says when a blob of which only ranges were asked for is fetched whole.
type Fill uint8

// FillAuto fetches the rest once half is held; FillAsked never does; FillWhole does at once.
const (
	FillAuto Fill = iota
	FillAsked
	FillWhole
)

// Found says what a Ref is and where that was learned.
type Found struct {
	Desc
	From Tier
	AsOf time.Time     // of a name: when the hub last said so; zero for a digest, which does not age
	Aged Aged          // of a name that was not fresh: how it was dealt with
	Over time.Duration // how long it is past its freshness, where it is served all the same
}

// Aged says how a name was dealt with that was not fresh.
type Aged uint8

// What came of it. A name never seen before has no age.
const (
	NotAged     Aged = iota
	ServedAged       // within its grace: the source is asked behind the answer
	Unchanged        // the source said that it still is what it was
	Changed          // the source said that it is something else now
	Unconfirmed      // the source could not be asked
)

// Stale reports whether f is a name past its freshness about which the upstream could not be asked.
func (f Found) Stale() bool { return f.Aged == Unconfirmed }

// Cache is the store. It is ready when New returns it and must be closed.
type Cache struct {
	o       Options
	src     Source
	permits *permits // below src
	log     *zap.Logger
	disk    *disk
	memory  *memory
	facts   *table
	pins    *pins
	doubts  doubts
	marks   *marks
	stats   counters

	names     Group[errand, resolved]
	documents Group[errand, *document]
	checks    Group[errand, Found]
	proofs    Group[errand, struct{}]
	renewals  Group[asked, struct{}]
	sulks     sync.Map // asked → time.Time: not asked again before, for it was not answered

	stop   context.CancelFunc // of the background work
	work   sync.WaitGroup
	flying sync.WaitGroup // flights and streams

	mu      sync.Mutex // taken before a flight's or a stream's
	flights map[flightKey]*flight
	streams map[flightKey][]*stream
	closed  bool
}

// counters are what Stats reads.
type counters struct {
	opened                                             [5]atomic.Uint64
	sent, fetched, landed, corrupt, revalidated, stale atomic.Uint64
}

// New opens the store in o.Dir and starts its background work, which ends with ctx, or with Close. No local state prevents a start: what
// cannot be read is set aside with a warning. An error means that Dir cannot be had: not writable at all, or another
// process's.
func New(ctx context.Context, src Source, o Options) (*Cache, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.FS == nil {
		o.FS = osFS{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Memory <= 0 {
		o.Memory = defaultMemory
	}
	if o.ScrubRate == 0 {
		o.ScrubRate = defaultScrub
	}
	if o.Absence == 0 {
		o.Absence = defaultAbsence
	}
	d, err := openDisk(o.Dir, o.Disk, o.FS, o.Log)
	if err != nil {
		return nil, err
	}
	m, err := newMemory(o.Memory, o.Keep != nil)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	p := witnessed(src, o.Callers)
	c := &Cache{
		o: o, src: remembering(p, o.Absence), permits: p, log: o.Log, disk: d, memory: m, pins: loadPins(d), marks: newMarks(),
		facts:   openTable(filepath.Join(d.root, "facts.db"), o.Log),
		flights: map[flightKey]*flight{}, streams: map[flightKey][]*stream{},
	}
	c.start(ctx)
	return c, nil
}

// defaultMemory holds a few thousand manifests and configs: everything hot of most sites.
const defaultMemory = 64 << 20

func (c *Cache) now() time.Time { return c.o.Now() }

// start begins the background work.
func (c *Cache) start(ctx context.Context) {
	ctx, c.stop = context.WithCancel(ctx)
	c.work.Go(func() { c.disk.commit(ctx) })
	c.work.Go(func() { c.tend(ctx) })
	c.work.Go(func() { c.facts.run(ctx) })
}

// Close ends downloads (what they hold is kept), writes down what is known and releases the directory.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	for _, f := range c.flights {
		f.stop()
	}
	for _, list := range c.streams {
		for _, s := range list {
			s.stop()
		}
	}
	c.mu.Unlock()
	c.names.Close()
	c.documents.Close()
	c.checks.Close()
	c.proofs.Close()
	c.renewals.Close()
	c.flying.Wait()
	c.stop()
	c.work.Wait()
	c.disk.round()
	c.facts.close()
	c.memory.close()
	return c.disk.close()
}

// Stat says what ref is without fetching its content: from what is held, else by asking the source (a HEAD). Size may
// be -1 where nobody can tell. Errors are the kinds of Source.
func (c *Cache) Stat(ctx context.Context, ref Ref) (Found, error) {
	if ref.Mutable() {
		return c.statName(ctx, ref)
	}
	if found, err := c.statHeld(ctx, ref); !unheld(err) {
		return found, err
	}
	who := asked{ref, CallerOf(ctx)}
	if ref.Kind == KindBlob {
		if found, ok := c.statFlight(who); ok {
			return found, nil
		}
		if size, ok := c.expected(who); ok {
			return Found{Desc: Desc{Digest: ref.Digest, Size: size}, From: FromMemory}, nil
		}
	}
	return c.inquire(ctx, who)
}

// statName says what a name is; of a manifest that is held, as it will be served.
func (c *Cache) statName(ctx context.Context, ref Ref) (Found, error) {
	found, doc, err := c.resolve(ctx, ref, false, false)
	if err == nil && doc == nil && c.linked(asked{ref, CallerOf(ctx)}.at(found.Digest)) {
		doc, _ = c.heldDocument(ref, found.Digest)
	}
	if doc != nil {
		found.Desc = doc.Desc
	}
	return found, err
}

// statHeld answers from what has landed.
func (c *Cache) statHeld(ctx context.Context, ref Ref) (Found, error) {
	b, err := c.openHeld(ctx, ref)
	if err != nil {
		return Found{}, err
	}
	return b.Found, b.Close()
}

// unheld reports whether err says that there is nothing, or nothing that ref's registry has shown to have.
func unheld(err error) bool { return errors.Is(err, ErrNotHeld) || errors.Is(err, errUnproven) }

// Open brings content: held, arriving or from the source. want says which part will be read first (its Known is not
// looked at); a reader that wants only ranges says so by its first one, and then only ranges are fetched. It returns
// once the source has answered, so that its refusals are errors here and not torn answers later.
func (c *Cache) Open(ctx context.Context, ref Ref, want Want) (*Blob, error) {
	b, err := c.openAny(ctx, ref, want)
	if err != nil {
		return nil, err
	}
	c.stats.opened[b.From].Add(1)
	if KeepOf(ctx) {
		c.retain(ref, b)
	}
	return b, nil
}

func (c *Cache) openAny(ctx context.Context, ref Ref, want Want) (*Blob, error) {
	if ref.Kind != KindBlob {
		return c.openDocument(ctx, ref, want.HeldOnly)
	}
	who := asked{ref, CallerOf(ctx)}
	if want.HeldOnly && !c.linked(who) {
		return nil, ErrNotHeld
	}
	b, err := c.openHeld(ctx, ref)
	if !unheld(err) || want.HeldOnly {
		return b, err
	}
	b = &Blob{Found: Found{Desc: Desc{Digest: ref.Digest, Size: -1}}, c: c, ref: ref, caller: who.caller}
	r := newRider(want.Off, want.N, -1, want.Off == 0 && want.N < 0)
	r.urgency, r.direct, r.keep = UrgencyOf(ctx), DirectOf(ctx), KeepOf(ctx)
	if err := c.embark(ctx, b, r, errors.Is(err, errUnproven)); err != nil {
		return nil, err
	}
	return b, nil
}

// openHeld opens what has landed and may be served for ref; ErrNotHeld where there is nothing, errUnproven where there
// is, but ref's registry has not shown that it has it.
func (c *Cache) openHeld(ctx context.Context, ref Ref) (*Blob, error) {
	if ref.Kind == KindManifest {
		doc, from := c.heldDocument(ref, ref.Digest)
		if doc == nil {
			return nil, ErrNotHeld
		}
		if err := c.permit(ctx, ref, doc.Size); err != nil {
			return nil, err
		}
		return c.served(ref, doc, Found{From: from}), nil
	}
	b := &Blob{Found: Found{Desc: Desc{Digest: ref.Digest}, From: FromMemory}, c: c, ref: ref, caller: CallerOf(ctx)}
	if doc, ok := c.memory.get(ref.Digest); ok {
		if err := c.permit(ctx, ref, doc.Size); err != nil {
			return nil, err
		}
		c.disk.books.touch(slot{digest: ref.Digest})
		b.data, b.Size = doc.data, doc.Size
		return b, nil
	}
	h, ok := c.disk.open(ref.Digest)
	if !ok {
		return nil, ErrNotHeld
	}
	if !c.sized(ref, h) {
		return nil, errors.Join(ErrNotHeld, h.Close())
	}
	if err := c.permit(ctx, ref, h.size); err != nil {
		_ = h.Close()
		return nil, err
	}
	b.held, b.Size, b.From = h, h.size, FromDisk
	if h.size <= smallBlob {
		if err := c.lift(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Holds reports whether content has landed; whoever may have it.
func (c *Cache) Holds(d Digest) bool { return c.disk.holds(d) }

// Knows reports whether anything is known of a name, as old as it may be, without asking.
func (c *Cache) Knows(ref Ref) bool {
	_, known := c.recall(asked{ref: ref})
	return known
}

// Served is how many answers came from what is here, or was fetched by this cache itself: from any tier but FromPeer.
func (c *Cache) Served() (n uint64) {
	for tier := range c.stats.opened {
		if Tier(tier) != FromPeer {
			n += c.stats.opened[tier].Load()
		}
	}
	return n
}

// Stats reads the counters.
func (c *Cache) Stats() Stats {
	s := Stats{
		Sent: c.stats.sent.Load(), Fetched: c.stats.fetched.Load(), Landed: c.stats.landed.Load(),
		Corrupt: c.stats.corrupt.Load() + c.disk.damaged.Load(), Revalidated: c.stats.revalidated.Load(), Stale: c.stats.stale.Load(),
		Scanned: c.disk.scanned.Load(), MemoryBytes: c.memory.bytes(),
	}
	for i := range s.Opened {
		s.Opened[i] = c.stats.opened[i].Load()
	}
	s.PinnedBytes, s.HotCopyBytes = c.disk.books.fixedBytes(), c.disk.books.copiedBytes()
	s.DiskBytes, s.DiskBudget, s.DiskEntries, s.Evicted = c.disk.books.sums()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Flights = len(c.flights)
	for _, list := range c.streams {
		s.Flights += len(list)
	}
	return s
}

// Health is nil where all is well; else what is wrong with the disk, while content is still served.
func (c *Cache) Health() error { return errors.Join(c.disk.health(), c.pins.health()) }

// Stats are the cache's counters since start, and its gauges now.
type Stats struct {
	Opened       [5]uint64 // answers by Tier
	Sent         uint64    // bytes handed to readers
	Fetched      uint64    // bytes taken from the source
	Landed       uint64    // things proven and kept
	Evicted      uint64    // things removed to make room
	Corrupt      uint64    // things whose bytes were wrong: from the source, or on disk
	Revalidated  uint64    // names asked for again because they had aged
	Stale        uint64    // answers with a name that had aged and could not be asked for
	Flights      int       // downloads under way
	DiskBytes    int64     // on the books, what is being fetched included
	DiskBudget   int64
	DiskEntries  int
	PinnedBytes  int64 // of DiskBytes, what is never evicted
	HotCopyBytes int64 // of DiskBytes, what other members of the cluster keep, too
	Scanned      bool  // the scan after the start is over: DiskBytes is exact
	MemoryBytes  int64
}
