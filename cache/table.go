package cache

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// table keeps small facts that may be lost: names, links, what a manifest contains. It answers from memory, writes
// behind, and survives whatever happens to its file: a database that cannot be read is set aside and begun anew.
type table struct {
	path string
	log  *zap.Logger

	mu      sync.Mutex
	recent  *simplelru.LRU[string, []byte] // nil value: known to be absent
	dirty   map[string][]byte              // to be written; nil value: to be deleted
	writing map[string][]byte              // being written

	dbMu   sync.RWMutex // held while db is used; taken before mu
	db     *bbolt.DB    // nil: memory only
	resets int
}

const (
	// recentFacts is how many facts are answered without a look at the file: about 200 bytes each.
	recentFacts = 1 << 16
	// flushEvery bounds what a killed process forgets.
	flushEvery = 200 * time.Millisecond
	// mostDirty bounds the memory for facts that cannot be written.
	mostDirty = 1 << 18
	// mostResets is how often a process begins its database anew before it goes on without one: a disk that spoils
	// every file would fill up with them.
	mostResets = 3
)

var factsBucket = []byte("facts")

func openTable(path string, log *zap.Logger) *table {
	recent, _ := simplelru.NewLRU[string, []byte](recentFacts, nil) // fails for a size below 1 only
	t := &table{path: path, log: log, recent: recent, dirty: map[string][]byte{}}
	t.db = t.open()
	return t
}

// open opens the database, or a new one in its place.
func (t *table) open() *bbolt.DB {
	for {
		var db *bbolt.DB
		err := guard(func() (err error) {
			// The freelist is synced: without that it is rebuilt at open in a goroutine of bbolt's own, whose panic
			// over a damaged file nobody could recover.
			db, err = bbolt.Open(t.path, 0o600, &bbolt.Options{
				Timeout: time.Second, FreelistType: bbolt.FreelistMapType,
			})
			if err != nil {
				return err
			}
			return db.Update(func(tx *bbolt.Tx) error {
				_, err := tx.CreateBucketIfNotExists(factsBucket)
				return err
			})
		})
		if err == nil {
			return db
		}
		if !t.setAside(err) {
			return nil
		}
	}
}

// setAside moves a database that cannot be used out of the way.
func (t *table) setAside(err error) bool {
	t.resets++
	aside := fmt.Sprintf("%s.bad%d", t.path, t.resets)
	t.log.Warn("names and links could not be read and are set aside: they are asked for anew",
		zap.String("file", aside), zap.Error(err))
	if t.resets > mostResets {
		return false
	}
	_ = os.RemoveAll(aside)
	return os.Rename(t.path, aside) == nil
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

// use calls fn with the database. After a failure the database is left behind, not closed: its locks may be held by
// what panicked.
func (t *table) use(fn func(*bbolt.DB) error) {
	t.dbMu.RLock()
	db := t.db
	var err error
	if db != nil {
		err = guard(func() error { return fn(db) })
	}
	t.dbMu.RUnlock()
	if err == nil {
		return
	}
	t.dbMu.Lock()
	defer t.dbMu.Unlock()
	if t.db == db {
		if t.db = nil; t.setAside(err) {
			t.db = t.open()
		}
	}
}

// get returns the value of key; nil where there is none. Not to be changed.
func (t *table) get(key string) []byte {
	if v, ok := t.cached(key); ok {
		return v
	}
	var v []byte
	t.use(func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) error {
			v = bytes.Clone(tx.Bucket(factsBucket).Get([]byte(key)))
			return nil
		})
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	if newer, ok := t.unwritten(key); ok {
		return newer
	}
	t.recent.Add(key, v)
	return v
}

func (t *table) cached(key string) ([]byte, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.unwritten(key); ok {
		return v, true
	}
	return t.recent.Get(key)
}

// unwritten looks for key among what is not in the database yet. t.mu is held.
func (t *table) unwritten(key string) ([]byte, bool) {
	if v, ok := t.dirty[key]; ok {
		return v, true
	}
	v, ok := t.writing[key]
	return v, ok
}

// put sets key; a nil value deletes it.
func (t *table) put(key string, value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.dirty) < mostDirty {
		t.dirty[key] = value
	}
	t.recent.Add(key, value)
}

// scan calls fn for every key that begins with prefix, until fn returns false.
func (t *table) scan(prefix string, fn func(key string, value []byte) bool) {
	found := map[string][]byte{}
	t.use(func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket(factsBucket).Cursor()
			for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
				found[string(k)] = bytes.Clone(v)
			}
			return nil
		})
	})
	t.mu.Lock()
	for _, m := range []map[string][]byte{t.writing, t.dirty} {
		for k, v := range m {
			if len(k) >= len(prefix) && k[:len(prefix)] == prefix {
				found[k] = v
			}
		}
	}
	t.mu.Unlock()
	for k, v := range found {
		if v != nil && !fn(k, v) {
			return
		}
	}
}

// flush writes what is not written yet.
func (t *table) flush() {
	t.mu.Lock()
	if len(t.dirty) == 0 {
		t.mu.Unlock()
		return
	}
	t.writing, t.dirty = t.dirty, map[string][]byte{}
	batch := maps.Clone(t.writing)
	t.mu.Unlock()
	t.use(func(db *bbolt.DB) error {
		err := db.Update(func(tx *bbolt.Tx) error { return write(tx.Bucket(factsBucket), batch) })
		if damaged(err) {
			return err
		}
		if err != nil {
			t.log.Warn("names and links not written", zap.Error(err))
		}
		return nil
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writing = nil
}

// damaged reports whether an error of a write is the file's and not the disk's.
func damaged(err error) bool {
	var path *os.PathError
	return err != nil && !errors.As(err, &path) && !isDiskError(err)
}

func write(b *bbolt.Bucket, batch map[string][]byte) error {
	for k, v := range batch {
		var err error
		if v == nil {
			err = b.Delete([]byte(k))
		} else {
			err = b.Put([]byte(k), v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *table) close() {
	t.flush()
	t.dbMu.Lock()
	defer t.dbMu.Unlock()
	if t.db != nil {
		if err := guard(t.db.Close); err != nil {
			t.log.Warn("names and links not closed", zap.Error(err))
		}
		t.db = nil
	}
}
