package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// counting is a fake hub at a second loopback address that counts who comes. It stands for every host that is none of
// this machine's: clients are told that it is their proxy.
type counting struct{ conns atomic.Int32 }

func countingHub(t *testing.T) *counting {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.2:0")
	must(t, err)
	hub := new(counting)
	s := &http.Server{ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			hub.conns.Add(1)
		}
	}, Handler: http.NotFoundHandler()}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	t.Setenv("HTTPS_PROXY", "http://"+l.Addr().String())
	t.Setenv("HTTP_PROXY", "http://"+l.Addr().String())
	t.Setenv("NO_PROXY", "127.0.0.1")
	return hub
}

const named, namedHeld = 20, 10 // images, and how many of them are held

func appName(i int) string { return fmt.Sprintf("library/app%d", i) }

// limitedPool is a tidepool that holds some of the images of a hub whose pulls are used up.
func limitedPool(t *testing.T) *tidepool {
	t.Helper()
	o := origintest.New()
	for i := range named {
		o.PutImage(appName(i), "1", origintest.Spec{Seed: uint64(i), Layers: []origintest.Layer{{Size: 1 << 10}}})
	}
	pool := serve(t, "--upstream", "docker.io="+origintest.Serve(t, o).URL, "--log-format", "json")
	for i := range namedHeld {
		img, err := crane.Pull(pool.addr+"/docker.io/"+appName(i)+":1", crane.Insecure)
		must(t, err)
		must(t, crane.SaveOCI(img, filepath.Join(t.TempDir(), "held")))
	}
	o.RateLimit(0, time.Hour, "192.0.2.1")
	return pool
}

// refusals is how many requests for each repository were refused because of the limit, since the log had so many bytes.
func (p *tidepool) refusals(since int64) map[string]int {
	p.t.Helper()
	f, err := os.Open(p.log)
	must(p.t, err)
	defer f.Close()
	_, err = f.Seek(since, io.SeekStart)
	must(p.t, err)
	all := map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct {
			Repo    string
			Limited bool
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Limited {
			all[line.Repo]++
		}
	}
	return all
}

func (p *tidepool) logged() int64 {
	p.t.Helper()
	info, err := os.Stat(p.log)
	must(p.t, err)
	return info.Size()
}

// pullAll pulls every image by pull, which gets the name that Docker Hub has for it. What is held comes; of the rest
// each pull shows why it was refused, and asks at most once more. It returns how often the hub was turned to.
func (p *tidepool) pullAll(t *testing.T, hub *counting, pull func(name string) error) int32 {
	t.Helper()
	since, before, sum := p.logged(), hub.conns.Load(), 0
	for i := range named {
		err := pull(appName(i) + ":1")
		switch {
		case i < namedHeld && err != nil:
			t.Errorf("%s is held: %v", appName(i), err)
		case i >= namedHeld && err == nil:
			t.Errorf("%s came, although it is not held", appName(i))
		case i >= namedHeld && !strings.Contains(err.Error(), "docker.io limits pulls of 192.0.2.1"):
			t.Errorf("%s: our sentence is not shown: %v", appName(i), err)
		}
	}
	var refused map[string]int
	eventually(t, "a log of the last refusal", func() bool { // it is written behind the answer
		refused = p.refusals(since)
		return refused[appName(named-1)] > 0
	})
	for i := namedHeld; i < named; i++ {
		if n := refused[appName(i)]; n < 1 || n > 2 {
			t.Errorf("%s was asked for %d times in vain", appName(i), n)
		}
		sum += refused[appName(i)]
	}
	went := hub.conns.Load() - before
	t.Logf("%d pulls refused, by %d requests; %d connections to the hub", named-namedHeld, sum, went)
	return went
}

// TestNoWayRound has clients that are set up by `tidepool setup` pull while a hub limits pulls: none goes to the hub
// but those that nothing can keep from it.
func TestNoWayRound(t *testing.T) {
	needs(t, "dockerd", "docker", "containerd", "ctr", "podman", "skopeo")
	needsRoot(t)
	hub := countingHub(t)
	pool := limitedPool(t)
	bin, err := program()
	must(t, err)
	root, open := t.TempDir(), t.TempDir()
	for _, client := range []string{"docker", "containerd", "podman"} {
		run(t, nil, bin, "setup", client, "--write", "--root", root, "--address", pool.addr)
		run(t, nil, bin, "setup", client, "--write", "--fallback", "--root", open, "--address", pool.addr)
	}
	none := func(t *testing.T, pull func(string) error) {
		t.Helper()
		if n := pool.pullAll(t, hub, pull); n > 0 {
			t.Errorf("the hub was connected to %d times", n)
		}
	}
	some := func(t *testing.T, pull func(string) error) {
		t.Helper()
		if pool.pullAll(t, hub, pull) == 0 {
			t.Error("nobody went to the hub: this test sees nothing")
		}
	}

	// Where clients are let go to the hub, they do: or it would not be seen if the others did.
	t.Run("containerd", func(t *testing.T) {
		c := startContainerd(t, "127.0.0.1:1").(containerd)
		by := func(root string) func(string) error {
			return func(name string) error {
				_, err := try(nil, "ctr", "-a", c.socket, "images", "pull", "--snapshotter", "native",
					"--hosts-dir", filepath.Join(root, "etc/containerd/certs.d"), "docker.io/"+name)
				return err
			}
		}
		none(t, by(root))
		some(t, by(open))
	})
	t.Run("docker", func(t *testing.T) {
		d := startDockerdBy(t, filepath.Join(root, "etc/docker/daemon.json"), pool.addr)
		pull := func(name string) error {
			_, err := try(nil, "docker", "-H", d.host, "pull", "-q", name)
			return err
		}
		none(t, func(name string) error { return pull(pool.addr + "/docker.io/" + name) })
		before := hub.conns.Load()
		if err := pull("docker.io/" + appName(named-1) + ":1"); err == nil || hub.conns.Load() == before {
			t.Errorf("%v: nobody went to the hub from a mirror: this test sees nothing", err)
		}
		if n := sample(t, pool, `tidepool_http_limited_refusals_total{client="docker",fallback="yes"}`); n < 1 {
			t.Error("that the client goes round is not counted")
		}
	})
	conf := "etc/containers/registries.conf.d/tidepool.conf"
	t.Run("podman", func(t *testing.T) {
		p := newPodman(t, pool.addr).(podman)
		policy := mustWrite(t, filepath.Join(p.dir, "policy.json"), anySignature)
		by := func(root string) func(string) error {
			env := append([]string{"CONTAINERS_REGISTRIES_CONF=" + filepath.Join(root, conf)}, p.env[1:]...)
			return func(name string) error {
				_, err := try(env, "podman", append(p.args, "pull", "-q", "--signature-policy", policy, "docker.io/"+name)...)
				return err
			}
		}
		none(t, by(root))
		some(t, by(open))
	})
	t.Run("skopeo", func(t *testing.T) {
		dir := t.TempDir()
		by := func(root string) func(string) error {
			return func(name string) error {
				_, err := try([]string{"TMPDIR=" + dir}, "skopeo", "--registries-conf", filepath.Join(root, conf),
					"--insecure-policy", "copy", "-q", "docker://docker.io/"+name, "dir:"+filepath.Join(t.TempDir(), "copy"))
				return err
			}
		}
		none(t, by(root))
		some(t, by(open))
	})
	t.Run("crane", func(t *testing.T) {
		none(t, func(name string) error {
			_, err := crane.Pull(pool.addr+"/docker.io/"+name, crane.Insecure)
			return err
		})
	})
}

// sample is the value of a series; 0: there is none.
func sample(t *testing.T, p *tidepool, series string) (n float64) {
	t.Helper()
	resp, err := http.Get("http://" + p.admin + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			_, err := fmt.Sscan(rest, &n)
			must(t, err)
		}
	}
	return n
}
