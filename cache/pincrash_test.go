package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// pinTrial pins two versions of an image, one after the other.
type pinTrial struct {
	*trial
	pins  [2]Pin
	acked int // how many of them were pinned, as far as its owner knows
}

func newPinTrial(t *testing.T) *pinTrial {
	w := newThings(10, 40<<10, 1<<20+7)
	return &pinTrial{trial: &trial{t: t, dir: ramDir(t), fs: &faulty{dirty: map[string][]span{}}, things: w}}
}

func (r *pinTrial) work() error {
	if err := r.start(r.fs); err != nil {
		return err
	}
	defer func() { _ = r.c.Close() }()
	for i := range r.pins {
		b := noise(uint64(50+i), 30<<10)
		r.things.add(r.things.put(b), b)
		if i > 0 {
			r.things.refs = r.things.refs[1:] // it loses a layer and has a new one
		}
		tag := r.things.image("latest")
		time.Sleep(6 * time.Minute) // it is not fresh any more
		if err := r.things.pullAll(r.t.Context(), r.c); err != nil {
			return err
		}
		var err error
		if r.pins[i], err = r.things.pin(r.t.Context(), r.c, tag); err != nil {
			return err
		}
		if err := r.c.Pin(r.t.Context(), r.pins[i]); err != nil {
			return err
		}
		r.acked = i + 1
		r.things.refs = r.things.refs[:len(r.things.refs)-2]
	}
	return nil
}

// verify starts without a source and without facts: what was acknowledged last is there, or what came after it.
func (r *pinTrial) verify() error {
	if err := os.RemoveAll(filepath.Join(r.dir, "store", "facts.db")); err != nil {
		return err
	}
	r.things.set(func(s *shelf) { s.down = true })
	if err := r.start(osFS{}); err != nil {
		return err
	}
	defer func() { _ = r.c.Close() }()
	pins := r.c.Pins()
	if r.acked == 0 && len(pins) == 0 {
		return nil
	}
	if len(pins) != 1 {
		return fmt.Errorf("%d pins after %d were acknowledged", len(pins), r.acked)
	}
	if r.acked > 0 && pins[0].At.Before(r.pins[r.acked-1].At) {
		return fmt.Errorf("the pin of %v, that of %v was acknowledged", pins[0].At, r.pins[r.acked-1].At)
	}
	for _, part := range pins[0].Parts {
		b, err := r.c.Open(r.t.Context(), part.Ref, Whole)
		if err == nil {
			err = errors.Join(b.Prove(r.t.Context()), b.Close())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", part.Ref, err)
		}
		if b.Digest != part.Digest {
			return fmt.Errorf("%s: %s, want %s", part.Ref, b.Digest, part.Digest)
		}
	}
	return nil
}

// TestPinCrash stops the world at each operation, takes from the disk what was not durable, and starts again: nothing
// that was acknowledged is lost.
func TestPinCrash(t *testing.T) {
	total := 0
	synctest.Test(t, func(t *testing.T) {
		r := newPinTrial(t)
		if err := errors.Join(r.work(), r.verify()); err != nil || r.acked != 2 {
			t.Fatal(err)
		}
		total = r.fs.count()
	})
	acked := map[int]int{}
	for n := 2 * total; n > 0; n -= max(1, pace(total)/4) { // from beyond the end, which is not always at the same number
		synctest.Test(t, func(t *testing.T) {
			r := newPinTrial(t)
			r.fs.when(func(a act) error {
				if a.n >= n {
					return unix.EIO
				}
				return nil
			})
			_ = r.work()
			acked[r.acked]++
			if err := r.fs.cut(rand.New(rand.NewPCG(2, uint64(n)))); err != nil {
				t.Fatal(err)
			}
			if err := r.verify(); err != nil {
				t.Errorf("at %v: %v", r.fs.at(n), err)
			}
		})
	}
	if len(acked) != 3 {
		t.Errorf("crashes after %v pins: not every case was met", acked)
	}
}
