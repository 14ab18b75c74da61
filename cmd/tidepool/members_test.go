package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
)

// TestRingOf: a digest is a blob's, anything else an image, whose repository has an owner.
func TestRingOf(t *testing.T) {
	w, ref := amid(t)
	c := w.cluster
	c.copies = &cluster.Copies{Router: c.router}
	c.members.SetState(cluster.Ready)
	find := func(text string) (cache.Ref, []cache.Ref, error) { return ref, []cache.Ref{ref}, nil }
	blob := cache.Sum([]byte("a blob")).String()
	for what, want := range map[string]string{"": "", blob: "BLOB", "app:1": "TAGS, MANIFESTS AND LISTS OF"} {
		doc, err := c.ring(t.Context(), what, find)
		if err != nil {
			t.Fatal(err)
		}
		var page bytes.Buffer
		if err := showRing(&page, doc.(ringDoc)); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(page.String()), "\n")
		last := lines[len(lines)-1]
		owned := strings.HasPrefix(last, blob+" ") && strings.HasSuffix(last, " m1") || strings.HasPrefix(last, "docker.io/"+repo+" ") && strings.HasSuffix(last, " m1")
		if !strings.Contains(page.String(), want) || owned != (want != "") {
			t.Errorf("%q:\n%s", what, page.String())
		}
	}
	if _, err := c.ring(t.Context(), "sha256:nope", find); err == nil {
		t.Error("sha256:nope is an image")
	}
	if _, err := (*clustering)(nil).ring(t.Context(), "app:1", find); err == nil || !strings.Contains(err.Error(), "no cluster") {
		t.Error(err)
	}
	if code, _, errs := says(t.Context(), "ring", "sha256:nope", "--server", "http://127.0.0.1:1"); code != misasked || !strings.Contains(errs, `"sha256:nope" is not a digest`) {
		t.Errorf("%d %s", code, errs)
	}
}
