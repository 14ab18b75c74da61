package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// onLoopback starts a tidepool before o over real sockets.
func onLoopback(t *testing.T, o *origintest.Origin, p plan) *pool {
	t.Helper()
	p.hubs = map[string]string{"docker.io": origintest.Serve(t, o).URL}
	return fill(t, p)
}

// fetch brings n bytes of c from off on by one Range, or all of it where n is negative, and compares them.
func (w *pool) fetch(ctx context.Context, c *origintest.Content, off, n int64) error {
	var header []string
	status := http.StatusOK
	if n >= 0 {
		header, status = []string{"Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1)}, http.StatusPartialContent
	}
	res, err := w.ask(ctx, http.MethodGet, blobPath(c.Digest()), header...)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != status {
		return fmt.Errorf("%v: %s", header, res.Status)
	}
	return c.Compare(res.Body, off, n)
}

// 200 clients, 80 before the download gets anywhere, 80 in the midst of it, 40 when it is done: one request.
func TestCrowdOnOneBlob(t *testing.T) {
	bubble(t, "before, during and after", func(t *testing.T) {
		const size = 1 << 20
		o := origintest.New()
		blob := o.PutBlob(repo, origintest.Synthetic(1, size))
		w := inBubble(t, o)
		early, half := o.When(origintest.Blob).StallAt(0), o.When(origintest.Blob).StallAt(size/2)
		var all sync.WaitGroup
		come := func(n int) {
			for range n {
				all.Go(func() {
					if err := w.fetch(t.Context(), blob, 0, -1); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		come(80)
		early.Release()
		come(80)
		half.Release()
		all.Wait()
		come(40)
		all.Wait()
		if n := o.Count(); n != 1 {
			t.Errorf("%d requests upstream", n)
		}
	})
}

// fewer is n, and a fifth of it under the race detector: .ci/steps runs these tests without as well.
func fewer(n int) int {
	if racing {
		return max(1, n/5)
	}
	return n
}

// 200 ranges of 8 MiB at random places of a cold blob, by many clients at once: each right, each byte sent once but
// for what one request may overlap with another.
func TestCrowdOfRanges(t *testing.T) {
	const size, n = 256 << 20, 8 << 20
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(2, size))
	w := onLoopback(t, o, plan{})
	crowd(40, func(client int) {
		rng := rand.New(rand.NewPCG(uint64(client), 1))
		for range fewer(5) {
			if err := w.fetch(t.Context(), blob, rng.Int64N(size-n), n); err != nil {
				t.Error(err)
			}
		}
	})
	if c := o.Sent(blob.Digest()); c.Repeated() > n {
		t.Errorf("%d bytes were sent again", c.Repeated())
	}
}

// 200 requests for 2 to 16 ranges each, as they come: overlapping, from the end, in no order; from 8 clients, of a cold
// blob. Every part is right, and few bytes are sent twice.
func TestCrowdOfManyRanges(t *testing.T) {
	const size = 256 << 20
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(3, size))
	w := onLoopback(t, o, plan{})
	var most int64
	var mu sync.Mutex
	crowd(8, func(client int) {
		rng := rand.New(rand.NewPCG(uint64(client), 2))
		for range fewer(25) {
			spans := randomSpans(rng, size)
			var sum int64
			for _, s := range spans {
				sum += s.n
			}
			mu.Lock()
			most = max(most, sum)
			mu.Unlock()
			if err := w.several(t.Context(), blob, spans); err != nil {
				t.Error(err)
			}
		}
	})
	if c := o.Sent(blob.Digest()); c.Repeated() > most {
		t.Errorf("%d bytes were sent again", c.Repeated())
	}
	a := w.get(blobPath(blob.Digest()), "Range", fmt.Sprintf("bytes=%d-,%d-%d", size, size+1, size+9))
	a.refuses(t, http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID")
}

// span is a range, and how a client writes it.
type span struct {
	off, n int64
	text   string
}

// randomSpans are 2 to 16 ranges of up to 1 MiB; some of the same places, some counted from the end, some that reach
// beyond it, and some, of no bytes, that lie outside altogether.
func randomSpans(rng *rand.Rand, size int64) (spans []span) {
	for range 2 + rng.IntN(15) {
		off, n := rng.Int64N(size-1<<20), 1+rng.Int64N(1<<20)
		s := span{off, n, fmt.Sprintf("%d-%d", off, off+n-1)}
		switch last := len(spans) - 1; {
		case rng.IntN(8) == 0:
			s = span{size - n, n, fmt.Sprintf("-%d", n)}
		case rng.IntN(8) == 0:
			s = span{size - n, n, fmt.Sprintf("%d-%d", size-n, size+n)}
		case rng.IntN(8) == 0 && last >= 0:
			s = spans[last]
		case rng.IntN(16) == 0 && last >= 0:
			s = span{0, 0, fmt.Sprintf("%d-%d", size, size+n)}
		}
		spans = append(spans, s)
	}
	return spans
}

// several asks for all spans in one request and compares each part.
func (w *pool) several(ctx context.Context, c *origintest.Content, spans []span) error {
	var texts []string
	for _, s := range spans {
		texts = append(texts, s.text)
	}
	res, err := w.ask(ctx, http.MethodGet, blobPath(c.Digest()), "Range", "bytes="+strings.Join(texts, ","))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	kind, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if res.StatusCode != http.StatusPartialContent || err != nil {
		return fmt.Errorf("%s, %v", res.Status, err)
	}
	parts := multipart.NewReader(res.Body, params["boundary"])
	for _, s := range spans {
		if s.n == 0 {
			continue
		}
		var body io.Reader = res.Body
		where := res.Header.Get("Content-Range")
		if kind == "multipart/byteranges" {
			part, err := parts.NextRawPart()
			if err != nil {
				return fmt.Errorf("%s: %w", s.text, err)
			}
			body, where = part, part.Header.Get("Content-Range")
		}
		if want := fmt.Sprintf("bytes %d-%d/%d", s.off, s.off+s.n-1, c.Size()); where != want {
			return fmt.Errorf("%s: Content-Range %q, want %q", s.text, where, want)
		}
		if err := c.Compare(body, s.off, s.n); err != nil {
			return fmt.Errorf("%s: %w", s.text, err)
		}
	}
	if _, err := parts.NextRawPart(); kind == "multipart/byteranges" && err != io.EOF {
		return fmt.Errorf("after the last part: %v", err)
	}
	return nil
}

// A lazy reader takes a twentieth of a blob in small ranges, and that costs at most twice as much.
func TestLazyReader(t *testing.T) {
	const size, n = 256 << 20, 64 << 10
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(4, size))
	w := onLoopback(t, o, plan{})
	rng := rand.New(rand.NewPCG(1, 3))
	for range size / 20 / n {
		if err := w.fetch(t.Context(), blob, rng.Int64N(size-n), n); err != nil {
			t.Fatal(err)
		}
	}
	if sent := o.Bytes(); sent > size/10 {
		t.Errorf("%d bytes were sent for %d that were asked for", sent, size/20)
	}
}

// A client as containerd from 2.1 on: it asks for everything from some place on, in as many requests as there are
// pieces, and leaves each after its piece. Over a network without buffers, so that what the hub sent has arrived.
func TestParallelPieces(t *testing.T) {
	bubble(t, "6 at a time", func(t *testing.T) {
		const size, piece = 64<<20 + 12345, 4 << 20
		o := origintest.New()
		blob := o.PutBlob(repo, origintest.Synthetic(5, size))
		w := inBubble(t, o)
		pieces := make(chan int64)
		go func() {
			defer close(pieces)
			for off := int64(0); off < size; off += piece {
				pieces <- off
			}
		}()
		crowd(6, func(int) {
			for off := range pieces {
				if err := w.piece(t.Context(), blob, off, min(piece, size-off)); err != nil {
					t.Error(err)
				}
			}
		})
		if err := w.fetch(t.Context(), blob, 0, -1); err != nil {
			t.Error(err)
		}
		if c := o.Sent(blob.Digest()); c.Distinct() != size || c.Repeated() > piece {
			t.Errorf("%d bytes were sent, %d of them again", c.Total(), c.Repeated())
		}
	})
}

// piece asks for all from off on, takes n bytes and leaves.
func (w *pool) piece(ctx context.Context, c *origintest.Content, off, n int64) error {
	res, err := w.ask(ctx, http.MethodGet, blobPath(c.Digest()), "Range", fmt.Sprintf("bytes=%d-", off))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if off > 0 && res.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("from %d on: %s", off, res.Status)
	}
	return c.Compare(io.LimitReader(res.Body, n), off, n)
}

// Clients together on a blob that cannot be kept, because the disk is full or because it is larger than the budget: at
// most two downloads, and all is right. The window is of memory or, where the budget has room for it, on disk; the
// blob is larger than either.
func TestCrowdWithoutRoom(t *testing.T) {
	full := new(diskFS)
	full.full.Store(true)
	for _, c := range []struct {
		name    string
		clients int
		size    int64
		plan    plan
	}{
		{"disk full", fewer(50), 10 << 20, plan{world: world{fs: full}}},
		{"larger than the budget", fewer(50), 10 << 20, plan{flags: map[string][]string{"disk": {"8MiB"}}}},
		{"larger than the budget and the window", 3, 72 << 20, plan{flags: map[string][]string{"disk": {"70MiB"}}}},
	} {
		bubble(t, c.name, func(t *testing.T) {
			o := origintest.New()
			blob := o.PutBlob(repo, origintest.Synthetic(6, c.size))
			w := inBubble(t, o, c.plan)
			crowd(c.clients, func(i int) {
				time.Sleep(time.Duration(i) * 2 * time.Millisecond) // together, as far as that can be
				if err := w.fetch(t.Context(), blob, 0, -1); err != nil {
					t.Error(err)
				}
			})
			if n, sent := o.Count(origintest.GET), o.Bytes(); n > 2 || sent > 2*c.size {
				t.Errorf("%d requests and %d bytes upstream", n, sent)
			}
			synctest.Wait()
			if n := w.hubs.Stats()[0].Fetches; n != 0 {
				t.Errorf("%d downloads were never given up", n)
			}
			w.keepsOnlyTruth()
		})
	}
}
