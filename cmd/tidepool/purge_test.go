package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// TestPurgeCommand runs the command against a tidepool on loopback.
func TestPurgeCommand(t *testing.T) {
	o := origintest.New()
	one := o.PutImage(repo, "1", origintest.Spec{})
	two := o.PutImage(repo, "2", origintest.Spec{Seed: 1})
	w := fill(t, plan{hubs: map[string]string{"docker.io": origintest.Serve(t, o).URL}, file: "aliases: [{from: 'docker.io/old/**', to: 'docker.io/library/**'}]\n"})
	t.Setenv("TIDEPOOL_SERVER", "http://"+w.adminAddr.String())
	w.pulls("1", one)
	w.pulls("2", two)
	held := func() int { return w.store.Stats().DiskEntries }
	all := held()

	for _, line := range [][]string{{"purge"}, {"purge", "app:1"}, {"purge", "-f", "/nowhere", "--yes"}} { // nobody is there to be asked
		if code, _, errs := says(t.Context(), line...); code != misasked || errs == "" {
			t.Errorf("%v: %d %s", line, code, errs)
		}
	}
	code, out, errs := says(t.Context(), "purge", "app:1", "--dry-run")
	if code != 0 || !strings.Contains(out, "docker.io/"+repo+":1") || held() != all {
		t.Errorf("%d %q %s, %d held of %d", code, out, errs, held(), all)
	}
	code, out, errs = says(t.Context(), "purge", "old/app:1", "app:~1", "--yes", "--output", "json")
	var doc purged
	if err := json.Unmarshal([]byte(out), &doc); code != partlyDone || err != nil || doc.Schema != 1 || doc.DryRun || len(doc.Images) != 2 ||
		doc.Images[0].Names != 1 || doc.Images[0].Things != 1+len(one.Blobs) || doc.Images[1].Error == "" || !strings.Contains(errs, "1 of 2 images") {
		t.Errorf("%d %s %v %s", code, out, err, errs)
	}
	if n := held(); n != all-1-len(one.Blobs) {
		t.Errorf("%d held of %d", n, all)
	}
	w.pulls("1", one)
	w.pulls("2", two)
	if n := o.Count(origintest.GET, origintest.Manifest); n != 3 {
		t.Errorf("%d manifests were fetched", n)
	}
	if code, _, errs = says(t.Context(), "pin", "app:2"); code != 0 {
		t.Fatal(errs)
	}
	all = held() // with the list of what refers to it
	if code, _, errs = says(t.Context(), "purge", "app:*", "--yes"); code != failed || !strings.Contains(errs, "unpin it first") || held() != all {
		t.Errorf("%d %s, %d held of %d", code, errs, held(), all)
	}
	if code, _, errs = says(t.Context(), "unpin", "app:2"); code != 0 {
		t.Error(errs)
	}
	if code, out, errs = says(t.Context(), "purge", "app:*", "--yes"); code != 0 || !strings.Contains(out, "docker.io/"+repo+":*") || held() != 0 {
		t.Errorf("%d %q %s, %d held", code, out, errs, held())
	}
}
