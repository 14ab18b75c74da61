package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// TestHistory: what a tag was, under the name that answered, also after a restart.
func TestHistory(t *testing.T) {
	bubble(t, "moved", func(t *testing.T) {
		o := origintest.New()
		var digests []string
		w := inBubble(t, o, plan{file: "aliases: [{from: 'docker.io/old/**', to: 'docker.io/new/**', when: missing}]"})
		ask := func(image string) (doc historyDoc) {
			t.Helper()
			a := w.admin("/api/v1/history?image=" + image)
			a.is(t, 200)
			if err := json.Unmarshal(a.body, &doc); err != nil {
				t.Error(err)
			}
			return doc
		}
		if doc := ask("old/app:1"); len(doc.Places) != 2 || len(doc.Places[0].Was)+len(doc.Places[1].Was) != 0 {
			t.Errorf("before anything: %+v", doc)
		}
		for n := range uint64(3) {
			img := o.PutImage("new/app", "1", origintest.Spec{Seed: n})
			digests = append([]string{img.Top.Digest.String()}, digests...)
			w.get("/v2/old/app/manifests/1").brings(t, img.Top.Content)
			w.get("/v2/old/app/manifests/1").brings(t, img.Top.Content)
			time.Sleep(6 * time.Minute)
		}
		w.close()
		w.open()
		doc := ask("old/app:1")
		if doc.Asked != "docker.io/old/app:1" || doc.Places[0].Answered || !doc.Places[1].Answered || doc.Places[1].Image != "docker.io/new/app:1" {
			t.Errorf("%+v", doc)
		}
		var got []string
		for i, was := range doc.Places[1].Was {
			if got = append(got, was.Digest); !was.Held || i > 0 && !was.Since.Before(doc.Places[1].Was[i-1].Since) {
				t.Errorf("%+v", was)
			}
		}
		if strings.Join(got, " ") != strings.Join(digests, " ") {
			t.Errorf("%v, want %v", got, digests)
		}
		for _, bad := range []string{"", "app:~1", "app@sha256:00", "Bad/name:1", "evil.test/app:1"} {
			w.admin("/api/v1/history?image="+bad).is(t, 400)
		}
	})
}

// TestHistoryCommand shows it to a person.
func TestHistoryCommand(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "1", origintest.Spec{})
	w := fill(t, plan{hubs: map[string]string{"docker.io": origintest.Serve(t, o).URL}})
	t.Setenv("TIDEPOOL_SERVER", "http://"+w.adminAddr.String())
	if code, _, errs := says(t.Context(), "history", "app:1"); code != failed || !strings.Contains(errs, "nothing is known") {
		t.Errorf("%d %s", code, errs)
	}
	w.get(manifestPath("1")).brings(t, img.Top.Content)
	code, out, errs := says(t.Context(), "history", "app:1")
	if rows := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || len(rows) != 2 || !strings.Contains(rows[1], img.Top.Digest.String()) || !strings.HasSuffix(rows[1], "yes") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
}
