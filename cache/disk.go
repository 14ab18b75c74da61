package cache

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// disk is the disk tier. The file system is its index: blobs/<alg>/<2 hex>/<hex> has the bytes that its name says,
// whole, or does not exist. The books only account for it.
//
//	LOCK        held while a process uses the directory
//	FORMAT      the number of this layout
//	CLEAN       there if the last process ended in good order
//	blobs/      what has landed
//	partial/    downloads under way or broken off, each with its map
//	tmp/        what is on its way into blobs/; emptied at each start
//	facts.db    names and links, which may be lost
//	pins/       what must not be lost, one file for each pin
type disk struct {
	fs     FS
	root   string
	books  *books
	log    *zap.Logger
	lock   *os.File
	dir    File  // the root; it hears of every write that fails
	wanted int64 // the budget that was asked for, in bytes; 0: a share of the file system
	clean  bool  // the last process ended in good order: what it left is proven

	reclaimed time.Time // until then, room may come back that was made; the committer's

	serial  atomic.Uint64 // makes names in tmp/
	scanned atomic.Bool
	damaged atomic.Uint64 // how much content was dropped for that
	wake    chan struct{}

	mu      sync.Mutex // guards what follows, for a moment
	queue   []landing
	rounds  signal // of the committer's: fired after each
	trouble error  // the last failed write, until a later one succeeds
}

// defaultShare of the file system is the budget where none is given, in percent.
const defaultShare = 80

// openDisk makes or opens the store inside dir. Only three things prevent it: dir cannot be written, it is another
// user's, or another process uses it.
func openDisk(dir string, budget int64, filesystem FS, log *zap.Logger) (*disk, error) {
	d := &disk{fs: filesystem, root: filepath.Join(dir, "store"), log: log, wanted: budget, wake: make(chan struct{}, 1)}
	d.books = newBooks(budget, d.kick)
	if err := d.acquire(); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	known := d.adopt()
	d.clean = d.unmark() && known
	if err := d.makeDirs(); err != nil && !d.exists("blobs") {
		return nil, errors.Join(fmt.Errorf("data directory: %w", err), d.release())
	}
	d.empty("tmp")
	d.findPartials()
	d.fit()
	return d, nil
}

func (d *disk) in(name string) string { return filepath.Join(d.root, name) }

func (d *disk) exists(name string) bool {
	_, err := d.fs.Lstat(d.in(name))
	return err == nil
}

// makeDirs makes what the store consists of.
func (d *disk) makeDirs() error {
	for _, sub := range []string{"blobs/sha256", "blobs/sha512", "partial/sha256", "partial/sha512", "tmp"} {
		if err := d.fs.MkdirAll(d.in(sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// acquire takes the root for this process. The root is ours alone, made inside what we are given: a volume's own
// directory may be group-writable, and whoever can write here decides what is served.
func (d *disk) acquire() error {
	if err := d.fs.MkdirAll(d.root, 0o700); err != nil && !d.exists("") {
		return err
	}
	if err := os.Chmod(d.root, 0o700); errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: it belongs to another user; give it to this one, or name another with --data", err)
	}
	name := d.in("LOCK")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ELOOP) {
		if err = os.Rename(name, d.unused("LOCK.bad")); err == nil {
			return d.acquire()
		}
	}
	if errors.Is(err, unix.EROFS) {
		return nil // nobody can write here, so nobody can be in our way
	}
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return fmt.Errorf("%s is used by another tidepool (%s is locked: %w); name another directory with --data",
			d.root, name, err)
	}
	d.lock = f
	return nil
}

// unused is name, or name with a number, whichever is not there yet.
func (d *disk) unused(name string) string {
	path := d.in(name)
	for n := 1; d.exists(filepath.Base(path)); n++ {
		path = d.in(name + "." + strconv.Itoa(n))
	}
	return path
}

// close writes down whether all that is here is proven, and gives the directory back.
func (d *disk) close() error {
	if (d.clean || d.scanned.Load()) && d.books.proven() && d.health() == nil {
		if err := d.mark(); err != nil {
			d.log.Warn("the next start will not trust what is on disk", zap.Error(err))
		}
	}
	return d.release()
}

// release gives up the directory.
func (d *disk) release() error {
	if d.dir != nil {
		_ = d.dir.Close()
	}
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}

// sync makes durable all that was written. The root stays open from the first sync to the last: a failure to write is
// told to those who had a file open when it happened.
func (d *disk) sync() (err error) {
	if d.dir == nil {
		if d.dir, err = d.fs.OpenFile(d.root, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			d.dir = nil
			return err
		}
	}
	return d.fs.SyncFS(d.dir)
}

// path is where landed content belongs.
func (d *disk) path(s slot) string {
	text := s.digest.Hex()
	return filepath.Join(d.root, "blobs", s.digest.Algorithm(), text[:2], text)
}

// holds reports whether content has landed. Until the scan is over it looks at the disk itself.
func (d *disk) holds(g Digest) bool {
	s := slot{digest: g}
	if d.books.has(s) {
		return true
	}
	if d.scanned.Load() {
		return false
	}
	fi, err := d.fs.Lstat(d.path(s))
	return err == nil && fi.Mode().IsRegular() && d.books.note(s, fi.Size(), d.clean)
}

// held is landed content, open for one reader.
type held struct {
	File
	size   int64
	proven bool
	disk   *disk
	digest Digest
	entry  *entry
}

// Close closes the file and tells the books.
func (h *held) Close() error {
	err := h.File.Close()
	h.disk.books.closed(h.entry)
	return err
}

// open opens landed content. What is not a regular file of the length on the books is dropped, as if it had never
// been there.
func (d *disk) open(g Digest) (*held, bool) {
	if !d.holds(g) {
		return nil, false
	}
	return d.enter(d.books.open(slot{digest: g}))
}

// peek opens landed content without telling the policy: to look after it is no use of it.
func (d *disk) peek(s slot) (*held, bool) { return d.enter(d.books.peek(s)) }

func (d *disk) enter(e *entry) (*held, bool) {
	if e == nil {
		return nil, false
	}
	h, err := d.openEntry(e)
	if err != nil {
		d.books.closed(e)
		if !exhausted(err) {
			d.bad(e, err)
		}
		return nil, false
	}
	return h, true
}

func (d *disk) openEntry(e *entry) (*held, error) {
	path, now := d.books.look(e)
	f, err := d.fs.OpenFile(cmp.Or(path, d.path(e.slot)), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) && path != "" { // committed between the look and the open
		f, err = d.fs.OpenFile(d.path(e.slot), os.O_RDONLY, 0)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() != e.size) {
		err = fmt.Errorf("%s of %d bytes, want a regular file of %d", fi.Mode(), fi.Size(), e.size)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &held{File: f, size: e.size, proven: now.proven, disk: d, digest: e.slot.digest, entry: e}, nil
}

// bad drops content that turned out to be damaged.
func (d *disk) bad(e *entry, err error) {
	if d.books.drop(e) {
		d.damaged.Add(1)
		d.log.Warn("damaged content dropped; the next pull fetches it anew",
			zap.Stringer("digest", e.slot.digest), zap.Error(err))
	}
}

// temp makes a new file in tmp/.
func (d *disk) temp() (f File, path string, err error) {
	for {
		path = filepath.Join(d.root, "tmp", strconv.FormatUint(d.serial.Add(1), 10))
		f, err = d.fs.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if !errors.Is(err, fs.ErrExist) { // what an earlier process left could not be removed
			return f, path, err
		}
	}
}

// empty removes what is in a directory of ours.
func (d *disk) empty(sub string) {
	files, err := d.fs.ReadDir(d.in(sub))
	if err != nil {
		d.log.Warn("not emptied", zap.Error(err))
	}
	for _, f := range files {
		d.books.scrap(gone{path: filepath.Join(d.root, sub, f.Name())})
	}
	d.remove()
}
