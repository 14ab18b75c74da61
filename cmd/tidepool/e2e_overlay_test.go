package main_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// Row 48. The store lies on an overlay, as in a container without a volume: what is pulled is there after kill -9, with
// the registry gone, and two processes do not share it.
func TestStoreOnOverlay(t *testing.T) {
	needs(t)
	o := origintest.New()
	hub, err := origintest.Listen(o, nil)
	must(t, err)
	defer hub.Close()
	p := prepare(t, "--upstream", "docker.io="+hub.URL)
	overlay(t, p.data)
	p.restart()

	blobs := []*origintest.Content{origintest.Synthetic(1, 10<<10), origintest.Synthetic(2, 3<<20)}
	pull := func() {
		t.Helper()
		for _, b := range blobs {
			resp, err := http.Get("http://" + p.addr + "/v2/library/app/blobs/" + b.Digest().String())
			must(t, err)
			must(t, b.Compare(resp.Body, 0, -1))
			resp.Body.Close()
		}
	}
	for _, b := range blobs {
		o.PutBlob("library/app", b)
	}
	pull()
	p.await(t, "both have their names", func() bool {
		return len(glob(t, filepath.Join(p.data, "store", "blobs", "*", "*", "*"))) == len(blobs)
	})

	second := exec.Command(p.Path, "serve", "--listen", address(t), "--admin", address(t), "--data", p.data)
	p.alone(second)
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "another tidepool") {
		t.Errorf("a second process: %v, %s", err, out)
	}
	p.kill()
	hub.Close()
	p.restart()
	pull()
	if code := p.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// overlay mounts one at dir until the test is over.
func overlay(t *testing.T, dir string) {
	t.Helper()
	needsRoot(t)
	below, err := os.MkdirTemp("/dev/shm", "tidepool-overlay-") // an overlay cannot lie on another
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(below) })
	must(t, os.MkdirAll(dir, 0o700))
	layers := map[string]string{}
	for _, name := range []string{"lower", "upper", "work"} {
		layers[name] = filepath.Join(below, name)
		must(t, os.Mkdir(layers[name], 0o700))
	}
	options := "lowerdir=" + layers["lower"] + ",upperdir=" + layers["upper"] + ",workdir=" + layers["work"]
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		lacks(t, "no overlay can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	must(t, err)
	return names
}
