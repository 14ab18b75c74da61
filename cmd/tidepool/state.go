package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// state is something small that outlives the process in a file of its own. It may be lost: nothing depends on it but
// numbers that people like to see, or hints. So a failure to read or to write it is told, and stops nothing.
type state struct {
	path    string
	written func() []byte // what the file is to hold; nil where it holds that already
	log     *zap.Logger
}

const (
	// stateEvery is how often a state is written that changes all the time, and so how much of it a crash loses.
	stateEvery = 10 * time.Second
	// mostState bounds what is read of a file that may be anything by now.
	mostState = 16 << 20
)

// readState is what the file at path holds; nil where there is none that can be read.
func readState(path string, log *zap.Logger) []byte {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a pipe by now
	if err == nil {
		defer f.Close()
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(f, mostState)); err == nil {
			return b
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		log.Warn("begun anew, for what was there cannot be read", zap.String("file", path), zap.Error(err))
	}
	return nil
}

// run writes the state down as it changes, until ctx ends, and then once more.
func (s state) run(ctx context.Context) {
	tick := time.NewTicker(stateEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		s.write()
	}
}

func (s state) write() {
	b := s.written()
	if b == nil {
		return
	}
	if err := replaceFile(s.path, b); err != nil {
		s.log.Warn("not written down", zap.String("file", s.path), zap.Error(err))
	}
}

// replaceFile puts a file in the place of another, so that a reader finds all of the old or all of the new one.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // for us alone: 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
