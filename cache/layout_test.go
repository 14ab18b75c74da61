package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestBadState puts anything in the place of each thing that a start looks at: it starts, it serves what is held, and
// it fetches the rest.
func TestBadState(t *testing.T) {
	kinds := map[string]func(path string) error{
		"absent":         func(string) error { return nil },
		"empty":          func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"one byte":       func(p string) error { return os.WriteFile(p, []byte{'7'}, 0o600) },
		"noise":          func(p string) error { return os.WriteFile(p, noise(1, 10<<10), 0o600) },
		"full directory": func(p string) error { return os.MkdirAll(p+"/sub/sub", 0o700) },
		"pipe":           func(p string) error { return unix.Mkfifo(p, 0o600) },
		"symlink":        func(p string) error { return os.Symlink("/nowhere", p) },
	}
	names := []string{"LOCK", "FORMAT", "CLEAN", "facts.db", "tmp", "tmp/1", "partial", "partial/sha256", "blobs/sha512", "pins", "extra"}
	for _, name := range names {
		for kind, do := range kinds {
			t.Run(name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newThings(10, 100<<10)
					w.image("latest")
					dir := stored(t, w, true)
					path := filepath.Join(dir, "store", name)
					if err := errors.Join(os.RemoveAll(path), do(path)); err != nil {
						t.Fatal(err)
					}
					c := launch(t, w, Options{Dir: dir})
					more := newThings(11, 101<<10, 2<<20)
					for _, ref := range more.refs {
						w.put(more.data[ref])
					}
					for range 2 {
						if err := errors.Join(w.pullAll(t.Context(), c), more.pullAll(t.Context(), c)); err != nil {
							t.Error(err)
						}
						time.Sleep(settled)
					}
					// Lost links are had again by a sample; the bytes are not fetched again.
					if sent := w.count(w.refs[1].Digest); sent != 100<<10 && sent != 100<<10+sample {
						t.Errorf("%d bytes fetched of what was held", sent)
					}
					land(t, c)
				})
			})
		}
	}
}

// TestNewerFormat holds that an older tidepool does without the state of a newer one, and gives it back.
func TestNewerFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := static()[:2<<20]
		w := newThings(10, 100<<10)
		dir, _ := brokenOff(t, w, data, 1<<20, false)
		store := filepath.Join(dir, "store")
		c := launch(t, w, Options{Dir: dir})
		if err := w.pullAll(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(settled)
		land(t, c)
		for n := range 2 { // up, down, up, down
			if err := os.WriteFile(filepath.Join(store, "FORMAT"), []byte("2\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c = launch(t, w, Options{Dir: dir})
			if err := w.pullAll(t.Context(), c); err != nil {
				t.Error(err)
			}
			if sent := w.count(w.refs[1].Digest); sent > 100<<10+int64(n+1)*sample {
				t.Errorf("%d bytes fetched of what was held", sent)
			}
			if c.disk.clean {
				t.Error("believes the newer one's word")
			}
			time.Sleep(settled)
			if n := c.Stats().DiskEntries; n != len(w.refs) {
				t.Errorf("%d entries", n)
			}
			land(t, c)
		}
		for _, name := range []string{"facts.db.format2", "facts.db.format2.1", "partial.format2", "CLEAN.format2"} {
			if _, err := os.Stat(filepath.Join(store, name)); err != nil {
				t.Error(err)
			}
		}
		if n := countFiles(filepath.Join(store, "partial.format2")); n != 2 {
			t.Errorf("%d files of the download that broke off", n)
		}
		if b, err := os.ReadFile(filepath.Join(store, "FORMAT")); string(b) != "1\n" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// TestTwoProcesses is row 49: the second hears who has the directory and what to do.
func TestTwoProcesses(t *testing.T) {
	w, dir := newThings(10), ramDir(t)
	c := launch(t, w, Options{Dir: dir})
	_, err := New(t.Context(), w, Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "another tidepool") ||
		!strings.Contains(err.Error(), "--data") {
		t.Errorf("the second hears %v", err)
	}
	if err := w.pullAll(t.Context(), c); err != nil {
		t.Errorf("the first: %v", err)
	}
	land(t, c)
	land(t, launch(t, w, Options{Dir: dir}))
}

// TestRootIsOurs holds that nobody else may write or read where we keep things, whoever made the directory.
func TestRootIsOurs(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	given := filepath.Join(ramDir(t), "volume")
	root := filepath.Join(given, "store")
	for range 2 {
		land(t, launch(t, newShelf(), Options{Dir: given}))
		err := filepath.Walk(given, func(path string, fi os.FileInfo, err error) error {
			if path != given && err == nil && fi.Mode().Perm()&0o077 != 0 {
				err = fmt.Errorf("%s is %s", path, fi.Mode())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if err := os.Chmod(root, 0o777); err != nil { // as Kubernetes does with a volume's files
			t.Fatal(err)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	if err := os.Chown(root, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	land(t, launch(t, newShelf(), Options{Dir: given})) // root may
	if fi, err := os.Stat(root); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

// TestReadOnlyStart is row 41 from the start on: what is held is served, the rest passes through.
func TestReadOnlyStart(t *testing.T) {
	w, more := newThings(10, 100<<10, 2<<20), newThings(11, 101<<10, 3<<20)
	w.image("latest")
	var dir string
	synctest.Test(t, func(inner *testing.T) { dir = storedIn(inner, ramDir(t), w, true) })
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skip("cannot mount: ", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skip("cannot mount read-only: ", err)
	}
	synctest.Test(t, func(t *testing.T) {
		for _, ref := range more.refs {
			w.put(more.data[ref])
		}
		c := launch(t, w, Options{Dir: dir, Private: func(string) bool { return true }})
		for range 2 {
			if err := errors.Join(w.pullAll(t.Context(), c), more.pullAll(t.Context(), c)); err != nil {
				t.Error(err)
			}
			time.Sleep(settled)
		}
		w.set(func(s *shelf) { s.down = true })
		if err := w.pullAll(t.Context(), c); err != nil {
			t.Errorf("held, allowed, and with the upstream down: %v", err)
		}
		if err := c.Health(); !errors.Is(err, unix.EROFS) {
			t.Errorf("health: %v", err)
		}
		land(t, c)
	})
}

// TestSlowSync is row 45: nobody waits for a disk that takes its time.
func TestSlowSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &faulty{dirty: map[string][]span{}, delay: func(a act) time.Duration {
			if a.verb == "sync" || a.verb == "syncfs" {
				return 5 * time.Second
			}
			return 0
		}}
		w := newThings(10, 100<<10, 2<<20, 3<<20)
		w.image("latest")
		c := launch(t, w, Options{Dir: ramDir(t), FS: files})
		at := time.Now()
		for range 3 {
			if err := w.pullAll(t.Context(), c); err != nil {
				t.Error(err)
			}
		}
		if d := time.Since(at); d > time.Second {
			t.Errorf("took %s", d)
		}
		time.Sleep(settled)
		if err := audit(c); err != nil {
			t.Error(err)
		}
		land(t, c)
	})
}

// TestFileTimes is row 47: what the files' times say matters to nothing but the order of eviction.
func TestFileTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(100<<10, 101<<10, 102<<10)
		dir := stored(t, w, true)
		for i, at := range []time.Time{time.Unix(0, 0), time.Unix(-1e9, 0), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)} {
			if err := os.Chtimes(blobPath(dir, w.refs[i].Digest), at, at); err != nil {
				t.Fatal(err)
			}
		}
		w.set(func(s *shelf) { s.down = true })
		c := launch(t, w, Options{Dir: dir})
		time.Sleep(settled)
		if err := errors.Join(w.pullAll(t.Context(), c), audit(c)); err != nil {
			t.Error(err)
		}
		land(t, c)
	})
}

// TestReadError is row 39: a file that cannot be read costs nobody an answer, and goes.
func TestReadError(t *testing.T) {
	for _, clean := range []bool{true, false} {
		for _, size := range []int{1000, 200 << 10, 2 << 20} {
			t.Run(fmt.Sprintf("clean %v/%d", clean, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newThings(size)
					dir := stored(t, w, clean)
					bad := blobPath(dir, w.refs[0].Digest)
					files := &faulty{dirty: map[string][]span{}, fault: func(a act) error {
						if a.name == bad && a.verb == "read" {
							return unix.EIO
						}
						return nil
					}}
					c := launch(t, w, Options{Dir: dir, FS: files, ScrubRate: -1})
					if err := w.pullAll(t.Context(), c); err != nil {
						t.Error(err)
					}
					files.when(nil)
					time.Sleep(settled)
					w.set(func(s *shelf) { s.down = true })
					if err := errors.Join(w.pullAll(t.Context(), c), audit(c)); err != nil {
						t.Errorf("not healed: %v", err)
					}
					land(t, c)
				})
			})
		}
	}
}

// TestCloseUnderLoad holds that whoever still reads when the cache closes hears an error or gets what he asked for.
func TestCloseUnderLoad(t *testing.T) {
	w := newThings(10, 10<<10, 100<<10, 2<<20)
	w.image("latest")
	c := launch(t, w, Options{Dir: ramDir(t)})
	var wg sync.WaitGroup
	closing := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				err := w.pullAll(t.Context(), c)
				if errors.Is(err, errWrong) && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
				select {
				case <-closing:
					if i > 20 || errors.Is(err, ErrClosed) {
						return
					}
				default:
				}
			}
		})
	}
	time.AfterFunc(20*time.Millisecond, func() { close(closing) })
	<-closing
	land(t, c)
	wg.Wait()
}
