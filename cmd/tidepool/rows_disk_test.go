package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// file is where the store keeps what has landed.
func (w *pool) file(d cache.Digest) string {
	return filepath.Join(w.plan.dir, "store", "blobs", d.Algorithm(), d.Hex()[:2], d.Hex())
}

// settled waits until all that has landed has its name.
func (w *pool) settled() { time.Sleep(time.Second) }

// The disk takes no more: pulls pass through, health says why, and once there is room content is kept again.
func rowDiskFull(t *testing.T) {
	o := origintest.New()
	held := o.PutImage(repo, "held", origintest.Spec{})
	img := o.PutImage(repo, "latest", origintest.Spec{Seed: 1, Layers: []origintest.Layer{{Size: 6 << 20, Form: origintest.Raw}, {Size: 1 << 20, Form: origintest.Raw}}})
	disk := new(diskFS)
	w := inBubble(t, o, plan{world: world{fs: disk}})
	w.pulls("held", held)
	w.settled()
	disk.full.Store(true)
	for range 3 {
		w.pulls("latest", img)
		w.pulls("held", held)
		time.Sleep(15 * time.Second)
	}
	health := w.admin("/healthz?verbose")
	if !strings.Contains(string(health.body), syscall.ENOSPC.Error()) {
		t.Errorf("health: %d %s", health.status, health.body)
	}
	w.admin("/readyz").is(t, http.StatusOK)
	disk.full.Store(false)
	time.Sleep(time.Minute)
	w.pulls("latest", img)
	w.settled()
	o.When().Drop()
	w.pulls("latest", img)
	w.keepsOnlyTruth()
}

// A bit flips at rest. After an unclean end no whole answer holds it; after a clean one the scrub finds it.
func rowBitFlip(t *testing.T) {
	o := origintest.New()
	small := o.PutBlob(repo, origintest.Synthetic(1, 10<<10))
	large := o.PutBlob(repo, origintest.Synthetic(2, 3<<20))
	img := o.PutImage(repo, "latest", origintest.Spec{})
	all := []*origintest.Content{small, large, img.Top.Content}
	w := inBubble(t, o, plan{scrub: "8MiB/s"})
	pull := func() {
		w.get(blobPath(small.Digest())).brings(t, small)
		w.get(blobPath(large.Digest())).brings(t, large)
		w.pulls("latest", img)
		w.settled()
	}
	pull()
	w.close()
	if err := os.Remove(filepath.Join(w.plan.dir, "store", "CLEAN")); err != nil {
		t.Fatal(err)
	}
	flip(t, w, all)
	w.open()
	if a := w.get(blobPath(large.Digest())); a.err == nil {
		a.brings(t, large)
	}
	pull()
	w.keepsOnlyTruth()

	w.close()
	flip(t, w, all)
	w.open() // after a clean end, when nothing else would doubt what is there
	time.Sleep(10 * time.Second)
	w.keepsOnlyTruth()
	pull()
	w.keepsOnlyTruth()
}

// flip changes a bit in the middle of what the store keeps of all.
func flip(t *testing.T, w *pool, all []*origintest.Content) {
	t.Helper()
	for _, c := range all {
		f, err := os.OpenFile(w.file(c.Digest()), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		if _, err = f.ReadAt(b, c.Size()/2); err == nil {
			b[0] ^= 4
			_, err = f.WriteAt(b, c.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
}

// Something else stands where content was: cut, emptied, a directory, a link, a pipe; or it is gone.
func rowReplaced(t *testing.T) {
	o := origintest.New()
	w := inBubble(t, o, plan{flags: map[string][]string{"memory": {"64KiB"}}})
	for i, spoil := range []func(name string) error{
		func(name string) error { return os.Truncate(name, 100) },
		func(name string) error { return os.Truncate(name, 0) },
		func(name string) error { return os.Truncate(name, 5<<20) },
		os.Remove,
		func(name string) error { return replace(name, os.Mkdir(name+".new", 0o700)) },
		func(name string) error { return replace(name, os.Symlink("/etc/passwd", name+".new")) },
		func(name string) error { return replace(name, syscall.Mkfifo(name+".new", 0o600)) },
	} {
		blob := o.PutBlob(repo, origintest.Synthetic(uint64(i), 1<<20))
		w.get(blobPath(blob.Digest())).brings(t, blob)
		w.settled()
		if err := spoil(w.file(blob.Digest())); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			w.get(blobPath(blob.Digest())).brings(t, blob)
			w.settled()
		}
	}
	w.close()
	w.open()
	for i := range 7 {
		blob := origintest.Synthetic(uint64(i), 1<<20)
		w.get(blobPath(blob.Digest())).brings(t, blob)
	}
	w.keepsOnlyTruth()
}

// replace puts name.new, which err says is there, in the place of name.
func replace(name string, err error) error {
	if err == nil {
		err = os.Remove(name)
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	return err
}

// Each write takes five seconds. What is being fetched comes as slowly as the disk takes it, from one request and right to
// its last byte; nobody else waits for it: what is held, in memory or on disk, is served as ever, and so is the answer to
// whether there is something.
func rowSlowDisk(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	held := o.PutBlob(repo, origintest.Synthetic(1, blobSize))
	cold := o.PutBlob(repo, origintest.Synthetic(2, 4*blobSize))
	disk := new(diskFS)
	w := inBubble(t, o, plan{world: world{fs: disk}})
	w.pulls("latest", img)
	w.get(blobPath(held.Digest())).brings(t, held)
	w.settled()
	disk.slow.Store(int64(5 * time.Second))
	got := make(chan answered)
	for range 2 {
		go func() { got <- w.get(blobPath(cold.Digest())) }()
	}
	time.Sleep(7 * time.Second)
	began := time.Now()
	w.pulls("latest", img)
	w.get(blobPath(held.Digest())).brings(t, held)
	w.head(blobPath(cold.Digest())).is(t, http.StatusOK)
	if took := time.Since(began); took > time.Second {
		t.Errorf("who wants something else waited for %v", took)
	}
	for range 2 {
		a := <-got
		if a.brings(t, cold); a.took < 10*time.Second || a.took > 2*time.Minute {
			t.Errorf("took %v", a.took)
		}
	}
	if c := o.Sent(cold.Digest()); c.Repeated() > 0 {
		t.Errorf("%d bytes came twice", c.Repeated())
	}
	disk.slow.Store(0)
	w.keepsOnlyTruth()
}

// A second tidepool on the same directory is told so, and harms nothing.
func rowTwoProcesses(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	w := inBubble(t, o)
	w.pulls("latest", img)
	cfg := w.cfg
	cfg.Listen, cfg.Admin = "127.0.0.1:6000", "127.0.0.1:6001"
	other := w.plan.world
	other.listen, other.dial = w.listener, w.plan.net.DialContext
	second, err := start(context.WithoutCancel(t.Context()), cfg, zap.NewNop(), other)
	if err == nil {
		_ = second.stop(t.Context())
		t.Fatal("two tidepools use one directory")
	}
	for _, part := range []string{w.plan.dir, "another", "--data"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v: does not say %q", err, part)
		}
	}
	w.pulls("latest", img)
	w.keepsOnlyTruth()
}
