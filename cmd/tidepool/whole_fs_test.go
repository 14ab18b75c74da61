package main

import (
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/cache"
)

// diskFS is the machine's file system, without its syncs, which prove nothing to a process that lives on, and of a
// constant size; and with a disk that can be filled, and be slow.
type diskFS struct {
	full atomic.Bool  // every write fails
	slow atomic.Int64 // what every write takes, in nanoseconds
}

// OpenFile implements cache.FS.
func (d *diskFS) OpenFile(name string, flag int, perm fs.FileMode) (cache.File, error) {
	f, err := os.OpenFile(name, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, perm)
	if err != nil {
		return nil, err
	}
	if flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return f, nil
	}
	return &fillable{f, d}, nil
}

// fillable is a file that takes no more when the disk is full.
type fillable struct {
	*os.File
	disk *diskFS
}

func (f *fillable) WriteAt(p []byte, off int64) (int, error) {
	time.Sleep(time.Duration(f.disk.slow.Load()))
	if f.disk.full.Load() {
		return 0, &fs.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
	}
	return f.File.WriteAt(p, off)
}

func (*diskFS) Rename(from, to string) error                { return os.Rename(from, to) }
func (*diskFS) Remove(name string) error                    { return os.RemoveAll(name) }
func (*diskFS) MkdirAll(dir string, perm fs.FileMode) error { return os.MkdirAll(dir, perm) }
func (*diskFS) ReadDir(dir string) ([]fs.DirEntry, error)   { return os.ReadDir(dir) }
func (*diskFS) Lstat(name string) (fs.FileInfo, error)      { return os.Lstat(name) }
func (*diskFS) SyncFS(cache.File) error                     { return nil }

// Space is that of a disk with much room: what else is on the machine's does not matter.
func (*diskFS) Space(string) (free, total int64, err error) { return 64 << 30, 100 << 30, nil }
