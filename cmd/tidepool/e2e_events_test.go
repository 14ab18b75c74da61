package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// gathering is three members over a registry that does as it is told.
type gathering struct {
	*cluster
	o *origintest.Origin
}

func gatherAt(t *testing.T, file string) *gathering {
	t.Helper()
	needs(t)
	o := origintest.New()
	conf := filepath.Join(t.TempDir(), "config.yaml")
	must(t, os.WriteFile(conf, []byte("missing: 0s\n"+file), 0o600))
	hub := origintest.Serve(t, o)
	return &gathering{gather(t, 3, hub.URL, "--config", conf), o}
}

// ask asks a member for a manifest, and returns the status and the body.
func (g *gathering) ask(p *tidepool, repo, tag string) (int, string) {
	g.t.Helper()
	res, err := http.Get("http://" + p.addr + "/v2/" + repo + "/manifests/" + tag)
	must(g.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(g.t, err)
	return res.StatusCode, string(b)
}

// pulls has a member serve all of an image.
func (g *gathering) pulls(p *tidepool, repo, tag string, img *origintest.Image) {
	g.t.Helper()
	if err := getOnce("http://"+p.addr+"/v2/"+repo+"/manifests/"+tag, img.Top.Content); err != nil {
		g.t.Error(err)
	}
	for _, b := range img.Blobs {
		if err := getOnce("http://"+p.addr+"/v2/"+repo+"/blobs/"+b.Digest.String(), b.Content); err != nil {
			g.t.Error(err)
		}
	}
}

// state is a document of a member's admin listener.
func state[D any](t *testing.T, p *tidepool, path string) (doc D) {
	t.Helper()
	res, err := http.Get("http://" + p.admin + path)
	must(t, err)
	defer res.Body.Close()
	must(t, json.NewDecoder(res.Body).Decode(&doc))
	return doc
}

type upstreamsDoc struct {
	Disk      struct{ Entries int }
	Upstreams []struct {
		Endpoints []struct{ Accounts []map[string]any }
	}
}

// accounts is what a member knows of the registry's limit on pulls.
func accounts(t *testing.T, p *tidepool) string {
	doc := state[upstreamsDoc](t, p, "/api/v1/status")
	if len(doc.Upstreams) == 0 || len(doc.Upstreams[0].Endpoints) == 0 {
		return ""
	}
	return fmt.Sprint(doc.Upstreams[0].Endpoints[0].Accounts)
}

// TestClusterLimits: one member is refused, and the others ask for nothing that counts.
func TestClusterLimits(t *testing.T) {
	t.Parallel()
	g := gatherAt(t, "")
	const allowed, repos = 4, 14
	for i := range repos { // some of them for each member to ask for
		g.o.PutImage(fmt.Sprintf("library/r%d", i), "1", origintest.Spec{Seed: uint64(i)})
	}
	g.o.RateLimit(allowed, 6*time.Hour, "192.0.2.7")
	g.o.RetryAfter()
	refused := 0
	for i := 0; refused == 0 && i < repos; i++ {
		if status, _ := g.ask(g.members[i%3], fmt.Sprintf("library/r%d", i), "1"); status == http.StatusTooManyRequests {
			refused = i
		}
	}
	// An owner that is left alone may still ask, and another for it: that is two pulls.
	if left := leftAlone(t, g.members...); refused > allowed || refused < allowed-left {
		t.Fatalf("refused at the pull number %d; left alone: %d", refused, left)
	}
	eventually(t, "all members know of the refusal", func() bool {
		one := accounts(t, g.members[0])
		return strings.Contains(one, "blocked_until") && one == accounts(t, g.members[1]) && one == accounts(t, g.members[2])
	})
	before := g.o.Count(origintest.Manifest, origintest.GET)
	for i := refused; i < repos; i++ {
		for _, p := range g.members {
			if status, body := g.ask(p, fmt.Sprintf("library/r%d", i), "1"); status != http.StatusTooManyRequests || !strings.Contains(body, "192.0.2.7") {
				t.Errorf("%d %s", status, body)
			}
		}
	}
	if n := g.o.Count(origintest.Manifest, origintest.GET) - before; n > 0 {
		t.Errorf("%d pulls were asked for in vain", n)
	}
	for _, p := range g.members {
		code, out := p.tells(t, "status")
		if code != 0 || !strings.Contains(out, "192.0.2.7") || !strings.Contains(out, "reopens at") {
			t.Errorf("%d\n%s", code, out)
		}
	}
}

// words is how often a member has told the others something, or heard what they told.
func (g *gathering) words(p *tidepool) float64 {
	g.t.Helper()
	return sample(g.t, p, `tidepool_cluster_events_total{outcome="sent"}`) + sample(g.t, p, `tidepool_cluster_events_total{outcome="received"}`)
}

// TestClusterTagMoves: once one member knows that a tag has moved, none gives what it was.
func TestClusterTagMoves(t *testing.T) {
	t.Parallel()
	g := gatherAt(t, "tags: [{match: '**', fresh: 1s, grace: 1h}]\n")
	for i := range 4 {
		repo := fmt.Sprintf("library/moves%d", i)
		was := g.o.PutImage(repo, "1", origintest.Spec{Seed: uint64(i)})
		for _, p := range g.members {
			g.pulls(p, repo, "1", was)
		}
		is := g.o.PutImage(repo, "1", origintest.Spec{Seed: uint64(100 + i)})
		want := string(is.Top.Content.Bytes())
		var words []float64 // that each has said and heard
		for _, p := range g.members {
			words = append(words, g.words(p))
		}
		time.Sleep(1100 * time.Millisecond) // until the name has aged: there is nothing to see of that
		eventually(t, "one member knows", func() bool {
			_, body := g.ask(g.members[i%3], repo, "1")
			return body == want
		})
		for n, p := range g.members {
			p.await(t, "it has said, or heard, that the tag has moved", func() bool { return g.words(p) > words[n] })
		}
		for n, p := range g.members {
			if _, body := g.ask(p, repo, "1"); body != want {
				t.Errorf("%s: member %d still has what it was", repo, n)
			}
		}
	}
}

// TestClusterPurge: what one member forgets all do, one that was away included; and what is unpinned is unpinned everywhere.
func TestClusterPurge(t *testing.T) {
	t.Parallel()
	g := gatherAt(t, "")
	entries := func(p *tidepool) int { return state[upstreamsDoc](t, p, "/api/v1/status").Disk.Entries }
	gone := func() bool {
		for _, p := range g.members {
			if p.running() && entries(p) > 0 {
				return false
			}
		}
		return true
	}
	purge := func(p *tidepool, image, says string) {
		t.Helper()
		if code, out := p.tells(t, "purge", image, "--yes"); code != 0 || !strings.Contains(out, says) {
			t.Errorf("%d\n%s", code, out)
		}
	}
	img := g.o.PutImage("library/purge", "1", origintest.Spec{Layers: []origintest.Layer{{Size: 300 << 10}, {Size: 200 << 10}, {Size: 100 << 10}}})
	for n, p := range g.members {
		for _, p := range g.members {
			g.pulls(p, "library/purge", "1", img)
		}
		purge(p, "purge:1", "2 other members told")
		eventually(t, "all members have forgotten it", gone)
		g.o.Forget()
		g.pulls(g.members[(n+1)%3], "library/purge", "1", img)
		if gets := g.o.Count(origintest.GET, origintest.Manifest) + g.o.Count(origintest.GET, origintest.Blob); gets < 1+len(img.Blobs) || gets > (1+len(img.Blobs))*(1+leftAlone(t, g.members...)) {
			t.Errorf("after the purge %d things were fetched, want %d", gets, 1+len(img.Blobs))
		}
	}
	for _, p := range g.members[:2] {
		if code, out := p.tells(t, "pin", "purge:1"); code != 0 {
			t.Fatalf("%d\n%s", code, out)
		}
	}
	for n, p := range g.members { // the third has not pinned it, and has what it holds needed elsewhere all the same
		before := entries(p)
		if code, out := p.tells(t, "purge", "purge:*", "--yes"); code != 1 || !strings.Contains(out, "unpin it first") || entries(p) != before {
			t.Errorf("asked the member number %d: %d\n%s", n, code, out)
		}
	}
	if code, out := g.members[2].tells(t, "unpin", "purge:1"); code != 0 || !strings.Contains(out, "purge:1: unpinned at ") || strings.Count(out, ",") != 1 {
		t.Errorf("%d\n%s", code, out)
	}
	eventually(t, "it is unpinned everywhere", func() bool {
		return len(state[struct{ Pins []any }](t, g.members[1], "/api/v1/pins").Pins) == 0
	})
	if code, out := g.members[2].tells(t, "unpin", "purge:1"); code != 1 || !strings.Contains(out, "no member that is there has it pinned") {
		t.Errorf("%d\n%s", code, out)
	}
	away := g.members[2]
	away.stop(t)
	eventually(t, "it is seen to be gone", func() bool { return ready(g.members[0]) == 2 && ready(g.members[1]) == 2 })
	purge(g.members[0], "purge:*", "1 other member told")
	eventually(t, "both have forgotten it", gone)
	away.restart()
	g.settle(3)
	eventually(t, "the third has heard", gone)
}
