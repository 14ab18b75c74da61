package access

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"
)

// watched is what is made of some files, made anew when one of them has changed. It is looked at whenever it is needed,
// and not by a clock: so a change holds from the next use on. What is wrong does not replace what was right.
type watched[V any] struct {
	files []string
	parse func(texts [][]byte) (V, error)
	heed  func(V) // of each value, when it begins to hold; nil: nobody is told
	log   *zap.Logger

	last atomic.Pointer[reading[V]]
}

// reading is what was made of files as they were at a time.
type reading[V any] struct {
	stamps []stamp
	value  V
	err    error // there is no value, and never was one
}

// stamp tells two states of a file apart. Links are followed: Kubernetes replaces a directory of files by a link.
type stamp struct {
	device, inode      uint64
	size               int64
	modified, replaced syscall.Timespec
}

// now is what holds.
func (w *watched[V]) now() (V, error) {
	last := w.last.Load()
	stamps := make([]stamp, len(w.files))
	for i, name := range w.files { // before they are read: what changes in between is read once more
		stamps[i] = stampOf(name)
	}
	if last != nil && slices.Equal(stamps, last.stamps) {
		return last.value, last.err
	}
	next, err := w.read(stamps, last)
	if !w.last.CompareAndSwap(last, next) {
		next = w.last.Load() // another one has read them
		return next.value, next.err
	}
	switch {
	case next.err != nil:
		w.log.Warn("files cannot be used", zap.Strings("files", w.files), zap.Error(err))
	case err != nil:
		w.log.Warn("files that changed cannot be used: what they said before still holds", zap.Strings("files", w.files), zap.Error(err))
	case err == nil && w.heed != nil:
		w.heed(next.value)
	}
	return next.value, next.err
}

// read is what is to be gone by from now on, and what is wrong with the files.
func (w *watched[V]) read(stamps []stamp, last *reading[V]) (*reading[V], error) {
	texts := make([][]byte, len(w.files))
	var err error
	for i, name := range w.files {
		if texts[i], err = readFile(name); err != nil {
			break
		}
	}
	next := &reading[V]{stamps: stamps}
	if err == nil {
		next.value, err = w.parse(texts)
	}
	if err == nil {
		return next, nil
	}
	if next.err = err; last != nil && last.err == nil {
		next.value, next.err = last.value, nil
	}
	return next, err
}

func stampOf(name string) stamp {
	info, err := os.Stat(name)
	if err != nil {
		return stamp{}
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{size: info.Size(), modified: syscall.NsecToTimespec(info.ModTime().UnixNano())}
	}
	return stamp{uint64(s.Dev), s.Ino, s.Size, s.Mtim, s.Ctim}
}

// maxFile is a hundred times what such files have.
const maxFile = 1 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := readAll(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = errors.New("it has more than 1 MiB")
	}
	return text, err
}
