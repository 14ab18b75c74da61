package main_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestWarmThenGone warms and pins images of a real registry, kills tidepool as soon as the command has ended, takes the
// registry away and all that tidepool may lose, and starts again: real clients pull them.
func TestWarmThenGone(t *testing.T) {
	t.Parallel()
	hub := open(t, t.TempDir(), false)
	k := &kitchen{t: t, repo: "library/warm", seed: 71 << 32}
	mine := k.oci(own(), types.OCILayer, 3, 300<<10)
	multi := k.tag("docker.io", "1.2.3", k.index(types.OCIImageIndex, mine, k.oci(other(), types.OCILayer, 1, 100<<10)), mine)
	single := k.oci(own(), types.OCILayer, 2, 50<<10)
	plain := k.tag("docker.io", "1.3.0", single, single)
	push(t, hub.addr, multi, plain)
	pool := serve(t, "--upstream", "docker.io=http://"+hub.addr)
	list := mustWrite(t, filepath.Join(t.TempDir(), "images.txt"), "warm:^1 # both\nwarm:missing\n")

	code, out := pool.tells(t, "warm", "-f", list, "--pin")
	if code != 3 || !strings.Contains(out, "3 images: 2 fetched") || !strings.Contains(out, "docker.io/library/warm:missing: failed: ") {
		t.Errorf("%d\n%s", code, out)
	}
	pool.kill()
	must(t, os.Remove(filepath.Join(pool.data, "store", "facts.db")))
	fetched := map[string]int{}
	for _, r := range hub.reached() {
		if r.method == "GET" && r.status == 200 {
			fetched[r.path]++
		}
	}
	for path, n := range fetched {
		if n > 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
	hub.stop(t)
	pool.restart()
	for name, make := range map[string]func(*testing.T, string) client{"skopeo": newSkopeo, "podman": newPodman, "crane": newCrane} {
		t.Run(name, func(t *testing.T) {
			c := make(t, pool.addr)
			c.pull(t, multi)
			c.pull(t, plain)
		})
	}
	if code, out := pool.tells(t, "pin"); code != 0 || strings.Count(out, "\n") != 3 || strings.Contains(out, "no: ") {
		t.Errorf("%d\n%s", code, out)
	}
	if code, out := pool.tells(t, "warm", "warm:1.2.3"); code != 0 || !strings.Contains(out, "1 unchanged") { // it is still fresh
		t.Errorf("%d\n%s", code, out)
	}
}

// tells runs a command that talks to p and returns its exit code and all that it said.
func (p *tidepool) tells(t *testing.T, line ...string) (code int, out string) {
	t.Helper()
	bin, err := program()
	must(t, err)
	cmd := exec.Command(bin, append(line, "--server", "http://"+p.admin)...)
	p.alone(cmd)
	cmd.Stderr = nil
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(b)
	}
	must(t, err)
	return 0, string(b)
}
