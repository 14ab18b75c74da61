package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// What was four minutes old there is four minutes old here: a chain of caches is no older than one.
func TestAgeOfAChain(t *testing.T) {
	bubble(t, "chain", func(t *testing.T) {
		o, n := origintest.New(), new(origintest.Net)
		img := o.PutImage(repo, "latest", origintest.Spec{})
		origintest.ServeIn(t, n, "hub.test:80", o)
		far := fill(t, plan{net: n, flags: map[string][]string{"listen": {"127.0.0.2:5000"}, "admin": {"off"}}})
		far.get(manifestPath("latest")).brings(t, img.Top.Content)
		time.Sleep(4 * time.Minute)
		near := fill(t, plan{net: n, hubs: map[string]string{"docker.io": "http://127.0.0.2:5000"}})
		if age := near.get(manifestPath("latest")).header.Get("Age"); age != "240" {
			t.Errorf("it is %q seconds old", age)
		}
		time.Sleep(61 * time.Second)
		heads := o.Count(origintest.HEAD)
		a := near.get(manifestPath("latest"))
		if s := a.header.Get("Cache-Status"); s != "tidepool; fwd=stale; detail=unchanged" || a.header.Get("Age") != "0" {
			t.Errorf("%s, %s seconds old", s, a.header.Get("Age"))
		}
		if got := o.Count(origintest.HEAD) - heads; got != 1 {
			t.Errorf("the registry was asked %d times", got)
		}
	})
}

// What a client gets where the upstream changes under it.
func TestChangedUpstream(t *testing.T) {
	rules := plan{file: "tags: [{match: 'docker.io/library/kept:*', fresh: 1m, on_delete: keep}, {match: '**', fresh: 1m}]"}
	bubble(t, "a tag moves to and fro", func(t *testing.T) {
		o := origintest.New()
		one, two := origintest.Build(origintest.Spec{Seed: 1}), origintest.Build(origintest.Spec{Seed: 2})
		w := inBubble(t, o, rules)
		for i := range 6 {
			img := []*origintest.Image{one, two}[i%2]
			o.Put(repo, "latest", img)
			w.get(manifestPath("latest")).brings(t, img.Top.Content)
			time.Sleep(2 * time.Minute)
		}
		if n := o.Count(origintest.GET, origintest.Manifest); n != 2 {
			t.Errorf("%d manifests were fetched", n)
		}
	})
	bubble(t, "a repository is renamed", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		kept := o.PutImage("library/kept", "latest", origintest.Spec{Seed: 3})
		w := inBubble(t, o, rules)
		w.get(manifestPath("latest")).brings(t, img.Top.Content)
		w.get("/v2/library/kept/manifests/latest").brings(t, kept.Top.Content)
		o.When(origintest.Manifest).Status(http.StatusNotFound)
		time.Sleep(2 * time.Minute)
		if a := w.get(manifestPath("latest")); a.status != http.StatusNotFound || a.code() != "MANIFEST_UNKNOWN" {
			t.Errorf("the tag: %v", a)
		}
		w.get(digestPath(img.Top.Digest)).brings(t, img.Top.Content) // who has the digest keeps what it names
		a := w.get("/v2/library/kept/manifests/latest")
		a.brings(t, kept.Top.Content)
		if a.header.Get("Warning") == "" || a.header.Get("Age") != "120" {
			t.Errorf("kept, and not said: %v", a.header)
		}
	})
}
