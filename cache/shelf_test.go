package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
)

// shelf is a Source for tests of the store: it has what it was given, in every repository, and counts what it sends.
type shelf struct {
	mu   sync.Mutex
	all  map[Digest][]byte
	tags map[string]Digest
	sent map[Digest]int64
	down bool
	stop map[Digest]int64 // where, in the content, bodies end with an error
}

func newShelf() *shelf {
	return &shelf{all: map[Digest][]byte{}, tags: map[string]Digest{}, sent: map[Digest]int64{}, stop: map[Digest]int64{}}
}

// put adds content and returns a name for it.
func (s *shelf) put(b []byte) Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Sum(b)
	s.all[d] = b
	return Ref{Registry: "docker.io", Repo: "library/a", Kind: KindBlob, Digest: d}
}

// tag adds a manifest and returns its name.
func (s *shelf) tag(tag string, b []byte) Ref {
	ref := s.put(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags[tag] = ref.Digest
	return Ref{Registry: ref.Registry, Repo: ref.Repo, Kind: KindManifest, Tag: tag}
}

// set changes the shelf while it is in use.
func (s *shelf) set(do func(*shelf)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do(s)
}

// count is how much of d was sent.
func (s *shelf) count(d Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[d]
}

func (s *shelf) find(ref Ref) (Desc, []byte, error) {
	d := ref.Digest
	if ref.Tag != "" {
		d = s.tags[ref.Tag]
	}
	b, ok := s.all[d]
	switch {
	case s.down:
		return Desc{}, nil, fmt.Errorf("%s: %w", ref, ErrUnavailable)
	case !ok:
		return Desc{}, nil, fmt.Errorf("%s: %w", ref, ErrNotFound)
	}
	return Desc{Digest: d, Size: int64(len(b))}, b, nil
}

func (s *shelf) Resolve(_ context.Context, ref Ref, want Want) (Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	desc, _, err := s.find(ref)
	if err == nil && desc.Digest == want.Known {
		err = ErrUnchanged
	}
	return Answer{Desc: desc}, err
}

func (s *shelf) Open(ctx context.Context, ref Ref, want Want) (Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	desc, b, err := s.find(ref)
	if err != nil {
		return Answer{}, err
	}
	end := desc.Size
	if want.N >= 0 {
		end = min(end, want.Off+want.N)
	}
	stop, ok := s.stop[desc.Digest]
	if ok {
		end = max(want.Off, min(end, stop))
	}
	body := &sending{shelf: s, ctx: ctx, digest: desc.Digest, cut: ok && end == max(want.Off, stop)}
	body.Reader = bytes.NewReader(b[want.Off:end])
	return Answer{Desc: desc, Off: want.Off, Body: body}, nil
}

// sending is a body that the shelf sends.
type sending struct {
	*bytes.Reader
	shelf  *shelf
	ctx    context.Context
	digest Digest
	cut    bool
}

func (b *sending) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.Reader.Read(p)
	b.shelf.mu.Lock()
	defer b.shelf.mu.Unlock()
	b.shelf.sent[b.digest] += int64(n)
	if err == io.EOF && b.cut {
		err = fmt.Errorf("cut: %w: %w", ErrUnavailable, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (b *sending) Close() error { return nil }

// errWrong says that bytes came that are not those of the content.
var errWrong = errors.New("wrong bytes")

// read reads the n bytes from off on, to the end where n < 0, and compares them with data, the whole.
func read(ctx context.Context, c *Cache, ref Ref, off, n int64, data []byte) error {
	b, err := c.Open(ctx, ref, Want{Off: off, N: n})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	m := match{left: data[off:]}
	if n >= 0 {
		m.left = m.left[:n]
	}
	if err = b.SendRange(ctx, &m, off, n); m.wrong || (err == nil && len(m.left) > 0) {
		err = errors.Join(err, fmt.Errorf("%w: %d missing", errWrong, len(m.left)))
	}
	return err
}

// match compares what is written to it with what is left to come.
type match struct {
	left  []byte
	wrong bool
}

func (m *match) Write(p []byte) (int, error) {
	m.wrong = m.wrong || !bytes.HasPrefix(m.left, p)
	m.left = m.left[min(len(p), len(m.left)):]
	return len(p), nil
}

// launch opens a cache in o.Dir, which must be set, and leaves it to the test to close it.
func launch(t testing.TB, src Source, o Options) *Cache {
	t.Helper()
	c, err := New(context.Background(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func land(t testing.TB, c *Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
