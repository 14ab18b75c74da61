package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// TestWarmCommand runs the commands against a tidepool on loopback.
func TestWarmCommand(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "1.0.0", origintest.Spec{})
	o.PutImage(repo, "1.1.0", origintest.Spec{Seed: 1})
	w := fill(t, plan{hubs: map[string]string{"docker.io": origintest.Serve(t, o).URL}})
	t.Setenv("TIDEPOOL_SERVER", "http://"+w.adminAddr.String())

	list := filepath.Join(t.TempDir(), "images.txt")
	if err := os.WriteFile(list, []byte("# what we run\napp:1.0.0 # the old one\n\n  app:^1.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := says(t.Context(), "warm", "-f", list, "--pin")
	if code != 0 || !strings.HasPrefix(out, "2 images: 2 fetched (") || !strings.HasSuffix(out, "0 unchanged, 0 failed\n") {
		t.Errorf("%d %q %s", code, out, errs)
	}
	code, out, errs = says(t.Context(), "warm", "app:1.0.0", "app:none", "--output", "json")
	var doc warmed
	if err := json.Unmarshal([]byte(out), &doc); code != partlyDone || err != nil || len(doc.Results) != 2 || doc.Failed != 1 ||
		doc.Unchanged != 1 || doc.Schema != 1 || !strings.Contains(errs, "1 of 2 images") {
		t.Errorf("%d %s %v %s", code, out, err, errs)
	}
	if code, _, errs = says(t.Context(), "warm", "app:none"); code != failed || !strings.Contains(errs, "none of 1") {
		t.Errorf("%d %s", code, errs)
	}
	for _, line := range [][]string{
		{"warm"}, {"warm", "-f", "/nowhere"}, {"warm", "app", "--platform", "amd64"}, {"warm", "app", "--newest", "-1"},
		{"warm", "app", "--referrers=sometimes"}, {"unpin"},
	} {
		if code, _, errs = says(t.Context(), line...); code != misasked || errs == "" {
			t.Errorf("%v: %d %s", line, code, errs)
		}
	}
	code, out, _ = says(t.Context(), "pin")
	if rows := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || len(rows) != 3 || !strings.Contains(rows[1], img.Top.Digest.String()[:19]) ||
		!strings.Contains(rows[1], "operator") || !strings.HasSuffix(rows[1], "yes") {
		t.Errorf("%d\n%s", code, out)
	}
	code, out, errs = says(t.Context(), "unpin", "app:1.0.0", "app:none")
	if code != partlyDone || out != app+":1.0.0: unpinned\n" || !strings.Contains(errs, "1 of 2 images") {
		t.Errorf("%d %q %s", code, out, errs)
	}
	if _, list := w.pinned(); len(list.Pins) != 1 {
		t.Errorf("%+v", list)
	}
	if code, out, errs = says(t.Context(), "pin", "app:1.0.0", "--referrers"); code != 0 || !strings.Contains(out, "1 unchanged") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if _, list := w.pinned(); len(list.Pins) != 2 {
		t.Errorf("%+v", list)
	}
}

// TestWarmOfStrangers: who is no tidepool, or breaks off, is told as what it is.
func TestWarmOfStrangers(t *testing.T) {
	for answer, say := range map[string]string{
		"<html>\n":                             "no tidepool",
		`{"schema":1,"state":"moving"}` + "\n": "before all was done",
		`{"schema":2}` + "\n":                  "schema 1",
		`{"schema":1,"image":7}` + "\n":        "no such document",
		strings.Repeat("x", 1<<20):             "no tidepool",
		"":                                     "before all was done",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		code, _, errs := says(t.Context(), "warm", "app", "--server", s.URL)
		if code != failed || !strings.Contains(errs, say) {
			t.Errorf("%.30q: %d %s", answer, code, errs)
		}
		s.Close()
	}
	if code, _, errs := says(t.Context(), "warm", "app", "--server", origintest.Dead(t)); code != failed || !strings.Contains(errs, "no tidepool answers") {
		t.Errorf("%d %s", code, errs)
	}
}
