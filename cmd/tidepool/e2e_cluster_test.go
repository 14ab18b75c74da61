package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// cluster is some tidepools that share their cache.
type cluster struct {
	t       *testing.T
	secret  string
	gossip  []string
	args    []string // of each, besides
	members []*tidepool
}

// gather starts n members over an upstream, and waits until each sees all.
func gather(t *testing.T, n int, upstream string, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, args: args, secret: filepath.Join(t.TempDir(), "secret")}
	must(t, os.WriteFile(c.secret, []byte("a secret of this test, of more than 16 bytes\n"), 0o600))
	for range n {
		c.start(upstream)
	}
	c.settle(n)
	return c
}

// start starts one more.
func (c *cluster) start(upstream string) *tidepool {
	c.t.Helper()
	at := address(c.t)
	args := append([]string{"--upstream", "docker.io=" + upstream, "--cluster-bind", at, "--cluster-secret-file", c.secret}, c.args...)
	for _, other := range c.gossip {
		args = append(args, "--join", other)
	}
	p := serve(c.t, args...)
	c.gossip, c.members = append(c.gossip, at), append(c.members, p)
	return p
}

// settle waits until each that runs sees n that are ready.
func (c *cluster) settle(n int) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("each member sees %d", n), func() bool {
		for _, p := range c.members {
			if p.running() && ready(p) != n {
				return false
			}
		}
		return true
	})
}

// ready is how many members p holds to be ready.
func ready(p *tidepool) (n int) {
	res, err := http.Get("http://" + p.admin + "/api/v1/status")
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	var s struct {
		Cluster struct{ Members []struct{ State string } }
	}
	if json.NewDecoder(res.Body).Decode(&s) != nil {
		return 0
	}
	for _, m := range s.Cluster.Members {
		if m.State == "ready" {
			n++
		}
	}
	return n
}

// leftAlone is how often some members, all of which are well and reach each other, have left one another alone, for one did
// not answer in the quarter of a second or more that it is given: on a busy machine a process may stand still for as long.
// What that one owns may be fetched once more then, which is all that the program promises.
func leftAlone(t *testing.T, members ...*tidepool) (n int) {
	t.Helper()
	type doc struct {
		Cluster struct {
			Self    string
			Members []struct {
				Name   string
				Silent int
			}
		}
	}
	docs, well := make([]doc, len(members)), map[string]bool{}
	for i, p := range members {
		docs[i] = state[doc](t, p, "/api/v1/status")
		well[docs[i].Cluster.Self] = true
	}
	for _, d := range docs {
		for _, m := range d.Cluster.Members {
			if well[m.Name] {
				n += m.Silent
			}
		}
	}
	return n
}

// TestCluster has a herd pull through every one of three members, from a real registry, with real clients: each byte
// crosses the uplink once. Then a member joins, which costs nothing, and the registry goes, which nobody notices.
func TestCluster(t *testing.T) {
	t.Parallel()
	hub := open(t, t.TempDir(), false)
	k := &kitchen{t: t, repo: "library/shared", seed: 91 << 32}
	var images []*image
	for i := range 6 {
		mine := k.oci(own(), types.OCILayer, 3, 200<<10)
		images = append(images, k.tag("docker.io", fmt.Sprint(i), mine, mine))
	}
	push(t, hub.addr, images...)
	hub.reached()
	c := gather(t, 3, "http://"+hub.addr)
	pull := func() {
		t.Helper()
		var all sync.WaitGroup
		for _, p := range c.members {
			for _, img := range images {
				for range 3 {
					all.Go(func() {
						if err := pullAll(p.addr + "/" + img.repo + ":" + img.tag); err != nil {
							t.Error(err)
						}
					})
				}
			}
		}
		all.Wait()
	}
	pull()
	left := leftAlone(t, c.members...)
	times := map[string]int{}
	for _, r := range hub.reached() {
		if r.status == http.StatusOK && (r.blob() || r.manifest()) {
			times[r.path]++
		}
	}
	for path, n := range times {
		if n > 1+left {
			t.Errorf("%s was fetched %d times; left alone: %d", path, n, left)
		}
	}
	if len(times) != 6*5 {
		t.Errorf("%d things were fetched of %d", len(times), 6*5)
	}
	c.start("http://" + hub.addr)
	c.settle(4)
	pull()
	again := slices.DeleteFunc(hub.reached(), func(r request) bool { return !r.blob() })
	if left = leftAlone(t, c.members...) - left; len(again) > left*len(times) {
		t.Errorf("after a member has joined: %v; left alone: %d", again, left)
	}
	hub.stop(t)
	pull()
	for i, cl := range clients {
		t.Run(cl.name, func(t *testing.T) {
			client := cl.start(t, c.members[i%len(c.members)].addr)
			if why := client.cannot(images[0]); why != "" {
				t.Skip(why)
			}
			client.pull(t, images[0])
		})
	}
	digest := images[0].layers[0]
	owners := map[string]bool{}
	for _, p := range c.members {
		code, out := p.tells(t, "ring", digest)
		owner := regexp.MustCompile(digest + ` +(\S+) `).FindStringSubmatch(out)
		if code != 0 || owner == nil {
			t.Fatalf("%d\n%s", code, out)
		}
		owners[owner[1]] = true
	}
	if len(owners) != 1 {
		t.Errorf("%s is owned by %v", digest, owners)
	}
	if code, out := c.members[0].tells(t, "status"); code != 0 || strings.Count(out, " ready\n") != 4 {
		t.Errorf("%d\n%s", code, out)
	}
}

// getOnce wants all of content, at the first try.
func getOnce(url string, want *origintest.Content) error {
	res, err := http.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return want.Compare(res.Body, 0, -1)
}
