package main

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxWaiting bounds the lines that wait, in bytes: ten thousand requests, which a disk that is busy with other things
	// may hold up for half a second at the highest rate, and for a minute at usual ones.
	maxWaiting = 4 << 20
	// maxIdle is the memory that is kept for a trickle of lines: a burst leaves no mark on a quiet night.
	maxIdle = 64 << 10
	// gather is how long the first line waits for others. To wake a goroutine for each costs more than to write it.
	gather = 2 * time.Millisecond
	// A pipe takes up to this many bytes whole (PIPE_BUF), so that lines of several programs in one pipe stay lines.
	maxPiece = 4 << 10
	// How long at the end, without any progress, before a reader is held to be gone. A terminal that was stopped by hand
	// must not keep a service from ending.
	sinkPatience = 5 * time.Second
)

// sink writes lines to a file, pipe or terminal that may be slow, stuck or gone, and keeps nobody waiting who has a line
// for it: what waits is bounded, and what is too much is dropped, counted, and told of once lines flow again. One
// goroutine writes; Close waits for it.
type sink struct {
	out    io.Writer
	notice func(dropped uint64) []byte // the line that tells of dropped ones
	end    chan struct{}               // closed when no more lines come
	done   chan struct{}               // closed when the last one is written

	dropped atomic.Uint64 // lines, since the start
	written atomic.Uint64 // pieces: whether there is progress

	mu      sync.Mutex // guards all below
	news    sync.Cond  // of lines, or of closed
	lines   []byte     // that wait
	untold  uint64     // lines that were dropped since the last notice
	closing bool
}

func newSink(out io.Writer, notice func(dropped uint64) []byte) *sink {
	s := &sink{out: out, notice: notice, end: make(chan struct{}), done: make(chan struct{})}
	s.news.L = &s.mu
	go s.run()
	return s
}

// Write takes one line. It never waits and never fails.
func (s *sink) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || len(s.lines)+len(line) > maxWaiting {
		s.untold++
		s.dropped.Add(1)
		return len(line), nil
	}
	s.lines = append(s.lines, line...)
	s.news.Signal()
	return len(line), nil
}

// Sync makes a sink a zapcore.WriteSyncer. It does not wait either.
func (s *sink) Sync() error { return nil }

// Close writes what waits, and gives up where nobody takes it. Lines that come later are dropped. It is called once.
func (s *sink) Close() {
	s.mu.Lock()
	s.closing = true
	close(s.end)
	s.news.Signal()
	s.mu.Unlock()
	tick := time.NewTicker(sinkPatience)
	defer tick.Stop()
	for before := s.written.Load(); ; {
		select {
		case <-s.done:
			return
		case <-tick.C:
			now := s.written.Load()
			if now == before {
				return
			}
			before = now
		}
	}
}

func (s *sink) run() {
	defer close(s.done)
	var lines []byte
	for ok := true; ok; {
		s.await()
		lines, ok = s.take(lines[:0])
		s.put(lines)
	}
}

// await returns when there are lines and have been for a moment, or at the end.
func (s *sink) await() {
	s.mu.Lock()
	for len(s.lines) == 0 && !s.closing {
		s.news.Wait()
	}
	s.mu.Unlock()
	select {
	case <-time.After(gather):
	case <-s.end:
	}
}

// take takes the lines, and gives the room of those before for more. ok is false with the last ones.
func (s *sink) take(room []byte) (lines []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cap(room) > maxIdle && len(s.lines) < maxIdle {
		room = nil
	}
	lines, s.lines = s.lines, room
	if s.untold > 0 { // after lines that waited longer than those which found no room
		lines = append(lines, s.notice(s.untold)...)
		s.untold = 0
	}
	return lines, !s.closing
}

// put writes lines, in pieces that end with a line where one is short enough. What cannot be written is not tried again:
// a disk that is full would fill this memory next.
func (s *sink) put(lines []byte) {
	for len(lines) > 0 {
		piece := lines[:min(len(lines), maxPiece)]
		if end := bytes.LastIndexByte(piece, '\n'); end >= 0 {
			piece = piece[:end+1]
		}
		lines = lines[len(piece):]
		if n, err := s.out.Write(piece); err != nil {
			s.lose(uint64(bytes.Count(piece[n:], []byte{'\n'})))
		}
		s.written.Add(1)
	}
}

func (s *sink) lose(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.untold += n
	s.dropped.Add(n)
}
