package cache

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestBudgetUnderLoad pulls far more than the budget, by many at once, whole and in parts, some reading on while what
// they read is evicted; at no time is there more on disk than may be.
func TestBudgetUnderLoad(t *testing.T) {
	const budget = 8 << 20
	w := newThings()
	for i := range 60 {
		b := static()[i : i+(i*i%37+1)*50<<10]
		w.add(w.put(b), b)
	}
	dir := ramDir(t)
	c := launch(t, w, Options{Dir: dir, Disk: budget})
	done, over := make(chan struct{}), make(chan int64)
	go func() {
		var most int64
		for {
			select {
			case <-done:
				over <- most
				return
			default:
				used, _, _, _ := c.disk.books.sums()
				most = max(most, used)
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(i)))
			for range 60 {
				ref := w.refs[r.IntN(len(w.refs))]
				data := w.data[ref]
				off, n := int64(0), int64(-1)
				if r.IntN(3) == 0 {
					off = r.Int64N(int64(len(data)))
					n = r.Int64N(int64(len(data)) - off + 1)
				}
				if err := read(t.Context(), c, ref, off, n, data); err != nil {
					t.Errorf("%s %d+%d: %v", ref, off, n, err)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	if most := <-over; most > budget || most < budget/2 {
		t.Errorf("%d on the books, budget %d", most, budget)
	}
	if s := c.Stats(); s.Evicted == 0 {
		t.Errorf("%+v", s)
	}
	land(t, c)
	if n, files := onDisk(t, dir), countFiles(dir); n > budget+4096*int64(files) { // the last block of each
		t.Errorf("%d on disk in %d files, budget %d", n, files, budget)
	}
}

// onDisk is what the content of a data directory takes.
func onDisk(t *testing.T, dir string) (n int64) {
	t.Helper()
	for _, sub := range []string{"blobs", "partial", "tmp"} {
		err := filepath.WalkDir(filepath.Join(dir, "store", sub), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			fi, err := d.Info()
			if err == nil {
				n += fi.Sys().(*syscall.Stat_t).Blocks * 512
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestReadWhileEvicted holds that what is read is passed over, that what was dropped stays readable to its end, and
// that its bytes stay on the books until then.
func TestReadWhileEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(2<<20, 2<<20, 2<<20)
		c := launch(t, w, Options{Dir: ramDir(t), Disk: 7 << 20})
		if err := w.pullAll(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(settled)
		first := w.refs[0]
		b, err := c.Open(t.Context(), first, Whole)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range w.refs[1:] { // now the first is the one to go
			if err := read(t.Context(), c, ref, 0, -1, w.data[ref]); err != nil {
				t.Fatal(err)
			}
		}
		more := static()[7 : 7+3<<20]
		if err := read(t.Context(), c, w.put(more), 0, -1, more); err != nil {
			t.Fatal(err)
		}
		time.Sleep(settled)
		if !c.disk.holds(first.Digest) || c.Stats().Evicted != 2 {
			t.Errorf("evicted while it is read: %+v", c.Stats())
		}
		c.disk.bad(b.held.entry, errors.New("said the test"))
		time.Sleep(settled)
		if got := c.disk.books.inUse(); got != 5<<20 {
			t.Errorf("%d in use while a removed file is open", got)
		}
		if onDisk(t, c.o.Dir) > 3<<20+4096 {
			t.Error("still has its name")
		}
		m := match{left: w.data[first]}
		if err := b.SendRange(t.Context(), &m, 0, -1); err != nil || m.wrong || len(m.left) > 0 {
			t.Errorf("%d missing, %v", len(m.left), err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := audit(c); err != nil {
			t.Error(err)
		}
		land(t, c)
	})
}

// TestWaterMarks holds that room is made a little beyond what is asked, that what cannot be met evicts nothing, and
// that promises count.
func TestWaterMarks(t *testing.T) {
	const budget = 64 << 10
	b := newBooks(budget, func() {})
	add := func(i byte) {
		e := b.add(slot{digest: Sum([]byte{i})}, 1<<10, 1<<10, "somewhere", 0, Kept)
		b.settle(e)
	}
	for i := range byte(64) {
		if !b.reserve(1 << 10) {
			t.Fatalf("#%d: no room", i)
		}
		add(i)
	}
	if b.evicted != 0 || b.used() != budget {
		t.Fatalf("%d evicted, %d used", b.evicted, b.used())
	}
	if !b.reserve(1<<10) || b.evicted != 2 {
		t.Errorf("%d evicted", b.evicted)
	}
	if !b.reserve(1<<10) || b.evicted != 2 {
		t.Errorf("then %d evicted", b.evicted)
	}
	if b.reserve(63<<10) || b.reserve(budget+1) || b.evicted != 2 {
		t.Errorf("%d evicted for what cannot be", b.evicted)
	}
	b.release(2 << 10)
	if !b.reserve(budget) || b.used() != budget || len(b.entries) != 0 {
		t.Errorf("%d used, %d entries", b.used(), len(b.entries))
	}
	if b.release(budget); b.used() != 0 {
		t.Errorf("%d used", b.used())
	}
}

// TestLayersInUseGoLast holds that what a manifest names lives as long as the manifest is asked for.
func TestLayersInUseGoLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings(1<<20, 1<<20+1)
		used := w.image("used")
		c := launch(t, w, Options{Dir: ramDir(t), Disk: 5 << 20})
		if err := w.pullAll(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(settled)
		for i := range 20 {
			b := static()[100+i : 100+i+1<<20]
			if err := read(t.Context(), c, w.put(b), 0, -1, b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if err := read(t.Context(), c, used, 0, -1, w.data[used]); err != nil { // its layers are not read
				t.Fatal(err)
			}
		}
		for _, ref := range w.refs[:2] {
			if !c.disk.holds(ref.Digest) {
				t.Errorf("%s was evicted", ref)
			}
		}
		if c.Stats().Evicted < 15 {
			t.Errorf("%+v", c.Stats())
		}
		land(t, c)
	})
}

// TestPartialsOnTheBooks holds that a download that broke off takes what it holds, however long its file seems, that a
// restart sees the same, and that it goes when room is needed.
func TestPartialsOnTheBooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newThings()
		dir, data := ramDir(t), static()
		ref := w.put(data)
		w.stop[ref.Digest] = 7<<20 + 4096
		c := launch(t, w, Options{Dir: dir, Disk: 12 << 20, Fill: FillAsked})
		if err := read(t.Context(), c, ref, 7<<20, 4096, data); err != nil {
			t.Fatal(err)
		}
		time.Sleep(settled)
		size := func() int64 { used, _, _, _ := c.disk.books.sums(); return used }
		if err := audit(c); err != nil || size() < 4096 || size() > 16<<10 {
			t.Errorf("%d in use, %v", size(), err)
		}
		land(t, c)
		c = launch(t, w, Options{Dir: dir, Disk: 12 << 20})
		time.Sleep(settled)
		if err := audit(c); err != nil || size() < 4096 || size() > 16<<10 {
			t.Errorf("after a restart: %d in use, %v", size(), err)
		}
		for i := range 8 {
			b := static()[i : i+2<<20]
			if err := read(t.Context(), c, w.put(b), 0, -1, b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(settled)
		}
		if c.disk.books.has(slot{ref.Digest, partialMark(ref.Registry)}) || countFiles(filepath.Join(dir, "store", "partial")) != 0 {
			t.Error("not evicted")
		}
		if err := audit(c); err != nil {
			t.Error(err)
		}
		land(t, c)
	})
}

// TestBytesThatComeTwice holds that a source that cannot skip costs no room twice.
func TestBytesThatComeTwice(t *testing.T) {
	b := newBooks(1<<20, func() {})
	p := &partial{disk: &disk{books: b}, size: 1 << 20}
	for range 3 {
		if !p.claim(1 << 20) {
			t.Fatal("no room")
		}
	}
	if b.promised != 1<<20 || p.promised != 1<<20 {
		t.Errorf("%d promised", b.promised)
	}
	p.size = -1
	if p.claim(1) {
		t.Error("room beyond the budget")
	}
}
