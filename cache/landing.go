package cache

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
)

// landing is proven content that waits to be committed: to be made durable and then to be given its name, in that
// order, for a name without its bytes is what a power cut leaves behind otherwise.
type landing struct {
	slot slot
	path string
	size int64
}

const (
	// batch is how long small files wait for each other, so that one sync serves them all.
	batch = 250 * time.Millisecond
	// alone is the size from which a file is synced by itself: then that costs no more than its share of a batch.
	alone = 1 << 20
)

// land enters proven content on the books and queues it to be committed. From now on it is held: readers are served
// from path until it has its name.
func (d *disk) land(g Digest, path string, size, promised int64, readers int) *entry {
	s := slot{digest: g}
	e := d.books.add(s, size, promised, path, readers)
	d.mu.Lock()
	d.queue = append(d.queue, landing{s, path, size})
	d.mu.Unlock()
	d.kick()
	return e
}

// keep writes content that is whole in memory, and proven, to the disk.
func (d *disk) keep(g Digest, data []byte) error {
	if d.holds(g) {
		return nil
	}
	if !d.writable(time.Now()) {
		return d.health()
	}
	n := int64(len(data))
	if !d.books.reserve(n) {
		return errNoRoom
	}
	f, path, err := d.temp()
	if err == nil {
		_, err = f.WriteAt(data, 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		d.books.release(n)
		d.failed(err)
		if path != "" {
			_ = d.fs.Remove(path)
		}
		return err
	}
	d.works()
	d.land(g, path, n, n, 0)
	return nil
}

// kick wakes the committer.
func (d *disk) kick() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// commit makes landed content durable, and removes what was evicted, until ctx ends.
// One goroutine does both, one after the other, so that a removal never meets the name of a later landing.
func (d *disk) commit(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-d.wake:
			d.remove()
			if d.small() {
				pause(ctx, batch)
			}
			d.round()
		case <-ctx.Done():
		}
	}
}

// round does what there is to do.
func (d *disk) round() {
	d.mu.Lock()
	queue := d.queue
	d.queue = nil
	d.mu.Unlock()
	d.commitAll(queue)
	d.fit()
	d.remove()
}

// small reports whether anything waits that gains by waiting for others.
func (d *disk) small() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.queue {
		if l.size < alone {
			return true
		}
	}
	return false
}

func (d *disk) commitAll(queue []landing) {
	var together error
	synced := false
	for _, l := range queue {
		var err error
		if l.size >= alone {
			err = d.syncFile(l.path)
		} else {
			if !synced {
				together, synced = d.fs.SyncFS(d.root), true
			}
			err = together
		}
		if err == nil {
			err = d.rename(l)
		}
		if err != nil {
			d.lost(l, err)
		}
	}
}

func (d *disk) syncFile(path string) error {
	f, err := d.fs.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(datasync(f), f.Close())
}

func (d *disk) rename(l landing) error {
	if !d.books.waits(l.slot, l.path) { // dropped while it waited, or landed a second time
		_ = d.fs.Remove(l.path)
		return nil
	}
	to := d.path(l.slot)
	err := d.fs.Rename(l.path, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.fs.MkdirAll(filepath.Dir(to), 0o700); err == nil {
			err = d.fs.Rename(l.path, to)
		}
	}
	if err != nil {
		return err
	}
	if !d.books.settle(l.slot, l.path) && !d.books.has(l.slot) {
		return d.fs.Remove(to) // dropped just now
	}
	return nil
}

// lost gives up content that could not be committed. A failed sync is not tried again: the kernel may have thrown the
// bytes away and would call the second one a success.
func (d *disk) lost(l landing, err error) {
	d.failed(err)
	d.books.drop(l.slot)
	d.log.Warn("content could not be kept", zap.Stringer("digest", l.slot.digest), zap.Error(err))
	if err := d.fs.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Debug("left over until the next start", zap.Error(err))
	}
}

// remove unlinks what went from the books.
func (d *disk) remove() {
	for _, g := range d.books.sweep() {
		path := cmp.Or(g.path, d.path(g.slot))
		names := []string{path}
		if g.slot.partial != 0 {
			names = append(names, mapPath(path))
		}
		for _, name := range names {
			if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				d.log.Warn("could not be removed", zap.Error(err))
			}
		}
	}
}
