package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// written is a table's file with so many facts of up to so many bytes, and what is in it.
func written(t testing.TB, n, size int) (path string, facts map[string]string) {
	t.Helper()
	path, facts = filepath.Join(ramDir(t), "facts.db"), map[string]string{}
	tab := openTable(path, zap.NewNop())
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		k, v := fmt.Sprintf("%c%06d", 'a'+i%5, i), string(noise(r.Uint64(), 10+r.IntN(size)))
		tab.put(k, []byte(v))
		facts[k] = v
		if i%100 == 99 {
			tab.flush()
		}
	}
	tab.close()
	return path, facts
}

// honest reports whether a table has nothing but what was put into it, and how much of that.
func honest(t *table, facts map[string]string) (n int, err error) {
	for k, want := range facts {
		if got := t.get(k); got != nil && string(got) != want {
			return n, fmt.Errorf("%q is %q, was %q", k, got, want)
		} else if got != nil {
			n++
		}
	}
	for _, prefix := range []string{"", "a", "c0"} {
		t.scan(prefix, func(k string, v []byte) bool {
			if facts[k] != string(v) {
				err = fmt.Errorf("%q is %q, was %q", k, v, facts[k])
			}
			return err == nil
		})
	}
	return n, err
}

// usable reports whether a table still does what it is for.
func usable(t *table) error {
	t.put("new", []byte("fact"))
	t.flush()
	if got := t.get("new"); string(got) != "fact" {
		return fmt.Errorf("a new fact is %q", got)
	}
	return nil
}

// within fails the test instead of hanging.
func within(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s: hangs", what)
	}
}

// TestTableDamaged opens databases that are cut, zeroed, flipped, foreign or no files at all, and damages them while
// they are in use: it opens, it answers nothing that was not put in, and it takes new facts.
func TestTableDamaged(t *testing.T) {
	source, facts := written(t, 300, 1500)
	whole, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	type damage struct {
		name string
		do   func(path string) error
	}
	var cases []damage
	for i := range 40 {
		at := int64(len(whole)) * int64(i) / 40
		if i%2 == 1 {
			at = at / int64(page) * int64(page)
		}
		cases = append(cases, damage{fmt.Sprintf("cut at %d", at), func(p string) error { return os.Truncate(p, at) }})
	}
	over := func(name string, at int64, b []byte) {
		cases = append(cases, damage{name, func(p string) error {
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(b, at)
			return errors.Join(err, f.Close())
		}})
	}
	for i := 0; i*page < len(whole); i += 1 + len(whole)/page/15 {
		over(fmt.Sprintf("page %d of zeroes", i), int64(i*page), make([]byte, page))
		over(fmt.Sprintf("page %d of noise", i), int64(i*page), noise(uint64(i), page))
	}
	over("both meta pages of zeroes", 0, make([]byte, 2*page))
	for i := range 30 {
		at := rand.New(rand.NewPCG(9, uint64(i))).IntN(len(whole))
		over(fmt.Sprintf("bit at %d", at), int64(at), []byte{whole[at] ^ 1<<(i%8)})
	}
	for _, c := range cases {
		for _, running := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/running %v", c.name, running), func(t *testing.T) {
				path := filepath.Join(ramDir(t), "facts.db")
				if err := os.WriteFile(path, whole, 0o600); err != nil {
					t.Fatal(err)
				}
				within(t, c.name, func() { testTableDamaged(t, path, facts, running, c.do) })
			})
		}
	}
}

func testTableDamaged(t *testing.T, path string, facts map[string]string, running bool, damage func(string) error) {
	var tab *table
	if running {
		tab = openTable(path, zap.NewNop())
	}
	if err := damage(path); err != nil {
		t.Error(err)
		return
	}
	if !running {
		tab = openTable(path, zap.NewNop())
	}
	var wg sync.WaitGroup
	for range 3 { // all at once, for one that panics may hold locks that the others want
		wg.Go(func() {
			if _, err := honest(tab, facts); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() { tab.flush() })
	wg.Wait()
	if err := usable(tab); err != nil {
		t.Error(err)
	}
	tab.close()
	tab = openTable(path, zap.NewNop())
	if _, err := honest(tab, facts); err != nil && !errors.Is(err, errWrong) {
		t.Log(err) // the new fact
	}
	if err := usable(tab); err != nil {
		t.Error(err)
	}
	tab.close()
}

// TestTableStrangers puts something else in the database's place.
func TestTableStrangers(t *testing.T) {
	other := func(options bbolt.Options) func(string) error {
		return func(p string) error {
			options.Timeout = time.Second
			db, err := bbolt.Open(p, 0o600, &options)
			if err != nil {
				return err
			}
			return errors.Join(db.Update(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucket([]byte("other"))
				if err == nil {
					err = b.Put([]byte("lnot ours"), []byte("nothing of ours"))
				}
				return err
			}), db.Close())
		}
	}
	newer := func(p string) error {
		if err := other(bbolt.Options{})(p); err != nil {
			return err
		}
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		for _, at := range []int64{20, int64(os.Getpagesize()) + 20} { // the version of either meta page
			_, e := f.WriteAt(binary.LittleEndian.AppendUint32(nil, 99), at)
			err = errors.Join(err, e)
		}
		return errors.Join(err, f.Close())
	}
	cases := map[string]func(string) error{
		"directory":               func(p string) error { return os.MkdirAll(p+"/a", 0o700) },
		"pipe":                    func(p string) error { return unix.Mkfifo(p, 0o600) },
		"symlink":                 func(p string) error { return os.Symlink("/etc/passwd", p) },
		"empty":                   func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"one byte":                func(p string) error { return os.WriteFile(p, []byte{0}, 0o600) },
		"text":                    func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("hello\n"), 4000), 0o600) },
		"noise":                   func(p string) error { return os.WriteFile(p, noise(3, 1<<20), 0o600) },
		"foreign database":        other(bbolt.Options{}),
		"newer database":          newer,
		"no list of what is free": other(bbolt.Options{NoFreelistSync: true}),
		"other page size":         other(bbolt.Options{PageSize: 16 << 10, NoFreelistSync: true}),
	}
	for name, do := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(ramDir(t), "facts.db")
			if err := do(path); err != nil {
				t.Fatal(err)
			}
			within(t, name, func() {
				for range 2 {
					tab := openTable(path, zap.NewNop())
					if err := usable(tab); err != nil {
						t.Error(err)
					}
					if v := tab.get("lnot ours"); v != nil {
						t.Errorf("believes %q", v)
					}
					if tab.base.Load() == nil {
						t.Error("no database")
					}
					tab.close()
				}
			})
		})
	}
}

// TestTableLocked holds that a database which another process holds is neither waited for nor thrown away.
func TestTableLocked(t *testing.T) {
	path, facts := written(t, 100, 100)
	db, err := bbolt.Open(path, 0o600, nil) // a lock belongs to the descriptor
	if err != nil {
		t.Fatal(err)
	}
	tab := openTable(path, zap.NewNop())
	if n, err := honest(tab, facts); n != 0 || err != nil {
		t.Errorf("%d facts, %v", n, err)
	}
	if err := usable(tab); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if !tab.flush() {
		t.Error("not written")
	}
	if n, err := honestBut(tab, facts, "new"); n != 100 || err != nil {
		t.Errorf("after it was let go: %d facts, %v", n, err)
	}
	tab.close()
	tab = openTable(path, zap.NewNop())
	if string(tab.get("new")) != "fact" {
		t.Error("what was put meanwhile was not written")
	}
	tab.close()
}

// honestBut is honest with one fact that was put since.
func honestBut(t *table, facts map[string]string, key string) (int, error) {
	all := map[string]string{key: string(t.get(key))}
	for k, v := range facts {
		all[k] = v
	}
	n, err := honest(t, all)
	return n - 1, err
}

// TestTableReadOnly holds that links and names are known on a disk that takes no writes.
func TestTableReadOnly(t *testing.T) {
	path, facts := written(t, 100, 100)
	dir := filepath.Dir(path)
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skip("cannot mount: ", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skip("cannot mount read-only: ", err)
	}
	tab := openTable(path, zap.NewNop())
	if n, err := honest(tab, facts); n != 100 || err != nil {
		t.Errorf("%d facts, %v", n, err)
	}
	if err := usable(tab); err != nil {
		t.Error(err)
	}
	tab.close()
}

// TestTableHangsNobody holds that a panic inside the database, with its locks held, hangs nobody who uses it at the
// same time, nor those who come later.
func TestTableHangsNobody(t *testing.T) {
	path, facts := written(t, 100, 100)
	tab := openTable(path, zap.NewNop())
	waits, release := make(chan struct{}), make(chan struct{})
	within(t, "a use beside a panic", func() {
		var wg sync.WaitGroup
		wg.Go(func() {
			err := tab.ask(func(*bbolt.DB) error { close(waits); <-release; return nil }) // as if for a lock
			if !errors.Is(err, errNoBase) {
				t.Errorf("the one who waits hears %v", err)
			}
		})
		<-waits
		_ = tab.ask(func(*bbolt.DB) error { panic("said the test") })
		wg.Wait()
	})
	close(release)
	if err := usable(tab); err != nil {
		t.Error(err)
	}
	if n, err := honestBut(tab, facts, "new"); n != 0 || err != nil {
		t.Errorf("%d facts, %v", n, err)
	}
	for range mostResets + 2 { // and on, until it has had enough
		_ = tab.ask(func(*bbolt.DB) error { panic("said the test") })
		if err := usable(tab); err != nil {
			t.Error(err)
		}
	}
	tab.close()
	if files, _ := filepath.Glob(path + "*"); len(files) > 2 {
		t.Errorf("left %q", files)
	}
}

// TestTableFullDisk holds that facts which cannot be written wait, and that what is written already stays.
func TestTableFullDisk(t *testing.T) {
	path, facts := written(t, 100, 100)
	dir := t.TempDir()
	if err := unix.Mount("tidepool", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skip("cannot mount: ", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	small, filler := filepath.Join(dir, "facts.db"), filepath.Join(dir, "filler")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(small, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filler, make([]byte, 512<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	tab := openTable(small, zap.NewNop())
	for i := range 500 {
		k, v := fmt.Sprint("late", i), string(noise(uint64(i), 200))
		tab.put(k, []byte(v))
		facts[k] = v
	}
	tab.flush()
	if n, err := honest(tab, facts); n != 600 || err != nil || tab.resets != 0 || !tab.failing {
		t.Errorf("%d facts, %v; %d resets, failing %v", n, err, tab.resets, tab.failing)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	tab.close()
	tab = openTable(small, zap.NewNop())
	if n, err := honest(tab, facts); n != 600 || err != nil {
		t.Errorf("then %d facts, %v", n, err)
	}
	tab.close()
}

// TestTableLatest holds that a read never brings back what was replaced, whatever is being written meanwhile.
func TestTableLatest(t *testing.T) {
	tab := openTable(filepath.Join(ramDir(t), "facts.db"), zap.NewNop())
	var over atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !over.Load() {
			tab.flush()
		}
	})
	for i := range 4 {
		wg.Go(func() {
			key := fmt.Sprint("k", i)
			for n := range 3000 {
				var want []byte
				if n%7 != 0 {
					want = []byte(fmt.Sprint(n))
				}
				tab.put(key, want)
				if n%3 == 0 {
					tab.mu.Lock()
					tab.recent.Remove(key)
					tab.mu.Unlock()
				}
				if got := tab.get(key); !bytes.Equal(got, want) {
					t.Errorf("%s is %q, was set to %q", key, got, want)
				}
				var scanned []byte
				tab.scan(key, func(_ string, v []byte) bool { scanned = v; return true })
				if !bytes.Equal(scanned, want) {
					t.Errorf("%s is %q in a scan, was set to %q", key, scanned, want)
				}
			}
			over.Store(true)
		})
	}
	wg.Wait()
	tab.close()
}

// TestTableScan holds that a scan sees everything under a prefix, also what is more than one transaction reads, and
// that its func may use the table.
func TestTableScan(t *testing.T) {
	path, facts := written(t, 5*stride+5, 100)
	tab := openTable(path, zap.NewNop())
	tab.put("b-unwritten", []byte("x"))
	facts["b-unwritten"] = "x"
	seen := map[string]bool{}
	tab.scan("b", func(k string, _ []byte) bool {
		if k[0] != 'b' || seen[k] {
			t.Errorf("%q", k)
		}
		seen[k] = true
		tab.put(k, nil)
		return true
	})
	if want := stride + 2; len(seen) != want {
		t.Errorf("%d seen, want %d", len(seen), want)
	}
	tab.scan("b", func(k string, _ []byte) bool {
		t.Errorf("%q was deleted", k)
		return false
	})
	n := 0
	tab.scan("c", func(string, []byte) bool { n++; return n < 10 })
	if n != 10 {
		t.Errorf("%d after it was told to stop", n)
	}
	tab.close()
}

// TestTableCompacts holds that a database that was large once does not stay so.
func TestTableCompacts(t *testing.T) {
	path, facts := written(t, 20_000, 100)
	size := func() int64 {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	before := size()
	tab := openTable(path, zap.NewNop())
	for k := range facts {
		if k > "a001" {
			tab.put(k, nil)
			delete(facts, k)
		}
	}
	tab.close()
	if size() < before {
		t.Fatal("smaller by itself")
	}
	tab = &table{path: path, log: zap.NewNop(), large: before / 2, recent: tab.recent, dirty: map[string][]byte{},
		wake: make(chan struct{}, 1)}
	tab.recent.Purge()
	tab.open()
	if size() > before/4 {
		t.Errorf("%d bytes, were %d", size(), before)
	}
	if n, err := honest(tab, facts); n != len(facts) || err != nil {
		t.Errorf("%d of %d facts, %v", n, len(facts), err)
	}
	if err := usable(tab); err != nil {
		t.Error(err)
	}
	tab.close()
}

// TestPrune holds that facts about what is long gone are forgotten, and no others.
func TestPrune(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(70 << 10)
		held := w.image("held")
		gone := newThings(71 << 10)
		lost := gone.image("lost")
		for _, ref := range gone.refs {
			w.put(gone.data[ref])
		}
		w.tag("lost", gone.data[lost])
		dir := ramDir(t)
		var later atomic.Int64
		c := launch(t, w, Options{Dir: dir, Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }})
		if err := errors.Join(w.pullAll(t.Context(), c), gone.pullAll(t.Context(), c)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, ref := range gone.refs {
			if ref.Tag == "" {
				c.disk.books.drop(c.disk.books.find(slot{digest: ref.Digest}))
			}
		}
		count := func() (n int) {
			c.facts.scan("", func(string, []byte) bool { n++; return true })
			return n
		}
		before := count()
		families := func() (n int) {
			c.facts.scan(parentFact, func(string, []byte) bool { n++; return true })
			c.facts.scan(childFact, func(string, []byte) bool { n++; return true })
			return n
		}
		if families() != 4 {
			t.Errorf("%d families", families())
		}
		time.Sleep(tendEvery + time.Hour)
		if got := families(); got != 2 {
			t.Errorf("%d families left", got)
		}
		if got := count(); got != before-2 {
			t.Errorf("%d facts left of %d after a day", got, before)
		}
		later.Store(int64(oldFact))
		time.Sleep(tendEvery)
		var left []string
		c.facts.scan("", func(k string, v []byte) bool {
			if d, _, ok := subject(k, v); !ok || !c.disk.holds(d) {
				left = append(left, k)
			}
			return true
		})
		if len(left) > 0 || count() < 6 {
			t.Errorf("%d facts left, %q about what is not held", count(), left)
		}
		w.set(func(s *shelf) { s.down = true })
		if err := read(t.Context(), c, held, 0, -1, w.data[held]); err != nil {
			t.Error(err)
		}
		land(t, c)
	})
}

// TestLinksLost holds that a lost table makes tidepool ask, and never allow.
func TestLinksLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(70 << 10)
		dir := stored(t, w, true)
		if err := os.Truncate(filepath.Join(dir, "store", "facts.db"), 5000); err != nil {
			t.Fatal(err)
		}
		c := launch(t, w, Options{Dir: dir, Private: func(string) bool { return true }})
		ref := w.refs[0]
		w.set(func(s *shelf) { s.down = true })
		if err := read(t.Context(), c, ref, 0, -1, w.data[ref]); !errors.Is(err, ErrUnavailable) {
			t.Errorf("nobody to ask, and it says %v", err)
		}
		w.set(func(s *shelf) { s.down = false; delete(s.all, ref.Digest) })
		if err := read(t.Context(), c, ref, 0, -1, w.data[ref]); !errors.Is(err, ErrNotFound) {
			t.Errorf("the upstream says no, and it says %v", err)
		}
		w.put(w.data[ref])
		if err := read(t.Context(), c, ref, 0, -1, w.data[ref]); err != nil {
			t.Error(err)
		}
		land(t, c)
	})
}
