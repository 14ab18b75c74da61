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
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// plan is a run of readers over a source with faults, as the bytes of a fuzz input say.
type plan struct {
	in []byte

	data    []byte
	options Options
	hub     *hub
	wrong   bool // some bytes that are sent are not the content's
	faults  []turn
}

// byte is the next byte of the plan, or 0.
func (p *plan) byte() int {
	if len(p.in) == 0 {
		return 0
	}
	b := p.in[0]
	p.in = p.in[1:]
	return int(b)
}

// pick is one of the values, by the next byte.
func pick[T any](p *plan, values ...T) T { return values[p.byte()%len(values)] }

// place is a place in the content: near its ends, near what matters, or anywhere.
func (p *plan) place() int64 {
	at := pick(p, 0, 1, int64(len(p.data)), holdback, pieceSize, step, int64(len(p.data))-holdback, int64(p.byte())<<13)
	return min(max(0, at+int64(p.byte()%3-1)), int64(len(p.data)))
}

func newPlan(in []byte) *plan {
	p := &plan{in: in, hub: newHub()}
	p.data = noise(1, pick(p, 0, 1, 100, holdback-1, holdback, holdback+1, pieceSize, 300_000, 1<<20, 5<<19)+p.byte())
	flags := p.byte()
	p.hub.rigid, p.hub.blind = flags&1 > 0, flags&2 > 0
	p.options = Options{ScrubRate: -1, Fill: pick(p, FillAuto, FillAsked, FillWhole), ProvenRanges: flags&4 > 0}
	if flags&8 > 0 {
		p.options.Disk = pick(p, int64(100<<10), 1<<20)
	}
	disk := &faulty{}
	if n := p.byte(); flags&16 > 0 {
		disk.fault = func(a act) error {
			if a.n > n && a.writes() {
				return unix.ENOSPC
			}
			return nil
		}
	}
	p.options.FS = disk
	for range p.byte() % 6 {
		p.faults = append(p.faults, p.fault())
	}
	p.hub.turn = func(r request) turn {
		if r.n < 0 || r.n >= len(p.faults) {
			return turn{}
		}
		return p.faults[r.n]
	}
	return p
}

// fault is how the next answer goes wrong.
func (p *plan) fault() turn {
	t := turn{wait: time.Duration(p.byte()) * time.Millisecond}
	switch p.byte() % 8 {
	case 0:
		t.err = pick[error](p, ErrUnavailable, ErrNotFound, ErrDenied, &LimitedError{}, io.ErrUnexpectedEOF)
	case 1:
		t.cut = max(1, p.place())
	case 2:
		t.cut, t.with = max(1, p.place()), io.EOF
	case 3:
		t.flip, p.wrong = max(1, p.place()), true
	case 4:
		t.size, p.wrong = max(1, p.place()), true
	case 5:
		t.rigid = true
	case 6:
		t.cut, t.wait = max(1, p.place()), 15*time.Second
	}
	return t
}

// reader does what one client does, and says what is wrong with what it got.
func (p *plan) reader(ctx context.Context, c *Cache) func() error {
	wait := time.Duration(p.byte()) * time.Millisecond
	ref := Ref{Registry: "docker.io", Repo: pick(p, "library/a", "library/b"), Kind: KindBlob, Digest: Sum(p.data)}
	ctx = WithCaller(ctx, pick(p, Caller(""), "bob"))
	kind := p.byte()
	var parts []span
	for range 1 + kind%3 {
		from, to := p.place(), p.place()
		parts = append(parts, span{min(from, to), max(from, to)})
	}
	patience := time.Hour
	if kind&16 > 0 {
		patience = time.Duration(p.byte()) * 10 * time.Millisecond
	}
	return func() error {
		pause(ctx, wait)
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if kind&32 > 0 {
			return p.read(ctx, c, ref, parts)
		}
		return p.readWhole(ctx, c, ref, kind&64 > 0)
	}
}

// read reads ranges, which are right unless the source was wrong.
func (p *plan) read(ctx context.Context, c *Cache, ref Ref, parts []span) error {
	b, err := c.Open(ctx, ref, Want{Off: parts[0].from, N: parts[0].to - parts[0].from})
	if err != nil {
		return nil
	}
	for _, x := range parts {
		var got bytes.Buffer
		err := b.SendRange(ctx, &got, x.from, x.to-x.from)
		if int64(got.Len()) > x.to-x.from || err == nil && int64(got.Len()) < x.to-x.from {
			return fmt.Errorf("%+v: %d bytes, %w", x, got.Len(), err)
		}
		proven := p.options.ProvenRanges
		if x.to-x.from == int64(len(p.data)) { // that is the whole, and shown as such
			proven = err == nil && b.Size >= 0
		}
		if !bytes.Equal(got.Bytes(), p.data[x.from:][:got.Len()]) && (!p.wrong || proven) {
			return fmt.Errorf("%+v: %w", x, errDiffers)
		}
	}
	return b.Close()
}

// readWhole reads everything. What ends cleanly is right, whatever the source did.
func (p *plan) readWhole(ctx context.Context, c *Cache, ref Ref, prove bool) error {
	b, err := c.Open(ctx, ref, Whole)
	if err != nil {
		return nil
	}
	defer b.Close()
	if prove {
		if err := b.Prove(ctx); err != nil {
			return nil
		}
	}
	var got bytes.Buffer
	promised := b.Size
	err = b.SendRange(ctx, &got, 0, -1)
	switch {
	case err == nil && !bytes.Equal(got.Bytes(), p.data):
		return fmt.Errorf("whole: %d bytes: %w", got.Len(), errDiffers)
	case err != nil && prove && got.Len() > 0 && ctx.Err() == nil:
		return fmt.Errorf("whole, proven: %d bytes: %w", got.Len(), err)
	case err != nil && promised >= 0 && int64(got.Len()) >= promised && promised > 0:
		return fmt.Errorf("whole: %d bytes of %d sent, and then: %w", got.Len(), promised, err)
	}
	return nil
}

// fly runs the plan.
func (p *plan) fly(t *testing.T) {
	for _, repo := range []string{"library/a", "library/b"} {
		p.hub.put("docker.io", repo, p.data)
	}
	p.options.Dir = ramDir(t)
	c, err := New(t.Context(), p.hub, p.options)
	if err != nil {
		return // no room for a directory
	}
	began := time.Now()
	var wg sync.WaitGroup
	for range 1 + p.byte()%8 {
		read := p.reader(t.Context(), c)
		wg.Go(func() {
			if err := read(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 5*time.Minute {
		t.Errorf("took %v", took)
	}
	p.hub.set(func(h *hub) { h.turn = nil })
	time.Sleep(longestSulk)
	ref := Ref{Registry: "docker.io", Repo: "library/a", Kind: KindBlob, Digest: Sum(p.data)}
	n, _, err := pull(t.Context(), c, ref, p.data)
	if p.wrong && errors.Is(err, ErrCorrupt) {
		n, _, err = pull(t.Context(), c, ref, p.data) // what readers of ranges had left was found out by the first
	}
	if err != nil {
		t.Errorf("after: %d bytes, %v", n, err)
	}
	shut(t, c)
}

func TestFollow(t *testing.T) {
	n := 300
	if testing.Short() {
		n = 50
	}
	r := rand.New(rand.NewPCG(7, 7))
	for range n {
		in := make([]byte, 8+r.IntN(100))
		for i := range in {
			in[i] = byte(r.IntN(256))
		}
		follow(t, in)
		if t.Failed() {
			t.Fatalf("%x", in)
		}
	}
}

func follow(t *testing.T, in []byte) {
	synctest.Test(t, func(t *testing.T) { newPlan(in).fly(t) })
}

func FuzzFollow(f *testing.F) {
	f.Add([]byte("\x08\x00\x00\x00\x00\x00"))
	f.Fuzz(follow)
}
