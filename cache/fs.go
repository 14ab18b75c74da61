package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// FS is the part of a file system that the disk tier needs; tests put one before the real one that runs out of room,
// fails or crashes at the n-th operation. Names are paths as the os package takes them.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Rename(from, to string) error
	Remove(name string) error // a file, or whatever stands in its place; nil where there is nothing
	MkdirAll(dir string, perm fs.FileMode) error
	ReadDir(dir string) ([]fs.DirEntry, error)
	Lstat(name string) (fs.FileInfo, error)
	SyncFS(f File) error                             // everything that was written to f's file system
	Space(dir string) (free, total int64, err error) // bytes
}

// File is an open file. *os.File is one; where a File is an *os.File, its bytes go to sockets by sendfile.
type File interface {
	io.Reader
	io.Seeker
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Sync() error
}

// osFS is the operating system's file system.
type osFS struct{}

// OpenFile never follows a link and never waits for a pipe's other end: what stands in the store under a blob's name
// is a regular file or it is nothing of ours.
func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, perm)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osFS) Rename(from, to string) error                { return os.Rename(from, to) }
func (osFS) MkdirAll(dir string, perm fs.FileMode) error { return os.MkdirAll(dir, perm) }
func (osFS) Lstat(name string) (fs.FileInfo, error)      { return os.Lstat(name) }

func (osFS) Remove(name string) error {
	err := os.Remove(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return os.RemoveAll(name)
	}
	return err
}

// ReadDir lists a directory in no order. It does not wait for the other end of a pipe in its place either.
func (osFS) ReadDir(dir string) ([]fs.DirEntry, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	list, err := f.ReadDir(-1)
	return list, errors.Join(err, f.Close())
}

func (osFS) SyncFS(f File) error {
	d, ok := f.(interface{ Fd() uintptr })
	if !ok {
		return fmt.Errorf("syncfs: %w", errors.ErrUnsupported)
	}
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

func (osFS) Space(dir string) (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize, nil
}

// datasync makes f's bytes durable. A failed sync is never tried again on the same file: the kernel may have dropped
// the pages and would report success.
func datasync(f File) error {
	if d, ok := f.(interface{ Fd() uintptr }); ok {
		return os.NewSyscallError("fdatasync", unix.Fdatasync(int(d.Fd())))
	}
	return f.Sync()
}

// isDiskError reports whether err is the system's: no room, no luck, no permission.
func isDiskError(err error) bool {
	var number syscall.Errno
	return errors.As(err, &number)
}

// noRoom reports whether err means that bytes, inodes or a quota have run out.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// exhausted reports whether err is this process's trouble and says nothing of the file.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}
