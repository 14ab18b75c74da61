package cache

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
)

// scan enters on the books what the directory has. It runs while content is being served, and stops with ctx.
func (d *disk) scan(ctx context.Context) {
	type file struct {
		*entry
		modified int64
	}
	var files []file
	d.walk(func(s slot, size int64, modified time.Time) bool {
		files = append(files, file{&entry{slot: s, size: size, proven: d.clean}, modified.UnixNano()})
		return ctx.Err() == nil
	})
	if ctx.Err() != nil {
		return
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.modified, b.modified) })
	found := make([]*entry, len(files))
	for i, f := range files {
		found[i] = f.entry
	}
	d.books.merge(found)
	d.scanned.Store(true)
	d.kick()
}

// walk calls visit for each file in blobs/ with a name of ours, directory by directory, until visit returns false.
func (d *disk) walk(visit func(s slot, size int64, modified time.Time) bool) {
	for _, alg := range []string{"sha256", "sha512"} {
		dirs, _ := d.fs.ReadDir(filepath.Join(d.root, "blobs", alg))
		for _, sub := range dirs {
			if !d.walkDir(alg, sub.Name(), visit) {
				return
			}
		}
	}
}

func (d *disk) walkDir(alg, sub string, visit func(s slot, size int64, modified time.Time) bool) bool {
	files, err := d.fs.ReadDir(filepath.Join(d.root, "blobs", alg, sub))
	if err != nil {
		d.log.Warn("passed over", zap.Error(err))
	}
	for _, f := range files {
		g, err := ParseDigest(alg + ":" + f.Name())
		if err != nil || g.Hex()[:2] != sub {
			continue // not ours
		}
		fi, err := f.Info()
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		if !visit(slot{digest: g}, fi.Size(), fi.ModTime()) {
			return false
		}
	}
	return true
}
