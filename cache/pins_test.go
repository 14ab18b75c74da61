package cache

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// pinOf is a pin of an image by a tag, of everything in it.
func pinOf(t *testing.T, c *Cache, w *things, tag Ref) Pin {
	t.Helper()
	p, err := w.pin(t.Context(), c, tag)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// crowd has n other things of 1 MiB pulled through c.
func (w *things) crowd(t *testing.T, c *Cache, n uint64) {
	t.Helper()
	for i := range n {
		b := noise(100+i, 1<<20)
		if err := read(t.Context(), c, w.put(b), 0, -1, b); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *things) pin(ctx context.Context, c *Cache, tag Ref) (Pin, error) {
	found, err := c.Stat(ctx, tag)
	if err != nil {
		return Pin{}, err
	}
	p := Pin{Ref: tag, Owner: "test", At: time.Now(), Parts: []Part{{Ref: tag, Desc: found.Desc, AsOf: found.AsOf}}}
	p.Parts = append(p.Parts, Part{Ref: tag.At(found.Digest), Desc: found.Desc})
	for _, ref := range w.refs {
		if ref.Kind == KindBlob {
			p.Parts = append(p.Parts, Part{Ref: ref, Desc: Desc{Digest: ref.Digest, Size: int64(len(w.data[ref]))}})
		}
	}
	return p, nil
}

// TestPinnedStays fills a small disk with other things, loses all that may be lost, takes the source away for days and
// starts again: what is pinned is served, by its name, and nothing is asked for.
func TestPinnedStays(t *testing.T) {
	for _, private := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newThings(10, 300<<10, 2<<20)
			tag := w.image("latest")
			dir := ramDir(t)
			o := Options{Dir: dir, Disk: 8 << 20, ScrubRate: -1, Private: func(string) bool { return private }}
			c := launch(t, w, o)
			if err := w.pullAll(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if err := c.Pin(t.Context(), pinOf(t, c, w, tag)); err != nil {
				t.Fatal(err)
			}
			w.crowd(t, c, 40)
			time.Sleep(settled)
			s := c.Stats()
			if s.Evicted == 0 || s.DiskBytes > 8<<20 || s.PinnedBytes < 2<<20 {
				t.Errorf("%d evicted, %d bytes on the books, %d pinned", s.Evicted, s.DiskBytes, s.PinnedBytes)
			}
			land(t, c)

			if err := os.Remove(filepath.Join(dir, "store", "facts.db")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(72 * time.Hour)
			w.set(func(s *shelf) { s.down = true })
			c = launch(t, w, o)
			if n := len(c.Pins()); n != 1 {
				t.Fatalf("%d pins", n)
			}
			for range 2 { // before the scan, and after
				if err := w.pullAll(t.Context(), c); err != nil {
					t.Errorf("private %v: %v", private, err)
				}
				if b, err := c.Open(t.Context(), tag, Whole); err != nil {
					t.Errorf("private %v: %v", private, err)
				} else if _ = b.Close(); !b.Stale() {
					t.Error("nothing says that it is stale")
				}
				time.Sleep(settled)
			}
			if got := c.Stats().PinnedBytes; got != s.PinnedBytes {
				t.Errorf("%d bytes pinned, were %d", got, s.PinnedBytes)
			}
			if _, err := c.Open(WithCaller(t.Context(), "somebody"), w.refs[1], Want{N: -1, HeldOnly: true}); !errors.Is(err, ErrNotHeld) {
				t.Errorf("a caller with a login of its own gets %v", err)
			}
			land(t, c)
		})
	}
}

// TestUnpinned: what is pinned no more goes as anything else.
func TestUnpinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(10, 300<<10)
		tag := w.image("latest")
		c := launch(t, w, Options{Dir: ramDir(t), Disk: 8 << 20, ScrubRate: -1})
		if err := w.pullAll(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		p := pinOf(t, c, w, tag)
		other := p
		other.Owner = "another"
		if err := errors.Join(c.Pin(t.Context(), p), c.Pin(t.Context(), other), c.Pin(t.Context(), p)); err != nil {
			t.Fatal(err)
		}
		before := c.Stats().PinnedBytes
		if ok, err := c.Unpin("test", tag); !ok || err != nil {
			t.Error(ok, err)
		}
		if c.Stats().PinnedBytes != before {
			t.Error("another's pin counts for nothing")
		}
		if ok, err := c.Unpin("another", tag); !ok || err != nil {
			t.Error(ok, err)
		}
		if ok, err := c.Unpin("another", tag); ok || err != nil {
			t.Error(ok, err)
		}
		if n := c.Stats().PinnedBytes; n != 0 || len(c.Pins()) != 0 {
			t.Errorf("%d bytes pinned, %v", n, c.Pins())
		}
		w.crowd(t, c, 20)
		if c.disk.holds(w.refs[1].Digest) {
			t.Error("it is held for ever")
		}
		land(t, c)
	})
}

// TestPinsAndRoom: what is pinned does not share its room, and more than there is cannot be pinned.
func TestPinsAndRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(10, 3<<20)
		tag := w.image("latest")
		c := launch(t, w, Options{Dir: ramDir(t), Disk: 4 << 20, ScrubRate: -1})
		if err := w.pullAll(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := c.Pin(t.Context(), pinOf(t, c, w, tag)); err != nil {
			t.Fatal(err)
		}
		big := w.put(noise(7, 2<<20))
		b, err := c.Open(t.Context(), big, Whole)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := errors.Join(b.SendRange(t.Context(), &got, 0, -1), b.Close()); err != nil || got.Len() != 2<<20 {
			t.Errorf("a client gets %d bytes, %v", got.Len(), err)
		}
		ahead := WithUrgency(t.Context(), Warming)
		if b, err = c.Open(ahead, big, Whole); err == nil {
			err = errors.Join(b.Prove(ahead), b.Close())
		}
		if !errors.Is(err, ErrNoRoom) {
			t.Errorf("who fetches ahead hears %v", err)
		}
		if err := w.pullAll(t.Context(), c); err != nil || w.count(w.refs[1].Digest) != 3<<20 {
			t.Errorf("%v, %d bytes fetched of what is pinned", err, w.count(w.refs[1].Digest))
		}
		land(t, c)
	})
}

// TestPinWants: only what is held whole can be pinned, and what is damaged is not.
func TestPinWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(10, 300<<10)
		tag := w.image("latest")
		dir := ramDir(t)
		c := launch(t, w, Options{Dir: dir, ScrubRate: -1})
		if err := w.pullAll(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		p := pinOf(t, c, w, tag)
		stranger := p
		stranger.Parts = append([]Part{{Ref: Ref{Registry: "docker.io", Repo: "else/where", Digest: Sum(nil)}, Desc: Desc{Digest: Sum(nil)}}}, p.Parts...)
		if err := c.Pin(t.Context(), stranger); err == nil {
			t.Error("a pin of two repositories")
		}
		missing := p
		d := Sum([]byte("missing"))
		missing.Parts = append([]Part{{Ref: tag.At(d), Desc: Desc{Digest: d, Size: 7}}}, p.Parts...)
		if err := c.Pin(t.Context(), missing); !errors.Is(err, ErrNotHeld) || !strings.Contains(err.Error(), d.String()) {
			t.Errorf("%v", err)
		}
		if n := c.Stats().PinnedBytes; n != 0 {
			t.Errorf("%d bytes pinned for nothing", n)
		}
		time.Sleep(settled)
		land(t, c)

		if err := os.Remove(filepath.Join(dir, "store", "CLEAN")); err != nil { // as after a crash
			t.Fatal(err)
		}
		g := w.refs[1].Digest.Hex()
		path := filepath.Join(dir, "store", "blobs", "sha256", g[:2], g)
		if err := os.WriteFile(path, noise(99, 300<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		c = launch(t, w, Options{Dir: dir, ScrubRate: -1})
		if err := c.Pin(t.Context(), p); !errors.Is(err, ErrNotHeld) {
			t.Errorf("rot is pinned: %v", err)
		}
		land(t, c)
	})
}

// TestBadPins puts anything in the place of a pin's file: it starts, it says so, and keeps what it found for a person.
func TestBadPins(t *testing.T) {
	for name, spoil := range map[string]func(path string, b []byte) error{
		"cut":       func(p string, b []byte) error { return os.WriteFile(p, b[:len(b)/2], 0o600) },
		"empty":     func(p string, _ []byte) error { return os.WriteFile(p, nil, 0o600) },
		"flipped":   func(p string, b []byte) error { b[20] ^= 1; return os.WriteFile(p, b, 0o600) },
		"renamed":   func(p string, _ []byte) error { return os.Rename(p, filepath.Dir(p)+"/ffff.json") },
		"directory": func(p string, _ []byte) error { return errors.Join(os.Remove(p), os.MkdirAll(p+"/x", 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newThings(10, 300<<10)
				tag := w.image("latest")
				dir := ramDir(t)
				c := launch(t, w, Options{Dir: dir, ScrubRate: -1})
				if err := w.pullAll(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				p := pinOf(t, c, w, tag)
				if err := c.Pin(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				path := c.pins.path(p)
				land(t, c)
				b, err := os.ReadFile(path)
				if err == nil {
					err = spoil(path, b)
				}
				if err != nil {
					t.Fatal(err)
				}
				c = launch(t, w, Options{Dir: dir, ScrubRate: -1})
				if n := len(c.Pins()); n != 0 {
					t.Errorf("%d pins", n)
				}
				if err := c.Health(); err == nil || !strings.Contains(err.Error(), "pin") {
					t.Errorf("health: %v", err)
				}
				if bad, _ := filepath.Glob(filepath.Dir(path) + "/*.bad"); len(bad) != 1 {
					t.Errorf("set aside: %v", bad)
				}
				if err := errors.Join(w.pullAll(t.Context(), c), c.Pin(t.Context(), p)); err != nil {
					t.Error(err)
				}
				land(t, c)
				c = launch(t, w, Options{Dir: dir, ScrubRate: -1})
				if n := len(c.Pins()); n != 1 || c.Health() != nil {
					t.Errorf("%d pins, %v", n, c.Health())
				}
				land(t, c)
			})
		})
	}
}

// TestUnreadablePins: where it cannot be known what is pinned, nothing is evicted.
func TestUnreadablePins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(10, 1<<20)
		tag := w.image("latest")
		o := Options{Dir: ramDir(t), Disk: 3 << 20, ScrubRate: -1}
		c := launch(t, w, o)
		if err := w.pullAll(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := c.Pin(t.Context(), pinOf(t, c, w, tag)); err != nil {
			t.Fatal(err)
		}
		land(t, c)
		broken := o
		broken.FS = unlisted{osFS{}}
		c = launch(t, w, broken)
		if err := c.Health(); err == nil || !strings.Contains(err.Error(), "nothing is evicted") {
			t.Errorf("health: %v", err)
		}
		w.crowd(t, c, 8)
		land(t, c)
		c = launch(t, w, o)
		if err := w.pullAll(t.Context(), c); err != nil || w.count(w.refs[1].Digest) != 1<<20 || c.Health() != nil {
			t.Errorf("%v, %d bytes fetched, %v", err, w.count(w.refs[1].Digest), c.Health())
		}
		land(t, c)
	})
}

// TestAheadStops: what only a warm-up wanted stops with it, and goes on where it stopped.
func TestAheadStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.pace = time.Second
		ref := h.put("docker.io", "library/a", noise(1, 40*pieceSize))
		c := open(t, h, Options{ScrubRate: -1})
		ctx, cancel := context.WithCancel(WithUrgency(t.Context(), Warming))
		b, err := c.Open(ctx, ref, Whole)
		if err != nil {
			t.Fatal(err)
		}
		total := func() int64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.sent[ref.Digest]
		}
		go func() { time.Sleep(10 * time.Second); cancel() }()
		if err := b.Prove(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		_ = b.Close()
		time.Sleep(2 * time.Second)
		sent := total()
		time.Sleep(time.Minute)
		if n := c.Stats().Flights; n != 0 || total() != sent {
			t.Errorf("%d downloads under way, %d bytes came after the end", n, total()-sent)
		}
		ctx = WithUrgency(t.Context(), Warming)
		if b, err = c.Open(ctx, ref, Whole); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(b.Prove(ctx), b.Close()); err != nil {
			t.Fatal(err)
		}
		if again := total() - 40*pieceSize; again > 4*pieceSize {
			t.Errorf("%d bytes were fetched twice", again)
		}
	})
}

// unlisted is a file system that does not tell what is pinned.
type unlisted struct{ osFS }

func (u unlisted) ReadDir(dir string) ([]fs.DirEntry, error) {
	if filepath.Base(dir) == "pins" {
		return nil, unix.EIO
	}
	return u.osFS.ReadDir(dir)
}
