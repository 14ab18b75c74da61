package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// disk is the disk tier. The file system is its index: blobs/<alg>/<2 hex>/<hex> has the bytes that its name says,
// whole, or does not exist. The books only account for it.
//
//	LOCK        held while a process uses the directory
//	CLEAN       there if the last process ended in good order
//	blobs/      what has landed
//	partial/    downloads under way or broken off, each with its map
//	tmp/        what is on its way into blobs/; emptied at each start
//	facts.db    names and links, which may be lost
type disk struct {
	fs     FS
	root   string
	books  *books
	log    *zap.Logger
	lock   *os.File
	wanted int64 // the budget that was asked for; fit may grant less
	clean  bool  // the last process ended in good order: what is there was proven by it

	serial  atomic.Uint64 // makes names in tmp/
	scanned atomic.Bool

	mu      sync.Mutex
	queue   []landing
	wake    chan struct{}
	trouble error     // the last failed write
	until   time.Time // no writes are tried before
}

const (
	// distrust is how long nothing is written after a write failed: long enough not to fail every pull again, short
	// enough that an operator who made room sees it taken at once.
	distrust = 10 * time.Second
	// spare is the share of the file system that stays free, whatever the budget says: a full one hurts everybody.
	spare = 20 // a twentieth: 5 %
	// defaultShare of the file system is the budget where none is given, in percent.
	defaultShare = 80
)

// openDisk makes or opens the store inside dir. Only two things prevent it: dir cannot be written, or another process
// uses it.
func openDisk(dir string, budget int64, filesystem FS, log *zap.Logger) (*disk, error) {
	d := &disk{
		fs: filesystem, root: filepath.Join(dir, "store"), books: newBooks(budget), log: log,
		wake: make(chan struct{}, 1),
	}
	// The root is ours alone, made inside what we are given: a volume's own directory may be group-writable.
	for _, sub := range []string{"blobs/sha256", "blobs/sha512", "partial/sha256", "partial/sha512", "tmp"} {
		if err := d.fs.MkdirAll(filepath.Join(d.root, sub), 0o700); err != nil && !d.exists(sub) {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	if err := d.acquire(); err != nil {
		return nil, err
	}
	d.fit()
	marker := filepath.Join(d.root, "CLEAN")
	if _, err := d.fs.Lstat(marker); err == nil {
		// The marker must be gone for good before anything is written, or a power cut would bring it back.
		d.clean = d.fs.Remove(marker) == nil && d.fs.SyncFS(d.root) == nil
	}
	d.empty("tmp")
	return d, nil
}

func (d *disk) exists(sub string) bool {
	fi, err := d.fs.Lstat(filepath.Join(d.root, sub))
	return err == nil && fi.IsDir()
}

// acquire takes the directory for this process.
func (d *disk) acquire() error {
	name := filepath.Join(d.root, "LOCK")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.EROFS) {
		return nil // nobody can write here, so nobody can be in our way
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return fmt.Errorf("data directory %s is used by another tidepool (%s is locked: %w); give this one its own --data",
			d.root, name, err)
	}
	d.lock = f
	return nil
}

// close gives the directory back; tidy says that everything that is in it is proven.
func (d *disk) close(tidy bool) error {
	var err error
	if tidy {
		f, e := d.fs.OpenFile(filepath.Join(d.root, "CLEAN"), os.O_CREATE|os.O_WRONLY, 0o600)
		if err = e; err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// fit sets the budget to what the file system can give: nothing below its last twentieth is ours.
func (d *disk) fit() {
	free, total, err := d.fs.Space(d.root)
	if err != nil {
		return
	}
	d.books.mu.Lock()
	wanted, used := d.books.budget, d.books.kept
	d.books.mu.Unlock()
	if d.wanted == 0 {
		if d.wanted = wanted; wanted <= 0 {
			d.wanted = total / 100 * defaultShare
		}
	}
	d.books.trim(max(0, min(d.wanted, used+free-total/spare)))
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
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	d.books.note(s, fi.Size(), d.clean)
	return true
}

// held is landed content, open for one reader.
type held struct {
	File
	size   int64
	proven bool
	disk   *disk
	slot   slot
	entry  *entry
}

// Close closes the file and tells the books.
func (h *held) Close() error {
	err := h.File.Close()
	h.disk.books.closed(h.slot, h.entry)
	return err
}

// open opens landed content. What is not a regular file of the length on the books is dropped, as if it had never
// been there.
func (d *disk) open(g Digest) (*held, bool) {
	if !d.holds(g) {
		return nil, false
	}
	s := slot{digest: g}
	return d.enter(s, d.books.open(s))
}

// peek opens landed content without telling the policy: to look after it is no use of it.
func (d *disk) peek(s slot) (*held, bool) { return d.enter(s, d.books.peek(s)) }

func (d *disk) enter(s slot, e *entry) (*held, bool) {
	if e == nil {
		return nil, false
	}
	h, err := d.openEntry(s, e)
	if err != nil {
		d.books.closed(s, e)
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) {
			d.bad(s, e, err)
		}
		return nil, false
	}
	return h, true
}

func (d *disk) openEntry(s slot, e *entry) (*held, error) {
	path, size, proven := d.books.look(e)
	f, err := d.fs.OpenFile(cmp.Or(path, d.path(s)), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) && path != "" { // committed between the look and the open
		f, err = d.fs.OpenFile(d.path(s), os.O_RDONLY, 0)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() != size) {
		err = fmt.Errorf("%s with %d bytes, want a regular file with %d", fi.Mode().Type(), fi.Size(), size)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &held{File: f, size: size, proven: proven, disk: d, slot: s, entry: e}, nil
}

// bad drops content that turned out to be damaged.
func (d *disk) bad(s slot, e *entry, err error) {
	if d.books.dropEntry(s, e) {
		d.log.Warn("damaged content dropped; the next pull fetches it anew",
			zap.Stringer("digest", s.digest), zap.Error(err))
		d.kick()
	}
}

// writable reports whether writing is worth a try.
func (d *disk) writable(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.trouble == nil || now.After(d.until)
}

// failed notes a failed write: for a while nothing is written and pulls pass through.
func (d *disk) failed(err error) {
	d.mu.Lock()
	first := d.trouble == nil
	d.trouble, d.until = err, time.Now().Add(distrust)
	d.mu.Unlock()
	if first {
		d.log.Warn("the disk takes no writes: new content passes through without being kept", zap.Error(err))
	}
}

// works notes a successful write.
func (d *disk) works() {
	d.mu.Lock()
	was := d.trouble
	d.trouble = nil
	d.mu.Unlock()
	if was != nil {
		d.log.Info("the disk takes writes again")
	}
}

// health is the trouble that lasts.
func (d *disk) health() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.trouble == nil {
		return nil
	}
	return fmt.Errorf("data directory %s takes no writes: %w", d.root, d.trouble)
}

// scanned is a file that the scan found.
type scanned struct {
	slot  slot
	size  int64
	mtime time.Time
}

// scan enters on the books what the directory has. It runs while content is being served, and stops with ctx.
func (d *disk) scan(ctx context.Context) {
	var found []scanned
	for _, alg := range []string{"sha256", "sha512"} {
		dirs, _ := d.fs.ReadDir(filepath.Join(d.root, "blobs", alg))
		for _, sub := range dirs {
			if ctx.Err() != nil {
				return
			}
			found = d.scanDir(alg, sub.Name(), found)
		}
	}
	slices.SortFunc(found, func(a, b scanned) int { return a.mtime.Compare(b.mtime) })
	d.books.merge(found, d.clean)
	d.scanned.Store(true)
	d.fit()
	d.kick()
}

func (d *disk) scanDir(alg, sub string, found []scanned) []scanned {
	files, err := d.fs.ReadDir(filepath.Join(d.root, "blobs", alg, sub))
	if err != nil {
		d.log.Warn("scan: passed over", zap.String("directory", sub), zap.Error(err))
	}
	for _, f := range files {
		g, err := ParseDigest(alg + ":" + f.Name())
		if err != nil || g.Hex()[:2] != sub {
			continue // not ours
		}
		fi, err := f.Info()
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		found = append(found, scanned{slot{digest: g}, fi.Size(), fi.ModTime()})
	}
	return found
}

// temp makes a new file in tmp/.
func (d *disk) temp() (File, string, error) {
	path := filepath.Join(d.root, "tmp", strconv.FormatUint(d.serial.Add(1), 10))
	f, err := d.fs.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	return f, path, err
}

// empty removes the files of a directory of ours.
func (d *disk) empty(sub string) {
	files, _ := d.fs.ReadDir(filepath.Join(d.root, sub))
	for _, f := range files {
		if err := d.fs.Remove(filepath.Join(d.root, sub, f.Name())); err != nil {
			d.log.Warn("left over", zap.Error(err))
		}
	}
}

// isDiskError reports whether err is the disk's own: no room, no luck, no permission.
func isDiskError(err error) bool {
	var number syscall.Errno
	return errors.As(err, &number)
}
