package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// hub is a Source in memory: a registry that does as it is told.
type hub struct {
	mu     sync.Mutex
	blobs  map[string][]byte // registry/repo@digest
	tags   map[string]Digest // registry/repo:tag
	opens  []string
	heads  []string
	sent   map[Digest]int64
	down   bool
	rigid  bool // ignores ranges
	blind  bool // tells no sizes
	change func(ref Ref, want Want, b io.Reader) io.Reader
	slow   time.Duration
}

func newHub() *hub {
	return &hub{blobs: map[string][]byte{}, tags: map[string]Digest{}, sent: map[Digest]int64{}}
}

func (h *hub) put(registry, repo string, b []byte) Ref {
	d := Sum(b)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blobs[registry+"/"+repo+"@"+d.String()] = b
	return Ref{Registry: registry, Repo: repo, Kind: KindBlob, Digest: d}
}

func (h *hub) find(ref Ref) (Digest, []byte, error) {
	if h.down {
		return Digest{}, nil, fmt.Errorf("%s: %w", ref, ErrUnavailable)
	}
	d := ref.Digest
	if d.IsZero() {
		d = h.tags[ref.Registry+"/"+ref.Repo+":"+ref.Tag]
	}
	b, ok := h.blobs[ref.Registry+"/"+ref.Repo+"@"+d.String()]
	if !ok {
		return d, nil, fmt.Errorf("%s: %w", ref, ErrNotFound)
	}
	return d, b, nil
}

func (h *hub) Resolve(_ context.Context, ref Ref, want Want) (Answer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heads = append(h.heads, ref.String())
	d, b, err := h.find(ref)
	if err == nil && d == want.Known {
		err = ErrUnchanged
	}
	return Answer{Desc: Desc{Digest: d, Size: int64(len(b))}}, err
}

func (h *hub) Open(ctx context.Context, ref Ref, want Want) (Answer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opens = append(h.opens, fmt.Sprintf("%s %d+%d", ref, want.Off, want.N))
	d, b, err := h.find(ref)
	if err != nil {
		return Answer{}, err
	}
	if h.rigid {
		want = Whole
	}
	a := Answer{Desc: Desc{Digest: d, Size: int64(len(b))}, Off: want.Off}
	part := b[want.Off:]
	if want.N >= 0 {
		part = part[:min(want.N, int64(len(part)))]
	}
	var r io.Reader = bytes.NewReader(part)
	if h.change != nil {
		r = h.change(ref, want, r)
	}
	if h.blind {
		a.Size = -1
	}
	a.Body = &meter{Reader: r, h: h, d: d, ctx: ctx}
	return a, nil
}

// meter counts what a body sends.
type meter struct {
	io.Reader
	h   *hub
	d   Digest
	ctx context.Context
}

func (m *meter) Read(p []byte) (int, error) {
	if m.h.slow > 0 {
		time.Sleep(m.h.slow)
	}
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.Reader.Read(p)
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	m.h.sent[m.d] += int64(n)
	return n, err
}

func (m *meter) Close() error { return nil }

// noise is n bytes that are the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

func open(t *testing.T, src Source, o Options) *Cache {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c, err := New(context.Background(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// check is a writer that compares what it is given with what it should be, and keeps nothing.
type check struct {
	want []byte
	n    int
	bad  bool
}

func (k *check) Write(p []byte) (int, error) {
	k.bad = k.bad || k.n+len(p) > len(k.want) || !bytes.Equal(p, k.want[k.n:k.n+len(p)])
	k.n += len(p)
	return len(p), nil
}

// pull reads ref whole and returns how much came, and whether that is the beginning of data.
func pull(ctx context.Context, c *Cache, ref Ref, data []byte) (int, Tier, error) {
	return pullRange(ctx, c, ref, 0, -1, data)
}

var errDiffers = errors.New("wrong bytes")

func pullRange(ctx context.Context, c *Cache, ref Ref, off, n int64, data []byte) (int, Tier, error) {
	b, err := c.Open(ctx, ref, Want{Off: off, N: n})
	if err != nil {
		return 0, 0, err
	}
	defer b.Close()
	k := check{want: data[off:]}
	if n >= 0 {
		k.want = k.want[:n]
	}
	if err = b.SendRange(ctx, &k, off, n); err == nil && (k.bad || k.n != len(k.want)) {
		err = fmt.Errorf("%w: %d of %d", errDiffers, k.n, len(k.want))
	}
	if k.bad {
		err = errors.Join(err, errDiffers)
	}
	return k.n, b.From, err
}
