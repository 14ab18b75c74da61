package cache

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// between is a cluster as one member sees it: who may wait for another member waits for one that sends so much and then
// nothing, and who may not is sent to the hub.
type between struct {
	*hub
	first int64
}

func (b between) Resolve(ctx context.Context, ref Ref, want Want) (Answer, error) {
	if DirectOf(ctx) {
		return b.hub.Resolve(ctx, ref, want)
	}
	<-ctx.Done()
	return Answer{}, context.Cause(ctx)
}

func (b between) Open(ctx context.Context, ref Ref, want Want) (Answer, error) {
	if !MayWait(ctx, "another") {
		return b.hub.Open(ctx, ref, want)
	}
	if b.first == 0 {
		<-ctx.Done()
		return Answer{}, context.Cause(ctx)
	}
	a, err := b.hub.Open(ctx, ref, Want{Off: want.Off, N: b.first})
	a.Via, a.Body = "another", slowing{ctx, a.Body}
	return a, err
}

// slowing is a body that does not end.
type slowing struct {
	ctx context.Context
	io.ReadCloser
}

func (s slowing) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err == io.EOF {
		<-s.ctx.Done()
		err = s.ctx.Err()
	}
	return n, err
}

// TestStraightened: two members that wait for each other cannot be: who comes from another member has the download turn
// to the hub, from where it is, and all who follow have it from there, once.
func TestStraightened(t *testing.T) {
	for name, first := range map[string]int64{"nothing came": 0, "half came": 20 * pieceSize} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub()
				data := noise(1, 40*pieceSize)
				ref := h.put("docker.io", "library/a", data)
				c := open(t, between{h, first}, Options{ScrubRate: -1})
				errs := make(chan error, 2)
				go func() { errs <- read(t.Context(), c, ref, 0, -1, data) }()
				time.Sleep(time.Minute)
				select {
				case err := <-errs:
					t.Fatalf("it has ended: %v", err)
				default:
				}
				began := time.Now()
				go func() { errs <- read(WithDirect(t.Context()), c, ref, 0, -1, data) }()
				if err := errors.Join(<-errs, <-errs); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("it took %v", took)
				}
				h.mu.Lock()
				defer h.mu.Unlock()
				if n := h.sent[ref.Digest]; n > 40*pieceSize {
					t.Errorf("%d bytes were sent of %d", n, 40*pieceSize)
				}
			})
		})
	}
}

// TestDirectNames: who must not wait for another member does not wait for one who may.
func TestDirectNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		ref := h.tag("docker.io", "library/a", "1", imageOf("a"))
		c := open(t, between{h, 0}, Options{ScrubRate: -1})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _, _ = c.Stat(ctx, ref) }()
		go func() { _, _ = c.Open(ctx, ref, Whole) }()
		time.Sleep(time.Second)
		began := time.Now()
		_, err := c.Stat(WithDirect(t.Context()), ref)
		b, err2 := c.Open(WithDirect(t.Context()), ref, Whole)
		if err = errors.Join(err, err2); err != nil || time.Since(began) > time.Second {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		_ = b.Close()
	})
}

// TestNotKept: what another member keeps passes through, and is gone with its last reader.
func TestNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		data := noise(1, 3<<20)
		ref := h.put("docker.io", "library/a", data)
		tag := h.tag("docker.io", "library/a", "1", imageOf("a"))
		c := open(t, h, Options{ScrubRate: -1, Keep: func(Ref) Keeping { return Passing }})
		for range 3 {
			errs := make(chan error, 5)
			for range 5 {
				go func() { errs <- read(t.Context(), c, ref, 0, -1, data) }()
			}
			for range 5 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			b, err := c.Open(t.Context(), tag, Whole)
			if err != nil {
				t.Fatal(err)
			}
			_ = b.Close()
			time.Sleep(settled)
			if s := c.Stats(); s.DiskBytes != 0 || s.DiskEntries != 0 {
				t.Errorf("%d bytes are kept, of %d things", s.DiskBytes, s.DiskEntries)
			}
			if err := audit(c); err != nil {
				t.Error(err)
			}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if n := h.sent[ref.Digest]; n != 9<<20 {
			t.Errorf("%d bytes were sent for three times five readers at a time", n)
		}
	})
}
