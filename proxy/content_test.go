package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

func TestManifest(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}})
	p := start(t, o)
	top := img.Top.Content
	tag := `"` + top.Digest().String() + `"`
	for _, path := range []string{
		"/v2/app/manifests/latest", "/v2/library/app/manifests/latest?ns=docker.io", manifest("app", top.Digest()),
		"/v2/docker.io/library/app/manifests/latest", "/docker.io/v2/app/manifests/latest",
	} {
		a := p.get(t, path, "Accept", "text/html") // what is accepted is never looked at
		a.is(t, 200, top.Bytes())
		a.has(t, "Content-Type", origintest.OCIIndex, "Docker-Content-Digest", top.Digest().String(), "Etag", tag,
			"Accept-Ranges", "bytes", "Content-Length", fmt.Sprint(top.Size()))
		h := p.do(t, http.MethodHead, path)
		h.is(t, 200, nil)
		h.has(t, "Content-Type", origintest.OCIIndex, "Docker-Content-Digest", top.Digest().String(), "Etag", tag,
			"Accept-Ranges", "bytes", "Content-Length", fmt.Sprint(top.Size()))
	}
	if n := o.Count(origintest.Manifest, origintest.GET); n != 1 {
		t.Errorf("the hub was asked %d times", n)
	}
	a := p.get(t, "/v2/app/manifests/latest")
	a.has(t, "Cache-Status", "tidepool; hit; detail=memory", "Age", "0", "Warning", "")
	p.get(t, manifest("app", top.Digest())).has(t, "Age", "")
	p.do(t, http.MethodHead, "/v2/app/manifests/none").is(t, 404, nil)
	if a := p.get(t, "/v2/app/manifests/none"); a.StatusCode != 404 || code(string(a.body)) != "MANIFEST_UNKNOWN" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestConditions(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{})
	p := start(t, o)
	for path, content := range map[string]*origintest.Content{
		"/v2/app/manifests/latest":                                   img.Top.Content,
		manifest("app", img.Top.Digest):                              img.Top.Content,
		blob("app", img.Variants[0].Config.Digest) + "?ns=docker.io": img.Variants[0].Config.Content,
	} {
		tag := `"` + content.Digest().String() + `"`
		for _, same := range []string{tag, "W/" + tag, "*", `"other", ` + tag, `"other",W/` + tag + `,"x"`} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				a := p.do(t, method, path, "If-None-Match", same)
				a.is(t, 304, nil)
				a.has(t, "Etag", tag, "Docker-Content-Digest", content.Digest().String())
			}
		}
		for _, other := range []string{`"other"`, content.Digest().String(), `W/"x"`, `""`, "", `"` + tag + `"`} {
			p.get(t, path, "If-None-Match", other).is(t, 200, content.Bytes())
		}
		p.get(t, path, "If-None-Match", `"other"`, "If-None-Match", tag).is(t, 304, nil)
		p.get(t, path, "If-Modified-Since", "Sat, 01 Jan 2050 00:00:00 GMT").is(t, 200, content.Bytes())

		first := content.Bytes()[:5]
		p.get(t, path, "Range", "bytes=0-4", "If-Range", tag).is(t, 206, first)
		for _, other := range []string{`"other"`, "W/" + tag, "Sat, 01 Jan 2050 00:00:00 GMT", content.Digest().String()} {
			p.get(t, path, "Range", "bytes=0-4", "If-Range", other).is(t, 200, content.Bytes())
		}
		p.get(t, path, "Range", "bytes=0-4", "If-None-Match", tag).is(t, 304, nil)
	}
}

// HEAD of a blob that is not held tells its length and fetches nothing.
func TestHeadOfAColdBlob(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(3, 1<<20))
	p := start(t, o)
	a := p.do(t, http.MethodHead, blob("app", content.Digest()))
	a.is(t, 200, nil)
	a.has(t, "Content-Length", fmt.Sprint(1<<20), "Content-Type", "application/octet-stream", "Accept-Ranges", "bytes",
		"Docker-Content-Digest", content.Digest().String())
	if n := o.Bytes(); n != 0 {
		t.Errorf("%d bytes were fetched", n)
	}
}

// Until a byte is sent, a failure can be told, and nothing of the answer that was being prepared is left in it.
func TestFailureBeforeTheFirstByte(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(12, 1<<20))
	o.When(origintest.Blob, origintest.GET).CutAt(0)
	p := start(t, o)
	for i, ranges := range []string{"", "bytes=5-9", "bytes=5-9,20-30"} {
		a := p.get(t, blob("app", content.Digest()), "Range", ranges)
		if a.StatusCode != 502 || code(string(a.body)) != "UNAVAILABLE" || a.err != nil {
			t.Errorf("%q: %d %.100q %v", ranges, a.StatusCode, a.body, a.err)
		}
		a.has(t, "Etag", "", "Docker-Content-Digest", "", "Content-Range", "", "Accept-Ranges", "",
			"Content-Type", "application/json", "Content-Length", fmt.Sprint(len(a.body)))
		if x := p.last(i + 1); x.Tier != "" || x.Digest != "" || x.Torn {
			t.Errorf("%q: %+v", ranges, x)
		}
	}
}

// A manifest says itself of what type it is. What claims to be a web page must not become one of ours.
func TestTypeOfAPage(t *testing.T) {
	o := origintest.New()
	page := origintest.Bytes([]byte(
		`{"schemaVersion":2,"mediaType":"text/html","config":{},"layers":[],"x":"<script>alert(1)</script>"}`))
	o.PutManifest("library/app", "page", "text/html", page)
	o.PutManifest("library/app", "claim", origintest.OCIManifest, page)
	p := start(t, o)
	for _, path := range []string{"/v2/app/manifests/page", "/v2/app/manifests/claim", manifest("app", page.Digest()),
		blob("app", page.Digest())} {
		if a := p.get(t, path); strings.Contains(a.Header.Get("Content-Type"), "html") {
			t.Errorf("%s: %d %v", path, a.StatusCode, a.Header)
		}
	}
}

// A manifest may be wrong about the size of a layer. What a client is told is what there is.
func TestSizeOfALyingManifest(t *testing.T) {
	for _, claimed := range []int{100_000, 300_000} {
		o := origintest.New()
		layer := o.PutBlob("library/app", origintest.Synthetic(13, 200_000))
		o.PutManifest("library/app", "latest", origintest.OCIManifest, origintest.Bytes(fmt.Appendf(nil,
			`{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q,"size":2},"layers":[{"digest":%q,"size":%d}]}`,
			origintest.OCIManifest, digest, layer.Digest(), claimed)))
		p := start(t, o)
		if a := p.get(t, "/v2/app/manifests/latest"); a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		for range 2 {
			if a := p.get(t, blob("app", layer.Digest()), "Range", "bytes=150000-"); a.StatusCode == 206 && a.err == nil {
				a.is(t, 206, layer.Bytes()[150_000:])
				a.has(t, "Content-Range", "bytes 150000-199999/200000")
			}
		}
		p.get(t, blob("app", layer.Digest())).is(t, 200, layer.Bytes())
		p.get(t, blob("app", layer.Digest()), "Range", "bytes=150000-").is(t, 206, layer.Bytes()[150_000:])
	}
}

func TestCacheStatus(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(4, 1<<20))
	p := start(t, o)
	rule := o.When(origintest.Blob, origintest.GET).Once().StallAt(1 << 10)
	answers := make(chan answer)
	go func() { answers <- p.get(t, blob("app", content.Digest())) }()
	<-rule.Reached()
	second := make(chan answer)
	go func() { second <- p.get(t, blob("app", content.Digest())) }()
	rule.Release()
	first, other := <-answers, <-second
	first.is(t, 200, content.Bytes())
	first.has(t, "Cache-Status", "tidepool; fwd=uri-miss; detail=upstream")
	other.is(t, 200, content.Bytes())
	p.get(t, blob("app", content.Digest())).has(t, "Cache-Status", "tidepool; hit; detail=disk")
	p.get(t, "/v2/").has(t, "Cache-Status", "tidepool; detail=local")
	p.get(t, "/v2/a/manifests/-").has(t, "Cache-Status", "tidepool; detail=refused")
	p.get(t, "/v2/dead.test/a/manifests/1").has(t, "Cache-Status", "tidepool; fwd=uri-miss; detail=unavailable")
}

// What is said of a tag that has aged: whether it was asked for, and what came of it.
func TestAgedTag(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{})
	var now atomic.Int64 // seconds since the start
	began := time.Now()
	p := start(t, o, func(options *cache.Options) {
		options.Aging = func(cache.Ref) cache.Aging {
			return cache.Aging{Fresh: time.Minute, Grace: time.Minute, Stale: cache.Forever}
		}
		options.Now = func() time.Time { return began.Add(time.Duration(now.Load()) * time.Second) }
	})
	const path = "/v2/app/manifests/latest"
	p.get(t, path).has(t, "Cache-Status", "tidepool; fwd=uri-miss; detail=upstream")
	now.Add(59)
	p.get(t, path).has(t, "Cache-Status", "tidepool; hit; detail=memory")
	now.Add(31)
	p.get(t, path).has(t, "Cache-Status", "tidepool; hit; ttl=-30; detail=memory", "Warning", "")
	for p.get(t, path).Header.Get("Cache-Status") != "tidepool; hit; detail=memory" { // until it was asked for behind the answer
		if t.Context().Err() != nil || time.Since(began) > time.Minute {
			t.Fatal("it was not asked for")
		}
	}
	now.Add(180)
	p.get(t, path).has(t, "Cache-Status", "tidepool; fwd=stale; detail=unchanged")
	o.PutImage("library/app", "latest", origintest.Spec{Platforms: []string{"linux/arm64"}})
	now.Add(180)
	p.get(t, path).has(t, "Cache-Status", "tidepool; fwd=stale; stored; detail=changed")
	p.hub.Close()
	now.Add(180)
	p.get(t, path).has(t, "Cache-Status", "tidepool; hit; ttl=-120; detail=memory")
	p.get(t, manifest("app", img.Top.Digest)).has(t, "Cache-Status", "tidepool; hit; detail=memory")
}

// A tag that could not be asked for again is served, and says that it is old.
func TestStaleTag(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{})
	p := start(t, o, func(options *cache.Options) {
		options.Aging = func(cache.Ref) cache.Aging { return cache.Aging{Stale: cache.Forever} }
		options.Now = time.Now
	})
	p.get(t, "/v2/app/manifests/latest").is(t, 200, img.Top.Content.Bytes())
	p.hub.Close()
	a := p.get(t, "/v2/app/manifests/latest")
	a.is(t, 200, img.Top.Content.Bytes())
	if w := a.Header.Get("Warning"); !strings.HasPrefix(w, `299 - "docker.io/library/app:latest `) || !strings.HasSuffix(w, `"`) {
		t.Errorf("Warning %q", w)
	}
	p.get(t, manifest("app", img.Top.Digest)).has(t, "Warning", "", "Age", "")
	if a := p.get(t, "/v2/app/manifests/other"); a.StatusCode != 502 || code(string(a.body)) != "UNAVAILABLE" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
