package main_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/tidepool-oci/tidepool/proxy/hubtest"
)

// hubRow is one registry of the world as tidepool's upstream: by its real name, with its real login.
type hubRow struct {
	hub, login, layout string

	name   string // of the upstream
	config string // of it, as YAML
	gate   *hubtest.Gate
	front  *hubtest.Hub

	renew  func() // makes what tidepool shows no longer good, and lets it have another
	revoke func() // makes it have none any more; nil: it has no login
	spared bool   // nothing is renewed: there is no login, or only one that never changes

	images map[string]*image // by tag
}

// TestHubs pulls from each registry of the table by `skopeo copy` through one tidepool: cold, warm, with the login
// renewed in the middle of a blob, and with the login revoked. It prints what came of it.
func TestHubs(t *testing.T) {
	t.Parallel()
	needs(t, "docker-registry", "skopeo")
	land := newLand(t)
	rows := land.rows()
	for i, r := range rows {
		land.stock(r, i)
	}
	land.pool = land.start(rows)
	var table bytes.Buffer
	out := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "HUB\tLOGIN\tLAYOUT\tCOLD PULL\tWARM PULL\tRENEWED IN MID-BLOB\tREVOKED")
	for _, r := range rows {
		t.Run(strings.ReplaceAll(r.hub+"/"+r.login+"/"+r.layout, " ", "_"), func(t *testing.T) {
			v := visit{land, r, t}
			results := []string{r.hub, r.login, r.layout, v.cold(), v.warm(), v.renewed(), v.revoked()}
			fmt.Fprintln(out, strings.Join(results, "\t"))
		})
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d hubs\n%s", len(rows), &table)
	if s := land.net.Strange(); len(s) > 0 {
		t.Errorf("hosts were asked that are nobody's: %q", s)
	}
	land.checkSecrets(t)
}

// stock puts three images that no other row has into the registry behind.
func (l *land) stock(r *hubRow, i int) {
	l.t.Helper()
	k := &kitchen{t: l.t, repo: fmt.Sprint("library/row", i), seed: uint64(1000+i) << 32}
	r.images = map[string]*image{}
	for _, tag := range []string{"held", "renewed", "rest"} {
		img := k.oci(own(), types.OCILayer, 2, 256<<10)
		r.images[tag] = k.tag(r.name, tag, img, img)
	}
	asked := *r.images["held"] // the same image by a name that must be asked for each time
	asked.tag = "asked"
	r.images["asked"] = &asked
	push(l.t, l.registry.addr, slices.Collect(maps.Values(r.images))...)
}

// start runs tidepool before all rows.
func (l *land) start(rows []*hubRow) *tidepool {
	l.t.Helper()
	conf := "tags: [{match: \"**/*:asked\", fresh: never}, {match: \"**\", fresh: 1h}]\nlog: {level: debug}\nupstreams:\n"
	for _, r := range rows {
		conf += "  " + r.name + ":\n"
		for line := range strings.Lines(r.config) {
			conf += "    " + line
		}
	}
	pool := prepare(l.t, "--config", mustWrite(l.t, filepath.Join(l.dir, "config.yaml"), conf))
	pool.env = l.env
	pool.restart()
	return pool
}

// visit is what happens at one row.
type visit struct {
	*land
	*hubRow
	t *testing.T
}

// pull copies an image through tidepool and proves that it is all there.
func (v visit) pull(tag string) error {
	v.t.Helper()
	dir := filepath.Join(v.t.TempDir(), tag)
	img := v.images[tag]
	_, err := try([]string{"TMPDIR=" + v.t.TempDir()}, "skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false",
		"docker://"+v.pool.addr+"/"+img.ref(), "dir:"+dir)
	if err == nil {
		checkBlobs(v.t, dir, img.blobs()...)
	}
	return err
}

func (v visit) mustPull(tag string) {
	v.t.Helper()
	if err := v.pull(tag); err != nil {
		v.t.Fatal(err)
	}
}

// count is what got in at the hub since this was last asked.
func (v visit) count() (manifests, blobs, others int) {
	for _, s := range v.front.Seen() {
		switch s {
		case "GET manifests":
			manifests++
		case "GET blobs":
			blobs++
		default:
			others++
		}
	}
	return manifests, blobs, others
}

func (v visit) cold() string {
	v.t.Helper()
	v.mustPull("held")
	v.stat(v.images["renewed"].layers[0])
	manifests, blobs, others := v.count()
	if v.front.Cache {
		blobs-- // its HEAD tells nothing
	}
	if want := len(v.images["held"].blobs()); manifests != 1 || blobs != want {
		v.t.Errorf("a cold pull took %d manifests and %d blobs, want 1 and %d", manifests, blobs, want)
	}
	return fmt.Sprintf("1 manifest, %d blobs, %d HEAD", blobs, others)
}

// stat asks tidepool for the size of a blob that it does not hold.
func (v visit) stat(digest string) {
	v.t.Helper()
	resp, err := http.Head("http://" + v.pool.addr + "/v2/" + v.name + "/" + v.images["held"].repo + "/blobs/" + digest)
	must(v.t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 256<<10 {
		v.t.Errorf("HEAD of a blob that is not held: %s, %d bytes", resp.Status, resp.ContentLength)
	}
}

func (v visit) warm() string {
	v.t.Helper()
	v.mustPull("held")
	if manifests, blobs, others := v.count(); manifests+blobs+others > 0 {
		v.t.Errorf("a warm pull took %d manifests, %d blobs and %d more", manifests, blobs, others)
	}
	v.mustPull("asked") // so that it is held under that name too
	v.count()
	return "0 requests"
}

// renewed has the login end while half of a blob is on its way: the other half comes with a new one.
func (v visit) renewed() string {
	v.t.Helper()
	before := v.gate.Given()
	if v.spared {
		v.mustPull("renewed")
		v.count()
		return "-"
	}
	v.front.Interrupt(v.renew)
	v.mustPull("renewed")
	_, blobs, _ := v.count()
	if want := len(v.images["renewed"].blobs()) + 1; blobs != want {
		v.t.Errorf("%d blobs were begun, want %d, one of them twice", blobs, want)
	}
	switch n := v.gate.Given() - before; {
	case n == 0:
		return "went on, from its file"
	default:
		return fmt.Sprintf("went on, %d new", n)
	}
}

// revoked takes the login away: what is held is served, by a name that has to be asked for too, and the rest is refused
// by words that say what to do.
func (v visit) revoked() string {
	v.t.Helper()
	if v.revoke == nil {
		return "-"
	}
	v.revoke()
	for _, tag := range []string{"held", "asked"} {
		if err := v.pull(tag); err != nil {
			v.t.Errorf("%s is held: %v", tag, err)
		}
	}
	if err := v.pull("rest"); err == nil {
		v.t.Error("what is not held came, without a login")
	}
	status, text := v.reason()
	if status != http.StatusServiceUnavailable && status != http.StatusBadGateway || !strings.Contains(text, "login") ||
		!strings.Contains(text, v.name) || strings.Contains(text, hubtest.Marker) {
		v.t.Errorf("refused by %d %s", status, text)
	}
	v.t.Logf("refused by %d %s", status, text)
	return fmt.Sprintf("held: served; rest: %d", status)
}

// reason is what tidepool says of what is not held.
func (v visit) reason() (int, string) {
	v.t.Helper()
	resp, err := http.Get("http://" + v.pool.addr + "/v2/" + v.name + "/" + v.images["rest"].repo + "/manifests/rest")
	must(v.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(v.t, err)
	return resp.StatusCode, string(b)
}

// checkSecrets looks for what no log, no metric and no dump may hold.
func (l *land) checkSecrets(t *testing.T) {
	t.Helper()
	resp, err := http.Get("http://" + l.pool.admin + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	must(t, err)
	log, err := os.ReadFile(l.pool.log)
	must(t, err)
	bin, err := program()
	must(t, err)
	shown := run(t, l.env, bin, "config", "show", "--config", filepath.Join(l.dir, "config.yaml"))
	for name, text := range map[string]string{"the log": string(log), "the metrics": string(metrics), "config show": shown} {
		if i := strings.Index(text, hubtest.Marker); i >= 0 {
			t.Errorf("%s holds a secret: …%s…", name, text[max(0, i-200):min(len(text), i+100)])
		}
		if len(text) < 1000 {
			t.Errorf("%s is too short to have been searched: %q", name, text)
		}
	}
	if !strings.Contains(shown, "***") {
		t.Errorf("config show masks nothing:\n%s", shown)
	}
}
