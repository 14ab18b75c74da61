package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// hub is a Source in memory: a registry that does as it is told.
type hub struct {
	mu    sync.Mutex
	blobs map[string]content // registry/repo@digest
	tags  map[string]Digest  // registry/repo:tag
	lists map[Ref][]byte
	types map[Digest]string
	opens []request
	heads []request
	sent  map[Digest]int64
	live  int // bodies that nobody has closed

	down  bool          // answers nothing
	rigid bool          // ignores ranges
	blind bool          // tells no sizes
	pace  time.Duration // of each read
	turn  func(request) turn
	head  func(request) error
}

// content is what a hub has, by a formula or in memory.
type content interface {
	io.ReaderAt
	Size() int64
}

// request is what a hub was asked.
type request struct {
	ref    Ref
	want   Want
	caller Caller
	n      int // counted from 0, for each digest or tag
}

func (r request) String() string {
	return fmt.Sprintf("%s for %q: %d+%d", r.ref, r.caller, r.want.Off, r.want.N)
}

// turn is how one answer goes wrong.
type turn struct {
	err   error         // instead of an answer
	wait  time.Duration // before an answer
	cut   int64         // where, in the content, the body ends; 0: nowhere
	with  error         // how it ends; nil: io.ErrUnexpectedEOF
	stall bool          // it does not end there but hangs
	flip  int64         // from here on, in the content, all is wrong; 0: nowhere
	size  int64         // what is claimed; 0: the truth
	rigid bool
}

func newHub() *hub {
	return &hub{blobs: map[string]content{}, tags: map[string]Digest{}, sent: map[Digest]int64{}, lists: map[Ref][]byte{},
		types: map[Digest]string{}}
}

// put gives a repository a blob.
func (h *hub) put(registry, repo string, b []byte) Ref {
	return h.have(registry, repo, Sum(b), bytes.NewReader(b))
}

// have gives a repository what d names, or something else under that name.
func (h *hub) have(registry, repo string, d Digest, c content) Ref {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blobs[registry+"/"+repo+"@"+d.String()] = c
	return Ref{Registry: registry, Repo: repo, Kind: KindBlob, Digest: d}
}

// tag gives a repository a manifest under a tag.
func (h *hub) tag(registry, repo, tag string, b []byte) Ref {
	ref := h.put(registry, repo, b)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tags[registry+"/"+repo+":"+tag] = ref.Digest
	return Ref{Registry: registry, Repo: repo, Kind: KindManifest, Tag: tag}
}

// lose takes a digest from a repository.
func (h *hub) lose(ref Ref) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.blobs, ref.Registry+"/"+ref.Repo+"@"+ref.Digest.String())
}

// set changes how the hub behaves.
func (h *hub) set(do func(*hub)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do(h)
}

// asked is how many GETs and HEADs there were.
func (h *hub) asked() (gets, heads int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.opens), len(h.heads)
}

// bytes is how much of d was sent.
func (h *hub) bytes(d Digest) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sent[d]
}

// find is what ref names. h.mu is held.
func (h *hub) find(ref Ref) (Digest, content, error) {
	if h.down {
		return Digest{}, nil, fmt.Errorf("%s: %w", ref, ErrUnavailable)
	}
	if b, ok := h.lists[ref]; ok {
		return Sum(b), bytes.NewReader(b), nil
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

// note enters a request in a log. h.mu is held.
func (h *hub) note(ctx context.Context, log *[]request, ref Ref, want Want) request {
	r := request{ref: ref, want: want, caller: CallerOf(ctx)}
	for _, other := range *log {
		if other.ref.Digest == ref.Digest && other.ref.Tag == ref.Tag {
			r.n++
		}
	}
	*log = append(*log, r)
	return r
}

func (h *hub) Resolve(ctx context.Context, ref Ref, want Want) (Answer, error) {
	h.mu.Lock()
	r, head, turn := h.note(ctx, &h.heads, ref, want), h.head, h.turn
	h.mu.Unlock()
	if head != nil {
		if err := head(r); err != nil {
			return Answer{}, err
		}
	}
	h.mu.Lock()
	d, b, err := h.find(ref)
	list, isList := h.lists[ref]
	h.mu.Unlock()
	if err != nil {
		return Answer{}, err
	}
	if isList {
		return Answer{Desc: Desc{Size: int64(len(list))}, Body: io.NopCloser(bytes.NewReader(list))}, nil
	}
	if ref.Mutable() && d == want.Known {
		return Answer{}, ErrUnchanged
	}
	a := Answer{Desc: Desc{Digest: d, Size: b.Size(), MediaType: h.types[d]}}
	if turn != nil {
		if t := turn(request{ref: ref, n: -1}); t.size > 0 {
			a.Size = t.size
		}
	}
	if h.blind {
		a.Size = -1
	}
	return a, nil
}

func (h *hub) Open(ctx context.Context, ref Ref, want Want) (Answer, error) {
	h.mu.Lock()
	r, script := h.note(ctx, &h.opens, ref, want), h.turn
	h.mu.Unlock()
	var t turn
	if script != nil {
		t = script(r)
	}
	if t.wait > 0 {
		pause(ctx, t.wait)
	}
	if err := ctx.Err(); err != nil {
		return Answer{}, err
	}
	if t.err != nil {
		return Answer{}, t.err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, b, err := h.find(ref)
	if err != nil {
		return Answer{}, err
	}
	return h.answer(ctx, d, b, want, t)
}

// answer begins to send. h.mu is held.
func (h *hub) answer(ctx context.Context, d Digest, c content, want Want, t turn) (Answer, error) {
	if h.rigid || t.rigid {
		want = Whole
	}
	if want.Off > 0 && want.Off >= c.Size() {
		return Answer{}, fmt.Errorf("%d of %d: no such range: %w", want.Off, c.Size(), ErrUnavailable)
	}
	end := c.Size()
	if want.N >= 0 {
		end = min(end, want.Off+want.N)
	}
	a := Answer{Desc: Desc{Digest: d, Size: c.Size(), MediaType: h.types[d]}, Off: want.Off}
	if t.size > 0 {
		a.Size = t.size
	}
	if h.blind {
		a.Size = -1
	}
	h.live++
	a.Body = &body{ctx: ctx, h: h, d: d, c: c, turn: t, at: want.Off, end: end, pace: h.pace}
	return a, nil
}

// body is an answer on its way.
type body struct {
	ctx     context.Context
	h       *hub
	d       Digest
	c       content
	turn    turn
	at, end int64
	pace    time.Duration
	closed  bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.pace > 0 {
		pause(b.ctx, b.pace)
	}
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	end, over := b.end, io.EOF
	if b.turn.cut > 0 && b.turn.cut < end {
		end = max(b.at, b.turn.cut)
		if over = b.turn.with; over == nil {
			over = io.ErrUnexpectedEOF
		}
	}
	p = p[:min(int64(len(p)), end-b.at, pieceSize)] // what a network brings at a time
	if len(p) == 0 {
		if b.turn.stall && over != io.EOF {
			<-b.ctx.Done()
			over = b.ctx.Err()
		}
		return 0, over
	}
	n, _ := b.c.ReadAt(p, b.at)
	for i := range p[:n] {
		if b.turn.flip > 0 && b.at+int64(i) >= b.turn.flip {
			p[i] ^= 0x55
		}
	}
	b.at += int64(n)
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	b.h.sent[b.d] += int64(n)
	return n, nil
}

func (b *body) Close() error {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	if b.closed {
		return errors.New("closed twice")
	}
	b.closed = true
	b.h.live--
	return nil
}

// noise is n bytes that are the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// synthetic is content by a formula: pages of noise, each with its number in front.
type synthetic struct {
	page   [pageSize]byte
	size   int64
	digest Digest
}

const pageSize = 4 << 10

func newSynthetic(seed uint64, size int64) *synthetic {
	s := &synthetic{size: size}
	copy(s.page[:], noise(seed, pageSize))
	h := Sum(nil).Hash()
	_, _ = io.Copy(h, io.NewSectionReader(s, 0, size))
	s.digest.alg = algSHA256
	h.Sum(s.digest.sum[:0])
	return s
}

func (s *synthetic) Size() int64 { return s.size }

func (s *synthetic) ReadAt(p []byte, off int64) (n int, err error) {
	if int64(len(p)) > s.size-off {
		p, err = p[:max(0, s.size-off)], io.EOF
	}
	for n < len(p) {
		page := s.page
		binary.LittleEndian.PutUint64(page[:], uint64((off+int64(n))/pageSize))
		n += copy(p[n:], page[(off+int64(n))%pageSize:])
	}
	return n, err
}

// open makes a store that is closed, and looked at, when the test ends.
func open(t testing.TB, src Source, o Options) *Cache {
	t.Helper()
	if o.Dir == "" {
		o.Dir = ramDir(t)
	}
	c, err := New(context.Background(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, c) })
	return c
}

// shut closes a store. All that the source opened must be closed by then.
func shut(t testing.TB, c *Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	h, ok := c.src.(*hub)
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.live != 0 {
		t.Errorf("%d bodies were left open", h.live)
	}
}

// check is a writer that compares what it is given with what it should be, and keeps nothing.
type check struct {
	want content
	off  int64
	n    int64
	bad  bool
	buf  []byte
	slow func(n int) // called for each piece
}

func (k *check) Write(p []byte) (int, error) {
	if len(k.buf) < len(p) {
		k.buf = make([]byte, len(p))
	}
	n, _ := k.want.ReadAt(k.buf[:len(p)], k.off+k.n)
	if n < len(p) || !bytes.Equal(p, k.buf[:n]) {
		k.bad = true
	}
	k.n += int64(len(p))
	if k.slow != nil {
		k.slow(len(p))
	}
	return len(p), nil
}

var errDiffers = errors.New("wrong bytes")

// verdict is err, or what is wrong with what came.
func (k *check) verdict(err error, want int64) error {
	if k.bad {
		return errors.Join(err, errDiffers)
	}
	if err == nil && k.n != want {
		return fmt.Errorf("%w: %d of %d", errDiffers, k.n, want)
	}
	return err
}

// pull reads ref whole and returns how much came.
func pull(ctx context.Context, c *Cache, ref Ref, data []byte) (int, Tier, error) {
	n, from, err := fetch(ctx, c, ref, 0, -1, bytes.NewReader(data))
	return int(n), from, err
}

// fetch reads the n bytes of ref from off on, or all from there, and compares them.
func fetch(ctx context.Context, c *Cache, ref Ref, off, n int64, want content) (int64, Tier, error) {
	b, err := c.Open(ctx, ref, Want{Off: off, N: n})
	if err != nil {
		return 0, 0, err
	}
	k := &check{want: want, off: off}
	err = b.SendRange(ctx, k, off, n)
	if n < 0 {
		n = want.Size() - off
	}
	return k.n, b.From, errors.Join(k.verdict(err, n), b.Close())
}

// together calls do for 0 to n-1 at the same time and waits.
func together(n int, do func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}

// fromZero is how many of the requests ask for everything.
func fromZero(rs []request) int {
	return len(slices.DeleteFunc(slices.Clone(rs), func(r request) bool { return r.want != Whole }))
}
