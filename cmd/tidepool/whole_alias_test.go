package main

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

const renamed = "aliases:\n  - {from: 'docker.io/bitnami/**', to: 'docker.io/bitnamilegacy/**', when: missing}\n" +
	"  - {from: 'k8s.gcr.io/**', to: 'registry.k8s.io/**'}\n"

// by checks a whole pull of img by any of the names that a repository has.
func (w *pool) by(t *testing.T, base, tag string, img *origintest.Image) {
	t.Helper()
	w.get(base+"/manifests/"+tag).brings(t, img.Top.Content)
	for _, m := range img.Manifests {
		w.get(base+"/manifests/"+m.Digest.String()).brings(t, m.Content)
	}
	for _, b := range img.Blobs {
		w.head(base+"/blobs/"+b.Digest.String()).is(t, http.StatusOK)
		w.get(base+"/blobs/"+b.Digest.String()).brings(t, b.Content)
	}
}

// reached checks what reached an origin, and forgets it.
func reached(t *testing.T, what string, o *origintest.Origin, want int, matches ...origintest.Match) {
	t.Helper()
	if n := o.Count(matches...); n != want {
		t.Errorf("%s: %d requests, want %d: %v", what, n, want, asked(o))
	}
	o.Forget()
}

// An image that is gone under its old name is pulled by it all the same, each thing with one request.
func TestAliasOfWhatMoved(t *testing.T) {
	const old, new = "/v2/bitnami/redis", "/v2/bitnamilegacy/redis"
	bubble(t, "moved", func(t *testing.T) {
		o := origintest.New()
		spec := origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}}
		img := o.PutImage("bitnamilegacy/redis", "7", spec)
		things := len(img.Manifests) + len(img.Blobs)
		core, lines := observer.New(zap.InfoLevel)
		w := inBubble(t, o, plan{file: renamed + "tags: [{match: '**', fresh: 5m}]\n", log: zap.New(core)})

		w.by(t, old, "7", img)
		reached(t, "a cold pull", o, things+1) // one more: the old name was asked first
		w.by(t, old, "7", img)
		w.by(t, new, "7", img)
		reached(t, "by the old name again, and by the new one", o, 0)

		a := w.get(old + "/manifests/7")
		a.has(t, "Docker-Content-Digest", img.Top.Digest.String(), "Cache-Status", `tidepool; hit; detail=memory; key="docker.io/bitnamilegacy/redis"`)
		last := lines.FilterMessage("request").All()
		fields := last[len(last)-1].ContextMap()
		if fields["registry"] != "docker.io" || fields["repo"] != "bitnamilegacy/redis" || fields["asked"] != "docker.io/bitnami/redis" {
			t.Errorf("the log says %v", fields)
		}

		time.Sleep(6 * time.Minute)
		w.get(old+"/manifests/7").brings(t, img.Top.Content)
		reached(t, "aged", o, 2) // 404 by the old name, HEAD by the new one
		time.Sleep(6 * time.Minute)
		o.When(origintest.Repo("bitnami/redis")).Status(503)
		w.get(old+"/manifests/7").brings(t, img.Top.Content) // known to be at the other name
		w.get(old+"/manifests/8").refuses(t, http.StatusBadGateway, "UNAVAILABLE")
		reached(t, "a tag never seen, while the old name cannot be asked", o, 0, origintest.Repo("bitnamilegacy/redis"), origintest.Ref("8"))
		o.Heal()

		time.Sleep(6 * time.Minute)
		back := o.PutImage("bitnami/redis", "7", origintest.Spec{Seed: 5})
		w.by(t, old, "7", back)
		if s := w.get(old + "/manifests/7").header.Get("Cache-Status"); s != "tidepool; hit; detail=memory" {
			t.Errorf("what came back: %s", s)
		}
		w.by(t, new, "7", img)
	})
	bubble(t, "what is no 404 leads nowhere", func(t *testing.T) {
		for status, want := range map[int]int{403: 403, 401: 403, 429: 429, 500: 502, 503: 502} {
			o := origintest.New()
			o.PutImage("bitnamilegacy/redis", "7", origintest.Spec{})
			o.When(origintest.Repo("bitnami/redis")).Status(status)
			w := inBubble(t, o, plan{file: renamed + "hold: 0s\n"})
			for _, path := range []string{"/manifests/7", "/manifests/" + otherDigest, "/blobs/" + otherDigest, "/tags/list"} {
				if a := w.get(old + path); a.status != want {
					t.Errorf("%d for %s: %v", status, path, a)
				}
			}
			reached(t, "at the new name", o, 0, origintest.Repo("bitnamilegacy/redis"))
			w.close()
		}
	})
	bubble(t, "a hundred at once", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage("bitnamilegacy/redis", "7", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}})
		w := inBubble(t, o, plan{file: renamed})
		o.When().Delay(time.Second) // they are all there before the first answer is
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { w.by(t, old, "7", img) })
		}
		all.Wait()
		reached(t, "by the old name", o, len(img.Manifests)+len(img.Blobs)+1)
	})
	bubble(t, "offline, by the next process", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage("bitnamilegacy/redis", "7", origintest.Spec{})
		w := inBubble(t, o, plan{file: renamed})
		w.by(t, old, "7", img)
		w.close()
		w.plan.flags = map[string][]string{"offline": {"true"}}
		w.open()
		time.Sleep(time.Hour)
		o.Forget()
		w.by(t, old, "7", img)
		reached(t, "offline", o, 0)
	})
	bubble(t, "lists", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage("bitnamilegacy/redis", "7", origintest.Spec{})
		o.PutImage("bitnami/redis", "8", origintest.Spec{Seed: 2})
		sig := o.PutArtifact("bitnamilegacy/redis", img.Top.Descriptor, "application/vnd.sig", origintest.Bytes([]byte("sig")))
		w := inBubble(t, o, plan{file: renamed})
		a := w.get(old + "/tags/list?n=1")
		if string(a.body) != `{"name":"bitnami/redis","tags":["7"]}` {
			t.Errorf("%s", a.body)
		}
		a.has(t, "Link", `<`+old+`/tags/list?n=1&last=7>; rel="next"`)
		for range 2 { // by who has pulled, and by who has not
			if a := w.get(old + "/referrers/" + img.Top.Digest.String()); !strings.Contains(string(a.body), sig.Top.Digest.String()) {
				t.Errorf("%s", a.body)
			}
			w.by(t, old, "7", img)
			time.Sleep(10 * time.Minute)
		}
		w.get("/v2/bitnami/none/manifests/1").refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
		w.get("/v2/bitnami/none/tags/list").refuses(t, http.StatusNotFound, "NAME_UNKNOWN")
		w.get("/v2/bitnami/none/referrers/"+otherDigest).is(t, http.StatusOK)
	})
}

// A registry that is gone is found under its new name, by every way of asking.
func TestAliasOfARegistry(t *testing.T) {
	bubble(t, "k8s.gcr.io", func(t *testing.T) {
		hub, k8s, n := origintest.New(), origintest.New(), new(origintest.Net)
		img := k8s.PutImage("coredns/coredns", "v1", origintest.Spec{})
		origintest.ServeIn(t, n, "k8s.test:80", k8s)
		w := inBubble(t, hub, plan{net: n, file: renamed, hubs: map[string]string{"docker.io": "http://hub.test", "registry.k8s.io": "http://k8s.test"}})
		for _, base := range []string{"/v2/k8s.gcr.io/coredns/coredns", "/k8s.gcr.io/v2/coredns/coredns", "/v2/registry.k8s.io/coredns/coredns"} {
			w.by(t, base, "v1", img)
		}
		w.get("/v2/coredns/coredns/manifests/v1?ns=k8s.gcr.io").brings(t, img.Top.Content)
		reached(t, "by four ways", k8s, len(img.Manifests)+len(img.Blobs))
		reached(t, "elsewhere", hub, 0)
		if a := w.get("/v2/k8s.gcr.io/coredns/coredns/tags/list"); string(a.body) != `{"name":"k8s.gcr.io/coredns/coredns","tags":["v1"]}` {
			t.Errorf("%s", a.body)
		}
	})
}
