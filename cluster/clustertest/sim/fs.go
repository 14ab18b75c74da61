package sim

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/cache"
)

// disk is the machine's file system without its syncs, which prove nothing to a process that lives on, and of a
// constant size.
type disk struct{}

// OpenFile implements cache.FS.
func (disk) OpenFile(name string, flag int, perm fs.FileMode) (cache.File, error) {
	f, err := os.OpenFile(name, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, perm)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

type file struct{ *os.File }

// Sync implements cache.File.
func (file) Sync() error { return nil }

// Fd hides the descriptor, so that nobody syncs by it.
func (file) Fd() {}

func (disk) Rename(from, to string) error                { return os.Rename(from, to) }
func (disk) Remove(name string) error                    { return os.RemoveAll(name) }
func (disk) MkdirAll(dir string, perm fs.FileMode) error { return os.MkdirAll(dir, perm) }
func (disk) ReadDir(dir string) ([]fs.DirEntry, error)   { return os.ReadDir(dir) }
func (disk) Lstat(name string) (fs.FileInfo, error)      { return os.Lstat(name) }
func (disk) SyncFS(cache.File) error                     { return nil }
func (disk) Space(string) (free, total int64, err error) { return 64 << 30, 100 << 30, nil }
