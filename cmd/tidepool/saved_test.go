package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/metrics"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// TestSavings: a pull that the upstream did not see is counted, with its bytes, also over a restart.
func TestSavings(t *testing.T) {
	bubble(t, "two pulls", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{Layers: []origintest.Layer{{Size: 10_000}}})
		w := inBubble(t, o)
		pull := func() (sent int64) {
			w.get(manifestPath("latest")).brings(t, img.Top.Content)
			for _, item := range img.Blobs {
				w.get(blobPath(item.Digest)).brings(t, item.Content)
				sent += item.Content.Size()
			}
			return sent + img.Top.Content.Size()
		}
		pull()
		if r := w.saved.Report(); len(r.Upstreams) != 0 {
			t.Errorf("the first pull saved %+v", r.Upstreams)
		}
		sent := pull()
		w.get("/v2/library/none/manifests/latest")
		want := metrics.SavedRow{Name: "docker.io", Total: metrics.Sum{Pulls: 1, Bytes: uint64(sent)}}
		want.Last = want.Total
		if got := w.saved.Report().Upstreams; len(got) != 1 || got[0] != want {
			t.Errorf("the second pull saved %+v, want %+v", got, want)
		}
		w.close()
		w.open()
		if got := w.saved.Report().Upstreams; len(got) != 1 || got[0] != want {
			t.Errorf("after a restart: %+v", got)
		}
		a := w.do("GET", "http://"+w.adminAddr.String()+"/api/v1/saved")
		var report metrics.SavedReport
		if err := json.Unmarshal(a.body, &report); err != nil || report.Schema != 1 || len(report.Repositories) != 1 ||
			report.Repositories[0].Name != "docker.io/"+repo || len(report.Clients) != 1 {
			t.Errorf("%s, %v", a.body, err)
		}
	})
}

func TestNetwork(t *testing.T) {
	for client, want := range map[string]string{"10.1.2.3": "10.1.2.0/24", "::ffff:10.1.2.3": "10.1.2.0/24", "": "unknown",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "pipe": "unknown"} {
		if got := network(client); got != want {
			t.Errorf("%q is counted in %q, want %q", client, got, want)
		}
	}
}

// TestStateOfAnyKind: no state of an earlier process prevents a start, and a crash loses ten seconds.
func TestStateOfAnyKind(t *testing.T) {
	bubble(t, "written down as it changes", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		w := inBubble(t, o)
		w.pulls("latest", img)
		w.pulls("latest", img)
		time.Sleep(stateEvery + time.Second)
		if b, err := os.ReadFile(filepath.Join(w.plan.dir, "saved.json")); err != nil || !strings.Contains(string(b), repo) {
			t.Errorf("%q, %v", b, err)
		}
	})
	for name, spoil := range map[string]func(path string) error{
		"noise":     func(p string) error { return os.WriteFile(p, []byte("\x00\xff"), 0o600) },
		"empty":     func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"directory": func(p string) error { return os.MkdirAll(filepath.Join(p, "x"), 0o700) },
		"nowhere":   func(p string) error { return os.Symlink("/nowhere", p) },
	} {
		bubble(t, name, func(t *testing.T) {
			o := origintest.New()
			img := o.PutImage(repo, "latest", origintest.Spec{})
			d := dir(t, true)
			if err := spoil(filepath.Join(d, "saved.json")); err != nil {
				t.Fatal(err)
			}
			w := inBubble(t, o, plan{dir: d})
			w.pulls("latest", img)
			time.Sleep(time.Minute)
		})
	}
}
