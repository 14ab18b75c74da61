package cache

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// brokenOff is a directory with a download that broke off at stop, as a process that was killed leaves it, or one that
// ended in good order.
func brokenOff(t *testing.T, w *things, data []byte, stop int64, killed bool) (dir string, ref Ref) {
	t.Helper()
	dir, ref = ramDir(t), w.put(data)
	w.set(func(s *shelf) { s.stop[ref.Digest] = stop })
	c := launch(t, w, Options{Dir: dir})
	if err := read(t.Context(), c, ref, 0, -1, data); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCorrupt) {
		t.Fatalf("broke off with %v", err)
	}
	time.Sleep(settled)
	land(t, c)
	if killed {
		if err := os.Remove(filepath.Join(dir, "store", "CLEAN")); err != nil {
			t.Fatal(err)
		}
	}
	w.set(func(s *shelf) { delete(s.stop, ref.Digest); clear(s.sent) })
	return dir, ref
}

// only is the one file in partial/ that has the suffix, or has none where that is empty.
func only(t *testing.T, dir, suffix string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "store", "partial", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, mapSuffix) == (suffix != "") {
			return f
		}
	}
	t.Fatalf("no %q among %q", suffix, files)
	return ""
}

// TestContinue holds that what was fetched is not fetched again: after an end in good order, after a kill, and with
// whatever a crash left of the file and of its map, of which a stretch counts exactly if its checksum fits.
func TestContinue(t *testing.T) {
	const size, stop, stretches = 8 << 20, 5<<20 + 100, 6 // of 1 MiB each, and the 100 bytes
	data := static()[:size]
	cases := []struct {
		name   string
		killed bool
		do     func(file, log *os.File) error
		again  int64 // what is fetched twice
	}{
		{"in good order", false, nil, 0},
		{"row 56 killed", true, nil, 0},
		{"a bit of the file", true, func(f, _ *os.File) error { _, err := f.WriteAt([]byte{^data[2<<20+5]}, 2<<20+5); return err }, 1 << 20},
		{"a page of the file", true, func(f, _ *os.File) error { _, err := f.WriteAt(make([]byte, 4096), 0); return err }, 1 << 20},
		{"half of the file", true, func(f, _ *os.File) error { return f.Truncate(5 << 19) }, 5<<20 + 100 - 2<<20},
		{"all of the file", true, func(f, _ *os.File) error { return f.Truncate(0) }, stop},
		{"the last record", true, func(_, m *os.File) error { return m.Truncate(headerSize + stretches*recordSize - 1) }, 100},
		{"a record in the middle", true, func(_, m *os.File) error {
			_, err := m.WriteAt(make([]byte, recordSize), headerSize+2*recordSize)
			return err
		}, 1 << 20},
		{"a record's checksum", true, func(_, m *os.File) error {
			_, err := m.WriteAt([]byte{1, 2, 3, 4}, headerSize+recordSize+20)
			return err
		}, 1 << 20},
		{"all records", true, func(_, m *os.File) error { return m.Truncate(headerSize) }, stop},
		{"the header", true, func(_, m *os.File) error { _, err := m.WriteAt([]byte{9}, 1); return err }, stop},
		{"the map", true, func(_, m *os.File) error { return m.Truncate(0) }, stop},
		{"rubbish after the map", true, func(_, m *os.File) error {
			_, err := m.WriteAt(static()[:1000], headerSize+stretches*recordSize)
			return err
		}, 0},
		{"the map's name", true, func(_, m *os.File) error { return os.Remove(m.Name()) }, stop},
		{"the file's name", true, func(f, _ *os.File) error { return os.Remove(f.Name()) }, stop},
		{"a pipe for a file", true, func(f, _ *os.File) error {
			return errors.Join(os.Remove(f.Name()), unix.Mkfifo(f.Name(), 0o600))
		}, stop},
		{"a directory for a map", true, func(_, m *os.File) error {
			return errors.Join(os.Remove(m.Name()), os.Mkdir(m.Name(), 0o700))
		}, stop},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newThings()
				dir, ref := brokenOff(t, w, data, stop, c.killed)
				if c.do != nil {
					if err := tamper(only(t, dir, ""), only(t, dir, mapSuffix), c.do); err != nil {
						t.Fatal(err)
					}
				}
				cache := launch(t, w, Options{Dir: dir})
				if err := read(t.Context(), cache, ref, 0, -1, data); err != nil {
					t.Error(err)
				}
				if got, want := w.count(ref.Digest), size-stop+c.again; got != want {
					t.Errorf("%d bytes fetched, want %d", got, want)
				}
				time.Sleep(settled)
				if err := audit(cache); err != nil {
					t.Error(err)
				}
				land(t, cache)
			})
		})
	}
}

func tamper(file, log string, do func(file, log *os.File) error) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	m, err := os.OpenFile(log, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(f, m), f.Close(), m.Close())
}

// TestKilledWhileLanding holds that a download that was whole when the process was killed is not fetched again.
func TestKilledWhileLanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := static()[:3<<20]
		w, dir := newThings(), ramDir(t)
		ref := w.put(data)
		files := &faulty{dirty: map[string][]span{}, fault: func(a act) error {
			if a.verb == "sync" || a.verb == "syncfs" || a.verb == "remove" {
				return unix.EIO // killed while it waits for the disk
			}
			return nil
		}}
		c := launch(t, w, Options{Dir: dir, FS: files})
		if err := read(t.Context(), c, ref, 0, -1, data); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		c = launch(t, w, Options{Dir: dir})
		if err := read(t.Context(), c, ref, 0, -1, data); err != nil {
			t.Fatal(err)
		}
		if got := w.count(ref.Digest); got != int64(len(data)) {
			t.Errorf("%d bytes fetched for %d", got, len(data))
		}
		time.Sleep(settled)
		if err := audit(c); err != nil {
			t.Error(err)
		}
		land(t, c)
	})
}

// TestPartialsOfTwo holds that what one registry sent is not taken for another's.
func TestPartialsOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, stop = 4 << 20, 3 << 20
		data := static()[:size]
		w := newThings()
		dir, ref := brokenOff(t, w, data, stop, false)
		other := ref
		other.Registry = "quay.io"
		c := launch(t, w, Options{Dir: dir})
		if err := read(t.Context(), c, other, 0, -1, data); err != nil {
			t.Fatal(err)
		}
		if got := w.count(ref.Digest); got != size {
			t.Errorf("%d bytes fetched, want all %d", got, size)
		}
		land(t, c)
	})
}

// TestOldPartials holds that nobody's download is kept for ever.
func TestOldPartials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings()
		dir, _ := brokenOff(t, w, static()[:2<<20], 1<<20, false)
		old := time.Now().Add(-staleAfter - time.Hour)
		if err := os.Chtimes(only(t, dir, ""), old, old); err != nil {
			t.Fatal(err)
		}
		c := launch(t, w, Options{Dir: dir})
		time.Sleep(settled)
		if n := countFiles(filepath.Join(dir, "store", "partial")); n != 0 || c.Stats().DiskEntries != 0 {
			t.Errorf("%d files, %+v", n, c.Stats())
		}
		land(t, c)
	})
}

// FuzzMap gives readMap anything: it answers with records that could have been written, inside the content, or not at
// all.
func FuzzMap(f *testing.F) {
	header := func(size int64) []byte {
		p := &partial{}
		var m mapFile
		p.noteHeader(&m, size)
		return m.Bytes()
	}
	r := rand.New(rand.NewPCG(1, 2))
	f.Add([]byte{})
	f.Add(header(-1))
	f.Add(append(header(100), record{off: 10, n: 90, sum: 7}.encode()...))
	f.Add(append(header(100), record{off: 10, n: 91, sum: 7}.encode()...))
	f.Add(append(header(-1), record{off: forever - 1, n: 9, sum: 7}.encode()...))
	f.Add(append(header(-7), record{off: -1, n: 9, sum: 7}.encode()...))
	long := header(1 << 40)
	for range 50 {
		long = append(long, record{off: r.Int64N(1 << 39), n: r.Int64N(1 << 39), sum: r.Uint32()}.encode()...)
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, b []byte) {
		size, records, length, err := readMap(bytes.NewReader(b))
		if err != nil {
			return
		}
		if size < -1 || length < headerSize || length > int64(len(b)) || (length-headerSize)%recordSize != 0 {
			t.Fatalf("size %d, length %d of %d", size, length, len(b))
		}
		var held spans
		for _, rec := range records {
			if rec.off < 0 || rec.n <= 0 || rec.off+rec.n < rec.off || (size >= 0 && rec.off+rec.n > size) {
				t.Fatalf("%+v of %d", rec, size)
			}
			if !bytes.Contains(b, rec.encode()) {
				t.Fatalf("%+v was never written", rec)
			}
			held.add(rec.off, rec.off+rec.n)
		}
		if size >= 0 && held.total() > size {
			t.Fatalf("%d held of %d", held.total(), size)
		}
	})
}

// mapFile is a File to write a header to.
type mapFile struct {
	File
	bytes.Buffer
}

func (m *mapFile) WriteAt(p []byte, _ int64) (int, error) { return m.Buffer.Write(p) }
func (m *mapFile) Read(p []byte) (int, error)             { return m.Buffer.Read(p) }

// TestMapBits flips each bit of a map: no record comes out that was not put in.
func TestMapBits(t *testing.T) {
	var m mapFile
	(&partial{}).noteHeader(&m, 1<<20)
	want := map[record]bool{}
	for i := range int64(10) {
		r := record{off: i << 10, n: 1 << 9, sum: crc32.Checksum([]byte{byte(i)}, castagnoli)}
		want[r] = true
		m.Buffer.Write(r.encode())
	}
	whole := m.Bytes()
	for bit := range len(whole) * 8 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		_, records, _, err := readMap(bytes.NewReader(b))
		if lost := len(want) - len(records); err == nil && lost != 1 {
			t.Fatalf("bit %d: %d records lost", bit, lost)
		}
		for _, r := range records {
			if !want[r] {
				t.Fatalf("bit %d: %+v", bit, r)
			}
		}
	}
}
