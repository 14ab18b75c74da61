package containerdtest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

const named, namedHeld = 20, 10 // images, and how many of them are held

func appName(i int) string { return fmt.Sprintf("library/app%d", i) }

func ref(i int) string { return "docker.io/" + appName(i) + ":1" }

// limits are the two kinds that hubs have, and what is to be read of each.
var limits = map[string]struct {
	begin func(*origintest.Origin)
	says  string
}{
	"pulls": {func(o *origintest.Origin) { o.RateLimit(0, time.Hour, "192.0.2.1") }, "docker.io limits pulls of 192.0.2.1"},
	"requests": {func(o *origintest.Origin) {
		o.When(origintest.Manifest).Status(http.StatusTooManyRequests).Header("Retry-After", "3600")
	}, "docker.io limits requests"},
}

// limitedPool is a tidepool that holds some of the images of a hub, and the hub.
func limitedPool(t *testing.T) (*tidepool, *origintest.Origin) {
	t.Helper()
	o := origintest.New()
	for i := range named {
		o.PutImage(appName(i), "1", origintest.Spec{Seed: uint64(i), Layers: []origintest.Layer{{Size: 1 << 10}}})
	}
	p := serve(t, "--upstream", "docker.io="+origintest.Serve(t, o).URL)
	c := newClient(t, p, p.setup(t))
	for i := range namedHeld {
		_, err := c.pull(t.Context(), ref(i))
		must(t, err)
	}
	return p, o
}

// pullAll pulls every image, all at once: what is held comes, and of the rest each pull says why it was refused. It
// returns the most requests that one refused pull made.
func (c *client) pullAll(t *testing.T, says string) (most int) {
	t.Helper()
	errs := make([]error, named)
	var all sync.WaitGroup
	for i := range named {
		all.Go(func() { _, errs[i] = c.pull(t.Context(), ref(i)) })
	}
	all.Wait()
	sum := 0
	for i, err := range errs {
		switch {
		case i < namedHeld:
			if err != nil {
				t.Errorf("%s is held: %v", appName(i), err)
			}
			continue
		case err == nil:
			t.Errorf("%s came, although it is not held", appName(i))
		case !strings.Contains(err.Error(), says):
			t.Errorf("%s: our sentence is not shown: %v", appName(i), err)
		}
		n := c.asked[appName(i)]
		sum, most = sum+n, max(most, n)
	}
	t.Logf("%d pulls refused, by %d requests; %d connections to the hub", named-namedHeld, sum, c.hub.conns.Load())
	return most
}

// TestNoWayRound has containerd's library pull by the file that `tidepool setup` writes while a hub limits pulls: each
// that is refused asks tidepool twice, by a HEAD and a GET, and the hub never.
func TestNoWayRound(t *testing.T) {
	for kind, limit := range limits {
		t.Run(kind, func(t *testing.T) {
			p, o := limitedPool(t)
			limit.begin(o)
			c := newClient(t, p, p.setup(t))
			if most := c.pullAll(t, limit.says); most < 1 || most > 2 {
				t.Errorf("a refused pull asked tidepool %d times", most)
			}
			if n := c.hub.conns.Load(); n > 0 {
				t.Errorf("the hub was connected to %d times", n)
			}
			// Where it is let go to the hub, it does: or it would not be seen if it did by the other file.
			c = newClient(t, p, p.setup(t, "--fallback"))
			if c.pullAll(t, limit.says); c.hub.conns.Load() == 0 {
				t.Error("nobody went to the hub: this test sees nothing")
			}
		})
	}
}

// warnings are what containerd shows people of a pull.
type warnings struct {
	mu  sync.Mutex
	all []string
}

func (w *warnings) Warn(_ context.Context, src docker.WarningSource, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, src.Ref.String()+": "+text)
}

// TestStaleIsShown has a tag that cannot be asked for any more pulled once more.
func TestStaleIsShown(t *testing.T) {
	o := origintest.New()
	want := o.PutImage(appName(0), "1", origintest.Spec{Layers: []origintest.Layer{{Size: 1 << 10}}}).Top.Digest.String()
	conf := filepath.Join(t.TempDir(), "config.yaml")
	must(t, os.WriteFile(conf, []byte("tags: [{match: '**', fresh: never}]\n"), 0o600))
	p := serve(t, "--config", conf, "--upstream", "docker.io="+origintest.Serve(t, o).URL)
	pull := func() []string {
		c, shown := newClient(t, p, p.setup(t)), new(warnings)
		c.warned = shown
		if top, err := c.pull(t.Context(), ref(0)); err != nil || top.Digest.String() != want {
			t.Errorf("%v, %v: want %s", top.Digest, err, want)
		}
		return shown.all
	}
	if shown := pull(); len(shown) > 0 {
		t.Errorf("of a fresh tag, %q is shown", shown)
	}
	limits["requests"].begin(o)
	stale := ref(0) + ": " + ref(0) + " may have changed: docker.io cannot be asked at present"
	if shown := pull(); len(shown) != 1 || shown[0] != stale {
		t.Errorf("of a stale tag, %q is shown, want %q", shown, stale)
	}
}
