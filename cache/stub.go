package cache

import (
	"context"
	"io"
)

// New opens the store in o.Dir and starts its background work; Close ends it. No local state prevents a start: what
// cannot be read is set aside with a warning. An error means that Dir cannot be had: not writable at all, or another
// process's.
func New(src Source, o Options) (*Cache, error) { panic("not yet") }

// Cache is the store.
type Cache struct{}

// Close ends downloads (what they hold is kept), writes down what is known and releases the directory.
func (c *Cache) Close() error { panic("not yet") }

// Stat says what ref is without fetching its content: from what is held, else by asking the source (a HEAD). Size may
// be -1 where nobody can tell. Errors are the kinds of Source.
func (c *Cache) Stat(ctx context.Context, ref Ref) (Found, error) { panic("not yet") }

// Open brings content: held, arriving or from the source. want says which part will be read first (its Known is not
// looked at); a reader that wants only ranges says so by its first one, and then only ranges are fetched. It returns
// once the source has answered, so that its refusals are errors here and not torn answers later.
func (c *Cache) Open(ctx context.Context, ref Ref, want Want) (*Blob, error) { panic("not yet") }

// Blob is one thing, open for reading by one reader, with a file descriptor of its own. Manifests and lists are always
// whole in memory and proven when Open returns them.
type Blob struct {
	Found
}

// Bytes is the whole content where it is in memory, as manifests and lists always are; else nil. Not to be changed.
func (b *Blob) Bytes() []byte { panic("not yet") }

// SendRange writes the n bytes from off on to w; n < 0: to the end. It is the one path for hits, for what is still
// arriving, and for ranges of both. It goes in stretches of at most 16 MiB, each of which renews w's write deadline
// where w has a SetWriteDeadline; a stretch of a file goes out by sendfile where w has a ReadFrom that knows how.
// Any error after the first byte means that the answer must be torn down, never ended. Bytes that turn out not to be
// what the digest names are never sent to the end: then the error is ErrCorrupt.
func (b *Blob) SendRange(ctx context.Context, w io.Writer, off, n int64) error { panic("not yet") }

// Prove waits until the content is whole and its digest proven, for clients to whom a torn answer looks like an end.
// Desc.Size is known after it.
func (b *Blob) Prove(ctx context.Context) error { panic("not yet") }

// Close releases the reader's hold. A download goes on without its readers.
func (b *Blob) Close() error { panic("not yet") }

// Stats are the cache's counters since start, and its gauges now.
type Stats struct {
	Opened      [4]uint64 // answers by Tier: FromMemory, FromDisk, FromFlight, FromUpstream
	Sent        uint64    // bytes handed to readers
	Fetched     uint64    // bytes taken from the source
	Landed      uint64    // things proven and kept
	Evicted     uint64    // things removed to make room
	Corrupt     uint64    // things whose bytes were wrong: from the source, or on disk
	Revalidated uint64    // names asked for again because they had aged
	Stale       uint64    // answers with a name that had aged and could not be asked for
	Flights     int       // downloads under way
	DiskBytes   int64     // on the books, what is being fetched included
	DiskBudget  int64
	DiskEntries int
	Scanned     bool // the scan after the start is over: DiskBytes is exact
	MemoryBytes int64
}

// Stats reads the counters.
func (c *Cache) Stats() Stats { panic("not yet") }

// Health is nil where all is well; else what is wrong with the disk, while content is still served.
func (c *Cache) Health() error { panic("not yet") }
