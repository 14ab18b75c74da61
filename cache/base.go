package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// base is one opening of the table's database. Over a damaged file bbolt panics, or faults on its mapping, and may do
// so with locks held that others then wait for without end. So each use has a goroutine of its own, and the first that
// finds the base broken lets go all others, who leave theirs behind with it.
type base struct {
	db     *bbolt.DB
	broken chan struct{}
}

const (
	// mostResets is how often a process begins its database anew before it goes on without one.
	mostResets = 3
	// large is the size in bytes from which a database that is mostly free is copied into a smaller file: bbolt gives
	// nothing back by itself.
	large = 64 << 20
	// unsyncedFreelist stands in bbolt's meta pages where the list of free pages was not written down.
	unsyncedFreelist = math.MaxUint64
	boltMagic        = 0xED0CDAED
)

var (
	factsBucket = []byte("facts")
	errNoBase   = errors.New("no database")
	errEmpty    = errors.New("a new database")
)

// use calls fn in a reading transaction and returns its answer.
func use[T any](t *table, fn func(*bbolt.Bucket) T) (v T, err error) {
	answer := make(chan T, 1)
	err = t.ask(func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) error {
			answer <- fn(tx.Bucket(factsBucket))
			return nil
		})
	})
	select {
	case v = <-answer:
	default:
	}
	return v, err
}

// update calls fn in a writing transaction.
func (t *table) update(fn func(*bbolt.Bucket) error) error {
	return t.ask(func(db *bbolt.DB) error {
		return db.Update(func(tx *bbolt.Tx) error { return fn(tx.Bucket(factsBucket)) })
	})
}

// ask calls fn with the database. One that turns out to be damaged is replaced.
func (t *table) ask(fn func(*bbolt.DB) error) error {
	b := t.base.Load()
	if b == nil {
		return errNoBase
	}
	done := make(chan error, 1)
	go func() { done <- guard(func() error { return fn(b.db) }) }()
	select {
	case err := <-done:
		if damaged(err) && t.base.CompareAndSwap(b, nil) {
			close(b.broken)
			t.setAside(err)
			t.open()
		}
		return err
	case <-b.broken:
		return errNoBase
	}
}

// guard calls fn and turns what bbolt does over a damaged file, panics and faults, into an error.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	return fn()
}

// damaged reports whether err is the file's fault, and neither the disk's nor that of another process.
func damaged(err error) bool {
	switch {
	case err == nil, errors.Is(err, errNoBase), errors.Is(err, berrors.ErrTimeout),
		errors.Is(err, berrors.ErrDatabaseReadOnly):
		return false
	default:
		return !isDiskError(err) || errors.Is(err, unix.EACCES)
	}
}

// open opens the database, or a new one in its place.
func (t *table) open() {
	t.opening.Lock()
	defer t.opening.Unlock()
	for t.base.Load() == nil && t.resets <= mostResets {
		db, err := t.openBase(false)
		if errors.Is(err, unix.EROFS) {
			db, err = t.openBase(true)
		}
		switch {
		case err == nil:
			t.base.Store(&base{db: db, broken: make(chan struct{})})
		case damaged(err):
			t.setAside(err)
		default:
			t.log.Warn("names and links are kept in memory only for now", zap.Error(err))
			return
		}
	}
}

// setAside moves a database that cannot be used out of the way.
func (t *table) setAside(err error) {
	t.resets++
	aside := t.path + ".bad"
	t.log.Warn("names and links could not be read and are set aside: they are asked for anew",
		zap.String("as", aside), zap.Error(err))
	if err := errors.Join(os.RemoveAll(aside), os.Rename(t.path, aside)); err != nil {
		t.log.Warn("names and links could not be set aside", zap.Error(err))
	}
}

// openBase opens the file.
func (t *table) openBase(readOnly bool) (db *bbolt.DB, err error) {
	err = guard(func() error {
		if err := sane(t.path); err != nil {
			return err
		}
		if db, err = openBolt(t.path, readOnly); err != nil {
			return err
		}
		if err = db.View(hasBucket); err == errEmpty {
			err = db.Update(makeBucket)
		}
		if err == nil && t.bloated(db) {
			db, err = t.compact(db)
		}
		if err != nil && db != nil {
			_ = db.Close()
		}
		return err
	})
	return db, err
}

func openBolt(path string, readOnly bool) (*bbolt.DB, error) {
	// The freelist is synced, which is bbolt's default; see sane.
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: time.Second, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly,
	})
}

func hasBucket(tx *bbolt.Tx) error {
	if tx.Bucket(factsBucket) == nil {
		return errEmpty
	}
	return nil
}

func makeBucket(tx *bbolt.Tx) error {
	_, err := tx.CreateBucket(factsBucket)
	return err
}

// sane refuses what bbolt must not be given: anything but a file, and a database without its list of free pages, which
// bbolt rebuilds in a goroutine of its own, whose panic over a damaged page nobody could recover.
func sane(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file but %s", path, fi.Mode())
	}
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	// The meta pages are the first two, of 1 KiB to 16 MiB. In each, the magic number is at 16 and the list at 48.
	var b [56]byte
	for at := int64(0); at <= 16<<20; at = max(1<<10, 2*at) {
		n, _ := f.ReadAt(b[:], at)
		if n == len(b) && binary.LittleEndian.Uint32(b[16:]) == boltMagic &&
			binary.LittleEndian.Uint64(b[48:]) == unsyncedFreelist {
			return errors.New("written by another program")
		}
	}
	return nil
}

// bloated reports whether the file is large and mostly free.
func (t *table) bloated(db *bbolt.DB) bool {
	fi, err := os.Stat(t.path)
	free := int64(db.Stats().FreePageN) * int64(db.Info().PageSize)
	return err == nil && fi.Size() > t.large && free > fi.Size()/2 && !db.IsReadOnly()
}

// compact copies db into a smaller file, which takes its place. If that fails, all stays as it was.
func (t *table) compact(db *bbolt.DB) (*bbolt.DB, error) {
	path := t.path + ".new"
	_ = os.RemoveAll(path)
	small, err := openBolt(path, false)
	if err != nil {
		return db, nil
	}
	small.NoSync = true // once at the end is enough
	const step = 1 << 20
	err = errors.Join(bbolt.Compact(small, db, step), small.Sync(), small.Close())
	if err == nil {
		err = os.Rename(path, t.path)
	}
	if err != nil {
		t.log.Warn("names and links could not be compacted", zap.Error(errors.Join(err, os.RemoveAll(path))))
		return db, nil
	}
	_ = db.Close()
	return openBolt(t.path, false)
}
