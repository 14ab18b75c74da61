package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// landing is proven content that waits to be committed: to be made durable and then to be given its name, in that
// order, for a name without its bytes is what a power cut leaves behind otherwise.
type landing struct {
	entry *entry
	path  string
}

const (
	// batch is how long small files wait for each other, so that one sync serves them all.
	batch = 250 * time.Millisecond
	// alone is the size from which a file is synced by itself: then that costs no more than its share of a batch.
	alone = 1 << 20
)

// land enters proven content on the books and queues it to be committed. From now on it is held: readers are served
// from path until it has its name.
func (d *disk) land(g Digest, path string, size, promised int64, readers int, k Keeping) *entry {
	e := d.books.add(slot{digest: g}, size, promised, path, readers, k)
	d.mu.Lock()
	d.queue = append(d.queue, landing{e, path})
	d.mu.Unlock()
	d.kick()
	return e
}

// keep writes content that is whole in memory, and proven, to the disk, as Kept or as a HotCopy; which it is only as long
// as nobody keeps it.
func (d *disk) keep(g Digest, data []byte, k Keeping) error {
	if d.holds(g) {
		if k == Kept {
			d.books.rank(g, k)
		}
		return nil
	}
	if !d.writable() {
		return d.health()
	}
	n := int64(len(data))
	if !d.books.reserve(n) {
		return ErrNoRoom
	}
	path, err := d.spill(data)
	if err != nil {
		d.books.release(n)
		d.failed(err)
		return err
	}
	d.land(g, path, n, n, 0, k)
	return nil
}

// spill writes data to a new file in tmp/.
func (d *disk) spill(data []byte) (path string, err error) {
	f, path, err := d.temp()
	if err != nil {
		return "", err
	}
	_, err = f.WriteAt(data, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		d.books.scrap(gone{path: path})
	}
	return path, err
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
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-d.wake:
			d.remove()
			if d.small() {
				pause(ctx, batch)
			}
		case <-look.C:
			d.probe()
			d.fit()
		case <-ctx.Done():
			return
		}
		d.round()
	}
}

// round does what there is to do.
func (d *disk) round() {
	d.mu.Lock()
	queue := d.queue
	d.queue = nil
	d.mu.Unlock()
	passing := d.commitAll(queue)
	d.remove()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue = append(passing, d.queue...)
	d.rounds.fire()
}

// small reports whether anything waits that gains by waiting for others.
func (d *disk) small() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.queue, func(l landing) bool { return l.entry.size < alone })
}

// commitAll commits what still waits for it, and returns what is passing: to sync what goes with its last reader would be
// for nothing, but somebody may want it kept until then.
func (d *disk) commitAll(queue []landing) (passing []landing) {
	together := sync.OnceValue(d.sync)
	for _, l := range queue {
		switch waits, passes := d.books.waits(l.entry); {
		case !waits: // dropped while it waited, or landed a second time
			continue
		case passes:
			passing = append(passing, l)
			continue
		}
		var err error
		if l.entry.size >= alone {
			err = d.syncFile(l.path)
		} else {
			err = together()
		}
		if err == nil {
			err = d.rename(l)
		}
		if err != nil {
			d.lost(l, err)
		}
	}
	return passing
}

func (d *disk) syncFile(path string) error {
	f, err := d.fs.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(datasync(f), f.Close())
}

// rename gives content its name.
func (d *disk) rename(l landing) error {
	if err := d.place(l.path, d.path(l.entry.slot)); err != nil {
		return err
	}
	d.books.scrap(gone{path: l.path}) // its map, if it has one
	if !d.books.settle(l.entry) {     // dropped just now
		d.books.scrap(gone{slot: l.entry.slot})
	}
	return nil
}

// place renames a file, and where that fails makes way for it: it is the first of its directory, or something of another
// kind is in the way.
func (d *disk) place(from, to string) error {
	err := d.fs.Rename(from, to)
	if err != nil {
		if err = d.clear(to); err == nil {
			err = d.fs.Rename(from, to)
		}
	}
	return err
}

// clear makes way for a file.
func (d *disk) clear(path string) error {
	dir := filepath.Dir(path)
	if fi, err := d.fs.Lstat(dir); err == nil && fi.Mode().IsRegular() {
		_ = d.fs.Remove(dir)
	}
	return errors.Join(d.fs.MkdirAll(dir, 0o700), d.fs.Remove(path))
}

// lost gives up content that could not be committed. A failed sync is not tried again: the kernel may have thrown the
// bytes away and would call the second one a success.
func (d *disk) lost(l landing, err error) {
	d.failed(err)
	d.books.drop(l.entry)
	d.log.Warn("content could not be kept", zap.Stringer("digest", l.entry.slot.digest), zap.Error(err))
}

// remove unlinks what went from the books.
func (d *disk) remove() {
	for _, g := range d.books.sweep() {
		var err error
		if g.path == "" {
			err = d.fs.Remove(d.path(g.slot))
		} else {
			err = errors.Join(d.fs.Remove(g.path), d.fs.Remove(mapPath(g.path)))
		}
		if err != nil {
			d.log.Warn("could not be removed", zap.Error(err))
			d.books.scrap(g)
		}
	}
}
