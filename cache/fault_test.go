package cache

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// settled is how long the store may take, in virtual time, to do all that it has put off.
const settled = linger + 2*lookEvery

// things are what a workload pulls.
type things struct {
	*shelf
	refs []Ref
	data map[Ref][]byte
}

// static is content that many tests pull.
var static = sync.OnceValue(func() []byte { return noise(100, 8<<20) })

func newThings(sizes ...int) *things {
	w := &things{shelf: newShelf(), data: map[Ref][]byte{}}
	for i, n := range sizes {
		b := static()[i : i+n]
		w.add(w.put(b), b)
	}
	return w
}

func (w *things) add(ref Ref, b []byte) {
	w.refs = append(w.refs, ref)
	w.data[ref] = b
}

// image adds an image of the blobs so far, by tag and by digest.
func (w *things) image(tag string) Ref {
	var layers []Ref
	for _, r := range w.refs {
		if r.Kind == KindBlob {
			layers = append(layers, r)
		}
	}
	b := imageOf(tag, layers...)
	ref := w.tag(tag, b)
	w.add(ref, b)
	w.add(ref.At(Sum(b)), b)
	return ref
}

// imageOf is the manifest of an image.
func imageOf(name string, layers ...Ref) []byte {
	var list []string
	for _, l := range layers {
		list = append(list, fmt.Sprintf(`{"digest":%q,"size":1}`, l.Digest))
	}
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"layers":[%s],"annotations":{"name":%q}}`,
		typeImage, strings.Join(list, ","), name)
}

// pullAll pulls everything once.
func (w *things) pullAll(ctx context.Context, c *Cache) error {
	for _, ref := range w.refs {
		if err := read(ctx, c, ref, 0, -1, w.data[ref]); err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
	}
	return nil
}

// audit compares the books with the files, once everything has settled.
func audit(c *Cache) error {
	b, root := c.disk.books, c.disk.root
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.promised != 0 || b.ghosts != 0 || len(b.trash) != 0 || b.used() > b.budget {
		return fmt.Errorf("%d promised, %d ghosts, %d in the trash, %d of %d used",
			b.promised, b.ghosts, len(b.trash), b.used(), b.budget)
	}
	known, sum, fixed := map[string]int64{}, int64(0), int64(0)
	for _, e := range b.entries {
		path := cmp.Or(b.away[e], c.disk.path(e.slot))
		if e.slot.partial != 0 {
			known[mapPath(path)] = -1
		}
		known[path] = e.size
		sum += e.size
		if b.isPinned(e) {
			fixed += e.size
		}
	}
	if sum != b.kept || fixed != b.fixed {
		return fmt.Errorf("%d bytes kept and %d pinned, %d and %d on the books", b.kept, b.fixed, sum, fixed)
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Dir(path) == root || filepath.Dir(path) == c.pins.dir() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		size, ok := known[path]
		delete(known, path)
		if !ok || (size != fi.Size() && size >= 0 && !strings.Contains(path, "/partial/")) {
			return fmt.Errorf("%s has %d bytes; %d on the books (%v)", path, fi.Size(), size, ok)
		}
		return nil
	})
	if err == nil && len(known) > 0 {
		err = fmt.Errorf("on the books alone: %v", known)
	}
	return err
}

// trial is one run of the workload over a file system that fails.
type trial struct {
	t      *testing.T
	dir    string
	fs     *faulty
	things *things
	c      *Cache
}

const trialBudget = 6 << 20

func newTrial(t *testing.T) *trial {
	w := newThings(10, 40<<10, 200<<10, 1<<20+7, 1<<20+9)
	w.image("latest")
	return &trial{t: t, dir: ramDir(t), fs: &faulty{dirty: map[string][]span{}}, things: w}
}

// start opens the cache; a first attempt may meet the fault.
func (r *trial) start(filesystem FS) error {
	var failed error
	for range 2 {
		c, err := New(r.t.Context(), r.things, Options{Dir: r.dir, Disk: trialBudget, FS: filesystem})
		if err == nil {
			r.c = c
			return nil
		}
		failed = err
	}
	return failed
}

// work pulls, evicts, breaks off, restarts; then the disk works again, and all comes into order.
func (r *trial) work() error {
	ctx := r.t.Context()
	if err := r.start(r.fs); err != nil {
		return err
	}
	defer func() { _ = r.c.Close() }()
	if err := r.things.pullAll(ctx, r.c); err != nil {
		return fmt.Errorf("cold: %w", err)
	}
	time.Sleep(time.Second)
	if err := r.things.pullAll(ctx, r.c); err != nil {
		return fmt.Errorf("warm: %w", err)
	}
	big := static()[1<<20 : 5<<20] // leaves no room for most of the others
	ref := r.things.put(big)
	if err := read(ctx, r.c, ref, 1<<20, 300<<10, big); err != nil {
		return fmt.Errorf("range: %w", err)
	}
	if err := r.c.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if err := r.start(r.fs); err != nil {
		return err
	}
	if err := read(ctx, r.c, ref, 0, -1, big); err != nil {
		return fmt.Errorf("large: %w", err)
	}
	if err := r.things.pullAll(ctx, r.c); err != nil {
		return fmt.Errorf("after the large one: %w", err)
	}
	r.fs.when(nil)
	time.Sleep(settled)
	return errors.Join(r.c.Health(), audit(r.c), r.c.Close())
}

// verify starts on what is left, over a disk that works, and finds everything in order.
func (r *trial) verify() error {
	if err := r.start(osFS{}); err != nil {
		return err
	}
	defer func() { _ = r.c.Close() }()
	for range 2 {
		if err := r.things.pullAll(r.t.Context(), r.c); err != nil {
			return err
		}
		time.Sleep(settled)
	}
	return errors.Join(r.c.Health(), audit(r.c))
}

// faults that one operation can meet.
var faults = map[string]error{
	"ENOSPC": unix.ENOSPC, "EIO": unix.EIO, "EROFS": unix.EROFS, "EMFILE": unix.EMFILE, "short": errShort,
}

// meets reports whether an operation can fail so.
func meets(a act, err error) bool {
	switch err {
	case unix.EMFILE:
		return a.verb == "open" || a.verb == "create"
	case errShort:
		return a.verb == "write"
	case unix.EIO: // downloads that broke off and are not found at a start are found at the next
		return a.verb != "readdir" || !strings.Contains(a.name, "/partial/")
	default:
		return a.writes()
	}
}

// TestFaultOnce lets each operation of a workload in turn fail once, in each way that it can.
func TestFaultOnce(t *testing.T) {
	each(t, func(t *testing.T, name string, fault error, n int) {
		r := newTrial(t)
		r.fs.when(func(a act) error {
			if a.n == n && meets(a, fault) {
				return fault
			}
			return nil
		})
		err := r.work()
		if err != nil && strings.Contains(err.Error(), pinsUnread) {
			err = nil
		}
		if err := errors.Join(err, r.verify()); err != nil {
			t.Errorf("%s at %v: %v", name, r.fs.at(n), err)
		}
	})
}

// pinsUnread is what the health says to the end where a start could not read what is pinned: nothing is evicted until the
// next one.
const pinsUnread = "what is pinned could not be read"

// promised are what may come of it when all fails for a while: there is no start without a directory, who was shown bytes
// that then can neither be hashed nor read again is cut off, for nobody could prove the whole, and what is pinned is read
// at a start alone.
var promised = []string{"data directory", "could not be proven", pinsUnread}

// TestFaultForAWhile lets everything fail from the nth operation on until, after a while, all is well again.
func TestFaultForAWhile(t *testing.T) {
	each(t, func(t *testing.T, name string, fault error, n int) {
		r := newTrial(t)
		r.fs.when(func(a act) error {
			if a.n < n || !meets(a, fault) {
				return nil
			}
			return fault
		})
		err := r.work()
		if err != nil && !slices.ContainsFunc(promised, func(s string) bool { return strings.Contains(err.Error(), s) }) {
			t.Errorf("%s from %v on: %v", name, r.fs.at(n), err)
		}
		if err := r.verify(); err != nil {
			t.Errorf("after %s from %v on: %v", name, r.fs.at(n), err)
		}
	})
}

// TestCrash stops the world at each operation of a workload in turn, takes from the disk what was not durable, and
// starts again.
func TestCrash(t *testing.T) {
	total := operations(t)
	for n := 1; n <= total; n += pace(total) {
		synctest.Test(t, func(t *testing.T) {
			r := newTrial(t)
			r.fs.when(func(a act) error {
				if a.n >= n {
					return unix.EIO
				}
				return nil
			})
			_ = r.work()
			if err := r.fs.cut(rand.New(rand.NewPCG(1, uint64(n)))); err != nil {
				t.Fatal(err)
			}
			if err := r.verify(); err != nil {
				t.Errorf("at %v: %v", r.fs.at(n), err)
			}
		})
	}
}

// operations counts those of a workload that meets no fault.
func operations(t *testing.T) (n int) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t)
		if err := errors.Join(r.work(), r.verify()); err != nil {
			t.Fatal(err)
		}
		n = r.fs.count()
	})
	return n
}

// tried is how many operations of a workload are tried with each fault: each takes a twentieth of a second.
var tried = flag.Int("faults", 10, "operations to try with each fault; 0: all")

// pace is the distance of those operations.
func pace(total int) int {
	if *tried <= 0 {
		return 1
	}
	return max(1, total / *tried)
}

// each runs do for each fault and each operation that may meet it.
func each(t *testing.T, do func(t *testing.T, name string, fault error, n int)) {
	total := operations(t)
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			for n := 1; n <= total; n += pace(total) {
				synctest.Test(t, func(t *testing.T) { do(t, name, fault, n) })
			}
		})
	}
}
