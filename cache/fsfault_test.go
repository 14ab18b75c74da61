package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// act is one operation on a file system: what is done, to which file.
type act struct {
	n    int // counted from 1
	verb string
	name string
	from string // of a rename
}

func (a act) String() string { return fmt.Sprintf("#%d %s %s", a.n, a.verb, filepath.Base(a.name)) }

// writes reports whether the operation changes anything.
func (a act) writes() bool {
	return !strings.Contains(" open read lstat stat readdir space close ", " "+a.verb+" ")
}

// faulty is the real file system, with a say in each operation before it is done: an error of fault is the
// operation's own. It knows of each file what a power cut would take.
type faulty struct {
	osFS
	mu    sync.Mutex
	fault func(act) error
	delay func(act) time.Duration // how long an operation takes
	n     int
	acts  []act
	dirty map[string][]span // written since the last sync
	seen  func(act)         // called for what is done
}

var errShort = errors.New("half of it")

func (f *faulty) do(verb, name string, from ...string) error {
	if f.delay != nil {
		time.Sleep(f.delay(act{verb: verb, name: name}))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	a := act{f.n, verb, name, strings.Join(from, "")}
	f.acts = append(f.acts, a)
	if f.fault != nil {
		if err := f.fault(a); err != nil {
			return err
		}
	}
	if f.seen != nil {
		f.seen(a)
	}
	return nil
}

// when sets what fails.
func (f *faulty) when(fault func(act) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func (f *faulty) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// at is the nth operation, if there was one.
func (f *faulty) at(n int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n > len(f.acts) {
		return "none"
	}
	return f.acts[n-1].String()
}

func (f *faulty) wrote(name string, off, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirty == nil {
		f.dirty = map[string][]span{}
	}
	f.dirty[name] = append(f.dirty[name], span{off, off + n})
}

func (f *faulty) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	verb := "open"
	if flag&os.O_CREATE != 0 {
		verb = "create"
	}
	if err := f.do(verb, name); err != nil {
		return nil, &fs.PathError{Op: verb, Path: name, Err: err}
	}
	file, err := f.osFS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f, name}, nil
}

func (f *faulty) Rename(from, to string) error {
	if err := f.do("rename", to, from); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirty[to] = f.dirty[from]
	delete(f.dirty, from)
	return f.osFS.Rename(from, to)
}

func (f *faulty) Remove(name string) error {
	if err := f.do("remove", name); err != nil {
		return err
	}
	return f.osFS.Remove(name)
}

func (f *faulty) MkdirAll(dir string, perm fs.FileMode) error {
	if err := f.do("mkdir", dir); err != nil {
		return err
	}
	return f.osFS.MkdirAll(dir, perm)
}

func (f *faulty) ReadDir(dir string) ([]fs.DirEntry, error) {
	if err := f.do("readdir", dir); err != nil {
		return nil, err
	}
	return f.osFS.ReadDir(dir)
}

func (f *faulty) Lstat(name string) (fs.FileInfo, error) {
	if err := f.do("lstat", name); err != nil {
		return nil, err
	}
	return f.osFS.Lstat(name)
}

func (f *faulty) SyncFS(file File) error {
	if err := f.do("syncfs", "/"); err != nil {
		return err
	}
	f.mu.Lock()
	clear(f.dirty)
	f.mu.Unlock()
	return nil // a real one makes every other process on the machine wait, and us with them
}

func (f *faulty) Space(dir string) (free, total int64, err error) {
	if err := f.do("space", dir); err != nil {
		return 0, 0, err
	}
	return f.osFS.Space(dir)
}

type faultyFile struct {
	File
	fs   *faulty
	name string
}

func (f *faultyFile) Read(p []byte) (int, error) {
	if err := f.fs.do("read", f.name); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.do("read", f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.do("write", f.name)
	if errors.Is(err, errShort) {
		p = p[:len(p)/2]
	} else if err != nil {
		return 0, err
	}
	f.fs.wrote(f.name, off, int64(len(p)))
	n, e := f.File.WriteAt(p, off)
	if err != nil {
		err = fmt.Errorf("%w: %w", err, unix.ENOSPC)
	}
	return n, errors.Join(err, e)
}

func (f *faultyFile) Stat() (fs.FileInfo, error) {
	if err := f.fs.do("stat", f.name); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

func (f *faultyFile) Sync() error {
	if err := f.fs.do("sync", f.name); err != nil {
		return err
	}
	f.fs.mu.Lock()
	delete(f.fs.dirty, f.name)
	f.fs.mu.Unlock()
	return nil
}

// cut does to the files what a power cut may do: of each page that was not synced, it keeps the bytes or loses them.
func (f *faulty) cut(r *rand.Rand) error {
	const page = 4 << 10
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, parts := range f.dirty {
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		switch r.IntN(3) {
		case 0: // nothing came to the disk but the name
			err = file.Truncate(0)
		case 1:
			for _, s := range parts {
				for at := s.from &^ (page - 1); at < s.to && err == nil; at += page {
					if r.IntN(2) == 0 {
						_, err = file.WriteAt(make([]byte, min(page, s.to-max(at, s.from))), max(at, s.from))
					}
				}
			}
		}
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// ramDir is a directory for a test in memory, where there is one: what a sync costs is nothing that it wants to know.
func ramDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tidepool")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

var _ io.ReaderAt = (*faultyFile)(nil)
