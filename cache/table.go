package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// table keeps small facts that may be lost: names, links, what a manifest contains. It answers from memory, writes
// behind, and survives whatever happens to its file: each fact has a checksum, one that does not fit was never there,
// and a database that cannot be read is set aside and begun anew.
type table struct {
	path string
	log  *zap.Logger
	base atomic.Pointer[base] // nil: memory only

	opening sync.Mutex // held by the one who opens the database
	resets  int        // how often it was begun anew
	large   int64      // see large

	mu      sync.Mutex // guards what follows, for a moment
	recent  *simplelru.LRU[string, []byte]
	dirty   map[string][]byte // to be written; nil value: to be deleted
	writing map[string][]byte // being written; not changed any more
	failing bool              // the last write failed
	wake    chan struct{}     // something is dirty
}

const (
	// recentFacts is how many facts are answered without a look at the file: about 200 bytes each.
	recentFacts = 1 << 16
	// flushEvery bounds what a killed process forgets.
	flushEvery = 200 * time.Millisecond
	// mostDirty bounds the memory for facts that cannot be written.
	mostDirty = 1 << 17
	// stride is how many facts are read in one transaction: no other waits long for it.
	stride = 1 << 10
)

func openTable(path string, log *zap.Logger) *table {
	recent, _ := simplelru.NewLRU[string, []byte](recentFacts, nil) // fails for a size below 1 only
	t := &table{path: path, log: log, large: large, recent: recent, dirty: map[string][]byte{}, wake: make(chan struct{}, 1)}
	t.open()
	return t
}

// get returns the value of key; nil where there is none. Not to be changed.
func (t *table) get(key string) []byte {
	if v, ok := t.cached(key); ok {
		return v
	}
	v, err := use(t, func(b *bbolt.Bucket) []byte { return unseal([]byte(key), b.Get([]byte(key))) })
	t.mu.Lock()
	defer t.mu.Unlock()
	if newer, ok := t.known(key); ok { // put since we looked
		return newer
	}
	if err == nil {
		t.recent.Add(key, v)
	}
	return v
}

func (t *table) cached(key string) ([]byte, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known(key)
}

// known looks for key in memory; a nil value is known to be absent. t.mu is held.
func (t *table) known(key string) ([]byte, bool) {
	if v, ok := t.dirty[key]; ok {
		return v, true
	}
	if v, ok := t.writing[key]; ok {
		return v, true
	}
	return t.recent.Get(key)
}

// put sets key; a nil value deletes it.
func (t *table) put(key string, value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recent.Add(key, value)
	t.write(key, value)
}

// hold is put for what is not to be written down.
func (t *table) hold(key string, value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recent.Add(key, value)
}

// write has key written, unless too much waits already. t.mu is held.
func (t *table) write(key string, value []byte) {
	if _, ok := t.dirty[key]; ok || len(t.dirty) < mostDirty {
		t.dirty[key] = value
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// scan calls fn for the keys that begin with prefix, in no order, until fn returns false.
func (t *table) scan(prefix string, fn func(key string, value []byte) bool) {
	newer := t.unwritten(prefix)
	for k, v := range newer {
		if v != nil && !fn(k, v) {
			return
		}
	}
	t.written(prefix, func(k string, v []byte) bool {
		_, ok := newer[k]
		return ok || v == nil || fn(k, v)
	})
}

// written calls fn for the keys in the database that begin with prefix, until fn returns false. It reads a few at a
// time, so that no transaction is open for long and fn may use the table. A value whose checksum is wrong is nil.
func (t *table) written(prefix string, fn func(key string, value []byte) bool) {
	type fact struct {
		key   string
		value []byte
	}
	for from, more := prefix, true; more; {
		facts, _ := use(t, func(b *bbolt.Bucket) (facts []fact) {
			c := b.Cursor()
			for k, v := c.Seek([]byte(from)); bytes.HasPrefix(k, []byte(prefix)) && k != nil && len(facts) < stride; k, v = c.Next() {
				facts = append(facts, fact{string(k), unseal(k, v)})
			}
			return facts
		})
		for _, f := range facts {
			if !fn(f.key, f.value) {
				return
			}
			from = f.key + "\x00" // the next that there can be
		}
		more = len(facts) == stride
	}
}

// unwritten are the facts under prefix that may not be in the database yet.
func (t *table) unwritten(prefix string) map[string][]byte {
	found := map[string][]byte{}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range []map[string][]byte{t.writing, t.dirty} {
		for k, v := range m {
			if strings.HasPrefix(k, prefix) {
				found[k] = v
			}
		}
	}
	return found
}

// prune deletes what is written and not to be kept, until ctx ends.
func (t *table) prune(ctx context.Context, keep func(key string, value []byte) bool) {
	t.written("", func(k string, v []byte) bool {
		if v == nil || !keep(k, v) {
			t.forget(k)
		}
		return ctx.Err() == nil
	})
}

// forget deletes a fact that was read from the database, unless it has been set anew.
func (t *table) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, dirty := t.dirty[key]
	if _, writing := t.writing[key]; !dirty && !writing {
		t.recent.Remove(key)
		t.write(key, nil)
	}
}

// run writes what is put, until ctx ends.
func (t *table) run(ctx context.Context) {
	for {
		select {
		case <-t.wake:
			pause(ctx, flushEvery)
		case <-ctx.Done():
			return
		}
		if !t.flush() {
			pause(ctx, lookEvery)
		}
	}
}

// flush writes what is not written yet. What cannot be written waits for the next time.
func (t *table) flush() bool {
	batch := t.begin()
	if len(batch) == 0 {
		return true
	}
	if t.base.Load() == nil {
		t.open()
	}
	err := t.update(func(b *bbolt.Bucket) error { return write(b, batch) })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writing = nil
	if err != nil && !t.failing {
		t.log.Warn("names and links are not written", zap.Error(err))
	}
	if t.failing = err != nil; t.failing {
		for k, v := range batch {
			if _, newer := t.dirty[k]; !newer {
				t.write(k, v)
			}
		}
	}
	return err == nil
}

// begin takes what is to be written.
func (t *table) begin() map[string][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writing, t.dirty = t.dirty, map[string][]byte{}
	return t.writing
}

func write(b *bbolt.Bucket, batch map[string][]byte) error {
	for k, v := range batch {
		var err error
		if v == nil {
			err = b.Delete([]byte(k))
		} else {
			err = b.Put([]byte(k), seal([]byte(k), v))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// seal appends a checksum of the fact to its value: the database has none of its own.
func seal(key, value []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(value), factSum(key, value))
}

// unseal returns what seal was given; nil where it is not what it was.
func unseal(key, sealed []byte) []byte {
	n := len(sealed) - crc32.Size
	if n < 0 || factSum(key, sealed[:n]) != binary.LittleEndian.Uint32(sealed[n:]) {
		return nil
	}
	return append([]byte{}, sealed[:n]...)
}

func factSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// close writes what it can and gives the database back.
func (t *table) close() {
	_ = t.flush()
	if b := t.base.Swap(nil); b != nil {
		if err := guard(b.db.Close); err != nil {
			t.log.Warn("names and links not closed", zap.Error(err))
		}
	}
}
