package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"
)

// stored is a directory with what a process left there. For tests in a bubble.
func stored(t *testing.T, w *things, clean bool) (dir string) {
	return storedIn(t, ramDir(t), w, clean)
}

func storedIn(t *testing.T, dir string, w *things, clean bool) string {
	t.Helper()
	c := launch(t, w, Options{Dir: dir})
	if err := w.pullAll(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	time.Sleep(settled)
	land(t, c)
	if !clean {
		if err := os.Remove(filepath.Join(dir, "store", "CLEAN")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// blobPath is where content is in a data directory.
func blobPath(dir string, d Digest) string {
	return filepath.Join(dir, "store", "blobs", d.Algorithm(), d.Hex()[:2], d.Hex())
}

// TestSyncedBeforeNamed holds that no name comes to be before its bytes are durable: neither a blob's, nor that of the
// file which says that all is well.
func TestSyncedBeforeNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t)
		named, marked := 0, 0
		r.fs.seen = func(a act) {
			switch {
			case a.verb == "rename" && strings.Contains(a.name, "/blobs/"):
				named++
				if parts := r.fs.dirty[a.from]; len(parts) > 0 {
					t.Errorf("%v: %d writes not synced", a, len(parts))
				}
			case a.verb == "create" && filepath.Base(a.name) == "CLEAN":
				marked++
				for name, parts := range r.fs.dirty {
					if len(parts) > 0 && !strings.HasSuffix(name, "/FORMAT") {
						t.Errorf("%v: %s has writes that are not synced", a, name)
					}
				}
			}
		}
		if err := r.work(); err != nil {
			t.Fatal(err)
		}
		if named < len(r.things.refs) || marked != 2 {
			t.Errorf("%d names, %d marks", named, marked)
		}
	})
}

// TestFailedSync holds that a sync that failed is not tried again on the same file.
func TestFailedSync(t *testing.T) {
	for name, size := range map[string]int{"small": 70 << 10, "large": 2 << 20} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, files := newThings(size), &faulty{dirty: map[string][]span{}}
				c := launch(t, w, Options{Dir: ramDir(t), FS: files})
				files.when(func(a act) error {
					if a.verb == "sync" || a.verb == "syncfs" {
						return unix.EIO
					}
					return nil
				})
				if err := w.pullAll(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				fetched := w.count(w.refs[0].Digest) // twice, if it was lost before its reader had got hold of it
				time.Sleep(time.Second)
				files.when(nil)
				if c.Health() == nil || c.disk.books.has(slot{digest: w.refs[0].Digest}) {
					t.Errorf("kept, health %v", c.Health())
				}
				time.Sleep(settled)
				if err := errors.Join(c.Health(), w.pullAll(t.Context(), c)); err != nil {
					t.Error(err)
				}
				time.Sleep(settled)
				if err := audit(c); err != nil {
					t.Error(err)
				}
				if got, want := w.count(w.refs[0].Digest), fetched+int64(size); got != want {
					t.Errorf("%d bytes fetched, want %d", got, want)
				}
				land(t, c)
			})
		})
	}
}

// TestFullDisk is what clients see, and what operators see, while nothing can be written.
func TestFullDisk(t *testing.T) {
	for name, fault := range map[string]error{
		"row 37 no room": unix.ENOSPC, "row 38 quota": unix.EDQUOT, "row 40 write error": unix.EIO, "row 41 read-only": unix.EROFS,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				held, later := newThings(10, 100<<10, 2<<20), newThings(11, 101<<10, 3<<20)
				for _, ref := range later.refs {
					held.put(later.data[ref])
				}
				core, logs := observer.New(zap.WarnLevel)
				files := &faulty{dirty: map[string][]span{}}
				c := launch(t, held, Options{Dir: ramDir(t), FS: files, Log: zap.New(core)})
				if err := held.pullAll(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				files.when(func(a act) error {
					if a.writes() {
						return fault
					}
					return nil
				})
				for range 5 {
					if err := errors.Join(later.pullAll(t.Context(), c), held.pullAll(t.Context(), c)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(lookEvery + time.Second)
				}
				if err := c.Health(); !errors.Is(err, fault) {
					t.Errorf("health: %v", err)
				}
				if n := logs.FilterMessageSnippet("takes no writes").Len(); n != 1 {
					t.Errorf("%d warnings: %v", n, logs.All())
				}
				if n, full := c.Stats().Evicted, noRoom(fault); full != (n > 0) {
					t.Errorf("%d evicted", n) // the oldest, to make room
				}
				for _, ref := range held.refs[2:] {
					if n := held.count(ref.Digest); n != int64(len(held.data[ref])) {
						t.Errorf("%s: %d bytes fetched: it was held", ref, n)
					}
				}
				files.when(nil)
				time.Sleep(settled)
				if err := errors.Join(c.Health(), later.pullAll(t.Context(), c)); err != nil {
					t.Error(err)
				}
				time.Sleep(settled)
				held.set(func(s *shelf) { s.down = true })
				if err := errors.Join(later.pullAll(t.Context(), c), audit(c)); err != nil {
					t.Errorf("not kept: %v", err)
				}
				land(t, c)
			})
		})
	}
}

// TestInodesExhausted holds that a disk that is full although it has room is relieved.
func TestInodesExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 64
		w, files := newThings(), &faulty{dirty: map[string][]span{}}
		dir := ramDir(t)
		files.fault = func(a act) error {
			if a.verb != "create" || strings.HasSuffix(a.name, mapSuffix) {
				return nil
			}
			if n := countFiles(filepath.Join(dir, "store", "blobs")); n >= most {
				return unix.ENOSPC
			}
			return nil
		}
		c := launch(t, w, Options{Dir: dir, FS: files, Disk: most * 100 << 10})
		for i := range 3 * most {
			b := static()[i : i+80<<10]
			if err := read(t.Context(), c, w.put(b), 0, -1, b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(lookEvery)
		}
		if s := c.Stats(); s.Evicted == 0 || s.Evicted > 2*most || s.DiskEntries < most/2 {
			t.Errorf("%+v", s)
		}
		land(t, c)
	})
}

func countFiles(dir string) (n int) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	return n
}

// TestOutOfDescriptors holds that content is not dropped because this process has no descriptor left to open it.
func TestOutOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, files := newThings(100<<10), &faulty{dirty: map[string][]span{}}
		c := launch(t, w, Options{Dir: ramDir(t), FS: files})
		ref := w.refs[0]
		for _, fault := range []error{nil, unix.EMFILE, nil} {
			files.when(func(a act) error {
				if a.verb == "open" || a.verb == "create" {
					return fault
				}
				return nil
			})
			if err := w.pullAll(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			time.Sleep(settled)
		}
		if n := w.count(ref.Digest); n != 200<<10 {
			t.Errorf("%d bytes fetched", n)
		}
		land(t, c)
	})
}

// TestRestart serves at once while it scans, whatever the scan takes.
func TestRestart(t *testing.T) {
	w := newThings()
	for i := range 300 {
		b := static()[i : i+i*400]
		w.add(w.put(b), b)
	}
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean %v", clean), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w.set(func(s *shelf) { s.down = false })
				dir := stored(t, w, clean)
				w.set(func(s *shelf) { s.down = true })
				slow := slowScan{osFS{}, make(chan struct{})}
				c := launch(t, w, Options{Dir: dir, FS: slow})
				if err := w.pullAll(t.Context(), c); err != nil {
					t.Errorf("while scanning: %v", err)
				}
				if c.Stats().Scanned {
					t.Error("scanned")
				}
				close(slow.listed)
				time.Sleep(settled)
				if err := errors.Join(w.pullAll(t.Context(), c), audit(c)); err != nil {
					t.Error(err)
				}
				if !c.disk.books.proven() {
					t.Error("read, and not proven")
				}
				land(t, c)
				if _, err := os.Stat(filepath.Join(dir, "store", "CLEAN")); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// slowScan is a file system whose blobs cannot be listed until a channel is closed.
type slowScan struct {
	FS
	listed chan struct{}
}

func (s slowScan) ReadDir(dir string) ([]fs.DirEntry, error) {
	if strings.Contains(dir, "/blobs/") {
		<-s.listed
	}
	return s.FS.ReadDir(dir)
}

// TestRestartEvictsNothing holds that what is on disk is not taken for what is in the way: a start looks at the room
// that is left before it knows what it has itself.
func TestRestartEvictsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(1<<20, 1<<20+1, 1<<20+2, 1<<20+3)
		dir := stored(t, w, true)
		tight := &space{total: 20 << 20} // of which one is to stay free
		tight.free.Store(3 << 20)
		c := launch(t, w, Options{Dir: dir, FS: tight, Disk: 1 << 30})
		time.Sleep(settled)
		if s := c.Stats(); s.Evicted != 0 || s.DiskEntries != 4 || s.DiskBudget != 6<<20+6 {
			t.Errorf("%+v", s)
		}
		tight.free.Store(512 << 10) // others fill the disk, while nobody asks us for anything
		time.Sleep(lookEvery + time.Second)
		if s := c.Stats(); s.Evicted != 1 || s.DiskEntries != 3 {
			t.Errorf("row 46: %+v", s)
		}
		land(t, c)
	})
}

// space is a file system with so much room.
type space struct {
	osFS
	free  atomic.Int64
	total int64
}

func (s *space) Space(string) (free, total int64, err error) { return s.free.Load(), s.total, nil }

// TestCleanOnlyWhenProven holds that a start after a crash is trusted again when everything has been hashed, and not
// before.
func TestCleanOnlyWhenProven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(100<<10, 2<<20)
		dir := stored(t, w, false)
		c := launch(t, w, Options{Dir: dir, ScrubRate: -1})
		if err := read(t.Context(), c, w.refs[0], 0, -1, w.data[w.refs[0]]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		land(t, c)
		c = launch(t, w, Options{Dir: dir})
		if c.disk.clean {
			t.Error("clean, with a file that nobody has read")
		}
		time.Sleep(time.Hour) // the scrub reads it
		land(t, c)
		c = launch(t, w, Options{Dir: dir})
		if !c.disk.clean {
			t.Error("not clean, with everything read")
		}
		land(t, c)
	})
}

// TestScrub finds what flipped, and the next pull heals it.
func TestScrub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(100<<10, 2<<20, 5<<20)
		dir := stored(t, w, true)
		victim := w.refs[1]
		damage(t, blobPath(dir, victim.Digest), 1<<20+5)
		c := launch(t, w, Options{Dir: dir, ScrubRate: 1 << 20})
		time.Sleep(time.Second)
		if c.Stats().Corrupt != 0 {
			t.Error("found faster than the limit lets it read")
		}
		time.Sleep(10 * time.Second)
		if s := c.Stats(); s.Corrupt != 1 || s.DiskEntries != 2 {
			t.Errorf("%+v", s)
		}
		if err := errors.Join(w.pullAll(t.Context(), c)); err != nil {
			t.Error(err)
		}
		time.Sleep(settled)
		damage(t, blobPath(dir, victim.Digest), 17)
		time.Sleep(tendEvery)
		if s := c.Stats(); s.Corrupt != 2 {
			t.Errorf("the next day: %+v", s)
		}
		if err := errors.Join(w.pullAll(t.Context(), c)); err != nil {
			t.Error(err)
		}
		time.Sleep(settled)
		if err := audit(c); err != nil {
			t.Error(err)
		}
		land(t, c)
	})
}

// damage flips a bit.
func damage(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	b[0] ^= 4
	_, err2 := f.WriteAt(b[:], at)
	if err = errors.Join(err, err2, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDamaged is what becomes of files that are not what they were. A clean start trusts the bytes of a file that has
// its length, and nothing else; the scrub covers that.
func TestDamaged(t *testing.T) {
	keep := func(data []byte) func(string) error {
		return func(path string) error { return os.WriteFile(path, data, 0o600) }
	}
	flipped := func(data []byte, at int) []byte {
		data = bytes.Clone(data)
		data[at] ^= 1
		return data
	}
	kinds := []struct {
		name    string
		trusted bool // by a clean start
		do      func(path string, data []byte) error
	}{
		{"row 42 first bit", true, func(p string, b []byte) error { return keep(flipped(b, 0))(p) }},
		{"row 42 last bit", true, func(p string, b []byte) error { return keep(flipped(b, len(b)-1))(p) }},
		{"row 42 zeroes", true, func(p string, b []byte) error { return keep(make([]byte, len(b)))(p) }},
		{"row 43 empty", false, func(p string, _ []byte) error { return keep(nil)(p) }},
		{"row 43 shorter", false, func(p string, b []byte) error { return keep(b[:len(b)-1])(p) }},
		{"row 43 half", false, func(p string, b []byte) error { return keep(b[:len(b)/2])(p) }},
		{"row 43 longer", false, func(p string, b []byte) error { return keep(append(bytes.Clone(b), 0))(p) }},
		{"row 43 directory", false, func(p string, _ []byte) error { return os.Mkdir(p, 0o700) }},
		{"row 43 full directory", false, func(p string, _ []byte) error { return os.MkdirAll(p+"/a/b", 0o700) }},
		{"row 43 symlink", false, func(p string, b []byte) error {
			return errors.Join(keep(b)(filepath.Join(filepath.Dir(p), "real")), os.Symlink("real", p))
		}},
		{"row 43 dangling symlink", false, func(p string, _ []byte) error { return os.Symlink("nowhere", p) }},
		{"row 43 pipe", false, func(p string, _ []byte) error { return unix.Mkfifo(p, 0o600) }},
		{"row 44 gone", false, func(string, []byte) error { return nil }},
		{"row 44 directory gone", false, func(p string, _ []byte) error { return os.RemoveAll(filepath.Dir(p)) }},
		{"row 44 file for directory", false, func(p string, b []byte) error {
			return errors.Join(os.RemoveAll(filepath.Dir(p)), keep(b)(filepath.Dir(p)))
		}},
	}
	for _, kind := range kinds {
		for _, size := range []int{1000, 100 << 10, 2 << 20} {
			for _, when := range []string{"clean", "unclean", "running"} {
				if kind.trusted && when != "unclean" && size > smallBlob {
					continue
				}
				for _, part := range []int64{-1, 900} {
					t.Run(fmt.Sprintf("%s/%d/%s/%d", kind.name, size, when, part), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { testDamaged(t, size, when, part, kind.do) })
					})
				}
			}
		}
	}
}

func testDamaged(t *testing.T, size int, when string, part int64, do func(path string, data []byte) error) {
	w := newThings(size)
	ref, data := w.refs[0], w.data[w.refs[0]]
	dir := stored(t, w, when != "unclean")
	path := blobPath(dir, ref.Digest)
	var c *Cache
	if when == "running" {
		c = launch(t, w, Options{Dir: dir, ScrubRate: -1})
		time.Sleep(settled)
	}
	if err := errors.Join(os.Remove(path), do(path, data)); err != nil {
		t.Fatal(err)
	}
	if c == nil {
		c = launch(t, w, Options{Dir: dir, ScrubRate: -1})
	}
	// One answer may be torn: what is not known to be damaged before its end. None may be wrong.
	err := read(t.Context(), c, ref, 0, part, data)
	if errors.Is(err, errWrong) && !errors.Is(err, ErrCorrupt) {
		t.Errorf("first: %v", err)
	}
	if err := errors.Join(read(t.Context(), c, ref, 0, -1, data), read(t.Context(), c, ref, 0, part, data)); err != nil {
		t.Errorf("then: %v", err)
	}
	time.Sleep(settled)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("not healed: %d bytes, %v", len(got), err)
	}
	if err := errors.Join(c.Health(), audit(c)); err != nil && !strings.Contains(err.Error(), "/real ") {
		t.Error(err)
	}
	land(t, c)
}
