package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// carriers are the ways from which a blob's bytes come, each opened anew.
var carriers = []struct {
	name string
	open func(t *testing.T, h *hub, ref Ref, data content) *Cache
}{
	{"disk", func(t *testing.T, h *hub, ref Ref, data content) *Cache {
		c := open(t, h, Options{ScrubRate: -1})
		if n, _, err := fetch(t.Context(), c, ref, 0, -1, data); err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		return c
	}},
	{"disk, unproven", func(t *testing.T, h *hub, ref Ref, data content) *Cache {
		dir := ramDir(t)
		c := open(t, h, Options{Dir: dir, ScrubRate: -1})
		if n, _, err := fetch(t.Context(), c, ref, 0, -1, data); err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		time.Sleep(time.Second)
		shut(t, c)
		if err := os.Remove(filepath.Join(c.disk.root, "CLEAN")); err != nil {
			t.Fatal(err)
		}
		return open(t, h, Options{Dir: dir, ScrubRate: -1})
	}},
	{"flight", func(t *testing.T, h *hub, ref Ref, data content) *Cache {
		h.set(func(h *hub) { h.pace = time.Millisecond })
		return open(t, h, Options{ScrubRate: -1})
	}},
	{"stream", func(t *testing.T, h *hub, ref Ref, data content) *Cache {
		return open(t, h, Options{ScrubRate: -1, FS: full(0)})
	}},
}

// client reads what a server sends, at some rate, and compares it.
func client(conn io.Reader, k *check, rate func(got int64) int64) {
	buf := make([]byte, 1<<20)
	for {
		n, err := conn.Read(buf[:min(int64(len(buf)), rate(k.n))])
		_, _ = k.Write(buf[:n])
		if err != nil {
			return
		}
		if rate(k.n) < int64(len(buf)) {
			time.Sleep(time.Second)
		}
	}
}

// A client that reads slowly gets everything, however slowly it began or became; one that does not read is cut off.
func TestSlowClients(t *testing.T) {
	blob := newSynthetic(1, 1<<20)
	for _, from := range carriers {
		for _, x := range []struct {
			name string
			rate func(got int64) int64 // bytes per second, by what it has
			cut  bool
		}{
			{"fast", func(int64) int64 { return 1 << 20 }, false},
			{"slow", func(int64) int64 { return 2 << 10 }, false},
			{"slower and slower", func(got int64) int64 {
				if got > 700<<10 {
					return 2 << 10
				}
				return 1 << 20
			}, false},
			{"too slow", func(int64) int64 { return 500 }, true},
			{"stuck", func(got int64) int64 {
				if got > 500<<10 {
					time.Sleep(10 * time.Minute)
				}
				return 1 << 20
			}, true},
		} {
			synctest.Test(t, func(t *testing.T) {
				h := newHub()
				ref := h.have("docker.io", "library/a", blob.digest, blob)
				c := from.open(t, h, ref, blob)
				server, conn := net.Pipe()
				k := &check{want: blob}
				done := make(chan struct{})
				go func() {
					client(conn, k, x.rate)
					close(done)
				}()
				b, err := c.Open(t.Context(), ref, Whole)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				err = b.SendRange(t.Context(), server, 0, -1)
				took := time.Since(began)
				_, _ = server.Close(), b.Close()
				<-done
				if err := k.verdict(err, blob.size); (err != nil) != x.cut || x.cut && (!errors.Is(err, os.ErrDeadlineExceeded) || took > 2*slowest+time.Second) {
					t.Errorf("%s, %s: %d bytes in %v, %v", from.name, x.name, k.n, took, err)
				}
			})
		}
	}
}

// catcher is a connection that would send files by sendfile.
type catcher struct {
	check
	files, others int
	largest       int64
}

func (k *catcher) ReadFrom(r io.Reader) (n int64, err error) {
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		return 0, errors.New("no limit")
	}
	if _, ok := limited.R.(*os.File); ok {
		k.files++
	} else {
		k.others++
	}
	k.largest = max(k.largest, limited.N)
	return io.Copy(&k.check, r)
}

// What is on disk or arriving goes out by sendfile, in long stretches where there is much of it.
func TestSendfile(t *testing.T) {
	blob := newSynthetic(2, 80<<20)
	h := newHub()
	ref := h.have("docker.io", "library/a", blob.digest, blob)
	c := open(t, h, Options{})
	for i := range 2 {
		for _, part := range []span{{0, blob.size}, {5, 60 << 20}} {
			b, err := c.Open(t.Context(), ref, Want{Off: part.from, N: part.to - part.from})
			if err != nil {
				t.Fatal(err)
			}
			k := &catcher{check: check{want: blob, off: part.from}}
			err = b.SendRange(t.Context(), k, part.from, part.to-part.from)
			if err := errors.Join(k.verdict(err, part.to-part.from), b.Close()); err != nil {
				t.Errorf("%d bytes, %v", k.n, err)
			}
			if k.files == 0 || k.others > 0 || i > 0 && (k.largest != longest || k.files > 16) {
				t.Errorf("%s: %d stretches of files, up to %d bytes, and %d of others", b.From, k.files, k.largest, k.others)
			}
		}
	}
}

// A disk that cannot be read: the source goes on, where what was sent can be proven with what comes; also for a reader who
// is late, and finds that all of it has come and has its name by then.
func TestUnreadable(t *testing.T) {
	for _, x := range []unreadable{
		{"at once", false, span{0, 4 << 20}, 0, true},
		{"in the middle", false, span{0, 4 << 20}, 5, true},
		{"range", false, span{1 << 20, 3 << 20}, 3, true},
		{"unproven, at once", true, span{0, 4 << 20}, 0, true},
		{"unproven, in the middle", true, span{0, 4 << 20}, 5, false},
		{"unproven range", true, span{1 << 20, 3 << 20}, 20, true},
	} {
		for _, late := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) { x.run(t, late) })
		}
	}
}

type unreadable struct {
	name     string
	unproven bool
	part     span
	reads    int // that work
	ok       bool
}

func (x unreadable) run(t *testing.T, late bool) {
	blob := newSynthetic(3, 4<<20)
	h := newHub()
	ref := h.have("docker.io", "library/a", blob.digest, blob)
	dir := ramDir(t)
	var second atomic.Pointer[Cache]
	disk := &faulty{delay: func(a act) time.Duration {
		if c := second.Load(); late && c != nil && a.verb == "open" && strings.Contains(a.name, "/partial/") && c.Stats().Landed == 0 {
			return time.Second // it is the reader: nobody else opens it before it has landed
		}
		return 0
	}}
	c := open(t, h, Options{Dir: dir, FS: disk, ScrubRate: -1})
	if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	time.Sleep(time.Second)
	shut(t, c)
	if x.unproven {
		if err := os.Remove(filepath.Join(c.disk.root, "CLEAN")); err != nil {
			t.Fatal(err)
		}
	}
	c = open(t, h, Options{Dir: dir, FS: disk, ScrubRate: -1})
	second.Store(c)
	h.set(func(h *hub) { h.pace = time.Millisecond })
	reads, replaced := 0, false // another file has the name now, which can be read
	disk.when(func(a act) error {
		if !strings.Contains(a.name, "/blobs/") {
			return nil
		}
		replaced = replaced || a.verb == "rename"
		if a.verb == "read" && !replaced {
			if reads++; reads > x.reads {
				return unix.EIO
			}
		}
		return nil
	})
	n, _, err := fetch(t.Context(), c, ref, x.part.from, x.part.to-x.part.from, blob)
	if (err == nil) != x.ok || errors.Is(err, errDiffers) {
		t.Errorf("%s, late: %t: %d bytes, %v", x.name, late, n, err)
	}
	disk.when(nil)
	if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
		t.Errorf("%s, late: %t: after: %d bytes, %v", x.name, late, n, err)
	}
	if c.Stats().Corrupt != 1 {
		t.Errorf("%s, late: %t: %+v", x.name, late, c.Stats())
	}
}

// From the source that goes on after the disk, wrong bytes are not sent to the end either.
func TestUnreadableAndWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		blob := newSynthetic(4, 4<<20)
		ref := h.have("docker.io", "library/a", blob.digest, blob)
		disk := &faulty{}
		c := open(t, h, Options{FS: disk, ScrubRate: -1})
		if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		time.Sleep(time.Second)
		h.set(func(h *hub) { h.turn = func(request) turn { return turn{flip: 3 << 20} } })
		reads := 0
		disk.when(func(a act) error {
			if a.verb == "read" && strings.Contains(a.name, "/blobs/") {
				if reads++; reads > 5 {
					return unix.EIO
				}
			}
			return nil
		})
		if n, _, err := fetch(t.Context(), c, ref, 0, -1, blob); !errors.Is(err, ErrCorrupt) || n > blob.size-holdback {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// Whole readers never get the last bytes of wrong content; ranges that are being read are cut.
func TestHoldback(t *testing.T) {
	data := noise(5, 1<<20)
	for _, blind := range []bool{false, true} {
		for _, at := range []int64{1, 1 << 19, 1<<20 - 1} {
			synctest.Test(t, func(t *testing.T) {
				h := newHub()
				h.blind, h.pace = blind, 10*time.Millisecond
				ref := h.put("docker.io", "library/a", data)
				h.turn = func(request) turn { return turn{flip: at} }
				c := open(t, h, Options{ScrubRate: -1})
				together(6, func(i int) {
					off, n := int64(0), int64(-1)
					if i > 2 {
						off, n = 100, 1<<20-100
					}
					b, err := c.Open(t.Context(), ref, Want{Off: off, N: n})
					if err != nil {
						t.Error(err)
						return
					}
					k := &check{want: bytes.NewReader(data), off: off}
					if i > 2 {
						k.slow = func(int) { time.Sleep(100 * time.Millisecond) } // still at it when the truth comes out
					}
					err = b.SendRange(t.Context(), k, off, n)
					if !errors.Is(err, ErrCorrupt) || n < 0 && k.n > 1<<20-holdback || b.Close() != nil {
						t.Errorf("blind %t, wrong from %d, reader %d: %d bytes, %v", blind, at, i, k.n, err)
					}
				})
				if s := c.Stats(); s.Landed != 0 || s.Corrupt != 1 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

// Ranges may be made to wait for the proof.
func TestProvenRanges(t *testing.T) {
	for _, wrong := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			h.pace = 100 * time.Millisecond
			data := noise(6, 2<<20)
			ref := h.put("docker.io", "library/a", data)
			if wrong {
				h.turn = func(request) turn { return turn{flip: 2<<20 - 1} }
			}
			c := open(t, h, Options{ScrubRate: -1, ProvenRanges: true})
			b, err := c.Open(t.Context(), ref, Want{Off: 10, N: 100})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			k := &check{want: bytes.NewReader(data), off: 10}
			if err := b.SendRange(ctx, k, 10, 100); !errors.Is(err, context.DeadlineExceeded) || k.n > 0 {
				t.Errorf("%d bytes before the proof, %v", k.n, err)
			}
			err = b.SendRange(t.Context(), k, 10, 100)
			if err := errors.Join(k.verdict(err, 100), b.Close()); wrong != errors.Is(err, ErrCorrupt) || !wrong && err != nil {
				t.Errorf("wrong %t: %d bytes, %v", wrong, k.n, err)
			}
		})
	}
}
