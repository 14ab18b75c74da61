package cache

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
)

// scan enters on the books what the directory has. It runs while content is being served, and stops with ctx. What
// cannot be read is passed over: until a scan has seen everything, a look at the disk tells what is held.
func (d *disk) scan(ctx context.Context) {
	type file struct {
		*entry
		modified int64
	}
	var files []file
	err := d.walk(func(s slot, size int64, modified time.Time) bool {
		files = append(files, file{&entry{slot: s, size: size, proven: d.clean}, modified.UnixNano()})
		return ctx.Err() == nil
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		d.log.Warn("not all that is held could be found", zap.Error(err))
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.modified, b.modified) })
	found := make([]*entry, len(files))
	for i, f := range files {
		found[i] = f.entry
	}
	d.books.merge(found, err == nil)
	d.scanned.Store(err == nil)
	d.kick()
}

// walk calls visit for each file in blobs/ with a name of ours, directory by directory, until visit returns false. The
// error says what could not be read.
func (d *disk) walk(visit func(s slot, size int64, modified time.Time) bool) (err error) {
	for _, alg := range []string{"sha256", "sha512"} {
		dirs, failed := d.fs.ReadDir(filepath.Join(d.root, "blobs", alg))
		err = errors.Join(err, failed)
		for _, sub := range dirs {
			files, failed := d.fs.ReadDir(filepath.Join(d.root, "blobs", alg, sub.Name()))
			err = errors.Join(err, failed)
			for _, f := range files {
				s, ok := slotOf(alg, sub, f)
				fi, failed := f.Info()
				if ok && failed == nil && fi.Mode().IsRegular() && !visit(s, fi.Size(), fi.ModTime()) {
					return err
				}
			}
		}
	}
	return err
}

// slotOf is what a file in blobs/ is named for.
func slotOf(alg string, sub, file fs.DirEntry) (slot, bool) {
	g, err := ParseDigest(alg + ":" + file.Name())
	return slot{digest: g}, err == nil && g.Hex()[:2] == sub.Name()
}

// note enters what a look at the disk found and reports whether s is held: not where it is about to be removed.
func (b *books) note(s slot, size int64, proven bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.find(s) != nil {
		return true
	}
	if _, ok := b.buried[s.mark()]; ok || b.buried == nil {
		return false
	}
	e := &entry{slot: s, size: size, proven: proven}
	b.enter(e, "")
	b.prefer(e)
	b.discovered(size)
	return true
}

// discovered says that n bytes more than was thought are on disk, and so not in the way of anything. b.mu is held.
func (b *books) discovered(n int64) { b.budget = min(b.wanted, b.budget+n) }

// merge puts what the scan found, oldest first, behind what was used since the start. complete says that there is
// nothing else to be found.
func (b *books) merge(found []*entry, complete bool) {
	// A million entries take seconds to enter, so that is done on books of their own.
	all := newBooks(0, func() {})
	for _, e := range found {
		all.enter(e, "")
		all.policy.Touch(e)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for m := range b.buried {
		all.lose(m)
	}
	for m, e := range b.entries {
		all.lose(m)
		all.enter(e, "")
	}
	for _, e := range b.policy.Order() {
		all.policy.Touch(e)
	}
	b.discovered(all.kept - b.kept)
	b.entries, b.policy, b.kept, b.copies, b.fixed = all.entries, all.policy, all.kept, all.copies, 0
	for d := range b.pinned {
		if e := b.find(slot{digest: d}); e != nil {
			b.policy.Forget(e)
			b.fixed += e.size
		}
	}
	if complete {
		b.buried = nil
	}
	b.shrink(b.budget)
}

// lose drops what is under m without a trace.
func (b *books) lose(m mark) {
	if e := b.entries[m]; e != nil {
		b.policy.Forget(e)
		delete(b.entries, m)
		b.kept -= e.size
		b.copies -= e.copied()
	}
}
