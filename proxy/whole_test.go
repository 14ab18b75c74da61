package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// pool is a whole tidepool before a hub, without a command line.
type pool struct {
	*origintest.Origin
	hub    *origintest.Server
	store  *cache.Cache
	url    string
	client *http.Client

	mu   sync.Mutex // guards seen
	seen []proxy.Exchange
	more sync.Cond
}

// start serves what o has, as docker.io and as hub.test.
func start(t *testing.T, o *origintest.Origin, change ...func(*cache.Options)) *pool {
	t.Helper()
	p := &pool{Origin: o, hub: origintest.Serve(t, o)}
	p.more.L = &p.mu
	hubs, err := upstream.New([]upstream.Config{
		{Name: "docker.io", Endpoints: []string{p.hub.URL}},
		{Name: "hub.test", Endpoints: []string{p.hub.URL}},
		{Name: "dead.test", Endpoints: []string{"http://" + origintest.Dead(t)}},
	}, upstream.Options{ID: "pool"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hubs.Close() })
	options := cache.Options{Dir: t.TempDir(), Disk: 1 << 30, ScrubRate: -1}
	for _, c := range change {
		c(&options)
	}
	if p.store, err = cache.New(t.Context(), hubs, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.store.Close() })
	p.serve(t, &proxy.Handler{Store: p.store, Names: names, ID: "pool", Observe: p.observe})
	return p
}

// serve serves h as the product does, on a port of its own.
func (p *pool) serve(t *testing.T, h http.Handler) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.listen(t, h, proxy.Limit(l, 0, nil))
}

// listen serves h at l.
func (p *pool) listen(t *testing.T, h http.Handler, l net.Listener) {
	t.Helper()
	s := proxy.Server(h, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	p.url = "http://" + l.Addr().String()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	p.client = client
	t.Cleanup(func() {
		client.CloseIdleConnections()
		_ = s.Close()
		<-done
	})
}

func (p *pool) observe(x proxy.Exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, x)
	p.more.Broadcast()
}

// last waits until n requests are over and returns the last of them.
func (p *pool) last(n int) proxy.Exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.seen) < n {
		p.more.Wait()
	}
	return p.seen[n-1]
}

// answer is a response that was read to its end.
type answer struct {
	*http.Response
	body []byte
	err  error // of reading
}

// do asks with headers given as pairs.
func (p *pool) do(t *testing.T, method, path string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	res, err := p.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	a := answer{Response: res}
	a.body, a.err = io.ReadAll(res.Body)
	return a
}

func (p *pool) get(t *testing.T, path string, headers ...string) answer {
	t.Helper()
	return p.do(t, http.MethodGet, path, headers...)
}

// is checks the status and the body.
func (a answer) is(t *testing.T, status int, body []byte) {
	t.Helper()
	if a.StatusCode != status || a.err != nil || !bytes.Equal(a.body, body) {
		t.Errorf("%s %s: %d, %d bytes (%.200q), %v; want %d and %d bytes", a.Request.Method, a.Request.URL, a.StatusCode,
			len(a.body), a.body, a.err, status, len(body))
	}
}

// has checks headers given as pairs; "" means that there must be none.
func (a answer) has(t *testing.T, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := a.Header.Get(pairs[i]); got != pairs[i+1] {
			t.Errorf("%s %s: %s is %q, want %q", a.Request.Method, a.Request.URL, pairs[i], got, pairs[i+1])
		}
	}
}

func blob(name string, d cache.Digest) string     { return "/v2/" + name + "/blobs/" + d.String() }
func manifest(name string, d cache.Digest) string { return "/v2/" + name + "/manifests/" + d.String() }

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

func TestRangesOfAllKinds(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{})
	small := o.PutBlob("library/app", origintest.Synthetic(1, 1000))
	large := o.PutBlob("library/app", origintest.Synthetic(2, 3<<20))
	p := start(t, o)
	for path, content := range map[string]*origintest.Content{
		"/v2/app/manifests/latest":          img.Top.Content,
		manifest("app", img.Top.Digest):     img.Top.Content,
		blob("library/app", small.Digest()): small,
		blob("library/app", large.Digest()): large,
	} {
		b, size := content.Bytes(), content.Size()
		for range 2 { // cold, then warm
			a := p.get(t, path, "Range", "bytes=0-")
			if a.StatusCode != 200 && a.StatusCode != 206 {
				t.Errorf("%s: %d", path, a.StatusCode)
			}
			a.is(t, a.StatusCode, b)
			a = p.get(t, path, "Range", "bytes=-7")
			a.is(t, 206, b[size-7:])
			a.has(t, "Content-Range", fmt.Sprintf("bytes %d-%d/%d", size-7, size-1, size), "Content-Length", "7")
			p.get(t, path, "Range", "bytes=100-199").is(t, 206, b[100:200])
			p.get(t, path, "Range", fmt.Sprintf("bytes=%d-", size-1)).is(t, 206, b[size-1:])
			p.get(t, path, "Range", "bytes=100-99999999999").is(t, 206, b[100:])
			p.get(t, path, "Range", fmt.Sprintf("bytes=%d-,5-9", size)).is(t, 206, b[5:10])
			p.get(t, path, "Range", "bytes=9-5").is(t, 200, b)
			p.get(t, path, "Range", "pages=1-2").is(t, 200, b)
			p.get(t, path, "Range", "bytes=0-,0-,0-").is(t, 200, b)
			p.get(t, path, "Range", "bytes="+strings.Repeat("1-1,", 65)).is(t, 200, b)
			p.do(t, http.MethodHead, path, "Range", "bytes=0-4").has(t, "Content-Length", fmt.Sprint(size), "Content-Range", "")
			for _, nowhere := range []string{fmt.Sprintf("bytes=%d-", size), fmt.Sprintf("bytes=%d-,%d-", size, size+9), "bytes=-0"} {
				a := p.get(t, path, "Range", nowhere)
				if a.StatusCode != 416 || code(string(a.body)) != "SIZE_INVALID" {
					t.Errorf("%s: %d %.100q", nowhere, a.StatusCode, a.body)
				}
				a.has(t, "Content-Range", fmt.Sprintf("bytes */%d", size), "Etag", "", "Docker-Content-Digest", "")
			}
			a = p.get(t, path, "Range", "bytes=50-59,0-9,-5")
			a.several(t, b, [][2]int64{{50, 60}, {0, 10}, {size - 5, size}})
			a.has(t, "Accept-Ranges", "bytes", "Docker-Content-Digest", content.Digest().String())
		}
	}
}

// several checks a multipart answer against the parts that it must have.
func (a answer) several(t *testing.T, content []byte, parts [][2]int64) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if a.StatusCode != 206 || kind != "multipart/byteranges" || err != nil || a.ContentLength != int64(len(a.body)) {
		t.Errorf("%s: %d %v, %v, %d of %d bytes", a.Request.URL, a.StatusCode, a.Header, err, len(a.body), a.ContentLength)
		return
	}
	r := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, want := range parts {
		part, err := r.NextRawPart()
		if err != nil {
			t.Errorf("%v: %v", want, err)
			return
		}
		got, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(got, content[want[0]:want[1]]) {
			t.Errorf("%v: %d bytes, %v", want, len(got), err)
		}
		if h, w := part.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, len(content)); h != w {
			t.Errorf("%s, want %s", h, w)
		}
	}
	if _, err := r.NextRawPart(); err != io.EOF {
		t.Errorf("after the last part: %v", err)
	}
}

func TestEmptyBlob(t *testing.T) {
	o := origintest.New()
	empty := o.PutBlob("library/app", origintest.Bytes(nil))
	p := start(t, o)
	for range 2 {
		for _, ranges := range []string{"", "bytes=0-", "bytes=5-9", "bytes=-3", "bytes=0-1,2-3"} {
			a := p.get(t, blob("app", empty.Digest()), "Range", ranges)
			a.is(t, 200, nil)
			a.has(t, "Content-Length", "0", "Etag", `"`+empty.Digest().String()+`"`)
		}
	}
	p.do(t, http.MethodHead, blob("app", empty.Digest())).has(t, "Content-Length", "0")
}

// 200 requests for several ranges of a cold blob: every part is right, and the hub sends few bytes twice.
func TestManyRangesOfAColdBlob(t *testing.T) {
	const size = 8 << 20
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(7, size))
	p := start(t, o)
	b := content.Bytes()
	var group sync.WaitGroup
	for client := range 8 {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(client), 1))
			for range 25 {
				header, parts := randomRanges(rng, size)
				p.get(t, blob("app", content.Digest()), "Range", header).several(t, b, parts)
			}
		})
	}
	group.Wait()
	if sent := o.Sent(content.Digest()).Total(); sent > size+size/4 {
		t.Errorf("the hub sent %d bytes of %d", sent, size)
	}
}

func randomRanges(rng *rand.Rand, size int64) (header string, parts [][2]int64) {
	var texts []string
	for range 2 + rng.IntN(15) {
		off, n := rng.Int64N(size-70_000), 1+rng.Int64N(64<<10)
		if rng.IntN(8) == 0 {
			texts = append(texts, fmt.Sprintf("-%d", n))
			parts = append(parts, [2]int64{size - n, size})
			continue
		}
		texts = append(texts, fmt.Sprintf("%d-%d", off, off+n-1))
		parts = append(parts, [2]int64{off, off + n})
	}
	return "bytes=" + strings.Join(texts, ","), parts
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

// Who asks for a part of a blob that is not held costs the hub that part and little more.
func TestPartOfAColdBlob(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(10, 32<<20))
	p := start(t, o)
	for _, ranges := range []string{"bytes=16777216-16778215", "bytes=16777216-16777300,16777000-16777100", "bytes=-1"} {
		if a := p.get(t, blob("app", content.Digest()), "Range", ranges); a.StatusCode != 206 || a.err != nil {
			t.Errorf("%s: %d %v", ranges, a.StatusCode, a.err)
		}
	}
	if err := o.AwaitIdle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := o.Sent(content.Digest()).Total(); n > 4<<20 {
		t.Errorf("the hub sent %d bytes", n)
	}
}

// "bytes=0-", which some clients send with everything, costs no question about the size.
func TestRangeFromTheStart(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(11, 1<<20))
	p := start(t, o)
	a := p.get(t, blob("app", content.Digest()), "Range", "bytes=0-")
	a.is(t, 206, content.Bytes())
	a.has(t, "Content-Range", fmt.Sprintf("bytes 0-%d/%d", 1<<20-1, 1<<20))
	if n := o.Count(origintest.HEAD); n != 0 {
		t.Errorf("%d times HEAD", n)
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

// A tag that could not be asked for again is served, and says that it is old.
func TestStaleTag(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{})
	p := start(t, o, func(options *cache.Options) {
		options.Fresh = func(cache.Ref) time.Duration { return 0 }
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

func TestTags(t *testing.T) {
	o := origintest.New()
	o.Behave(origintest.Manners{PageSize: 3})
	img := o.PutImage("org/app", "v0", origintest.Spec{})
	want := []string{"v0"}
	for i := 1; i < 10; i++ {
		want = append(want, fmt.Sprintf("v%d", i))
		o.Tag("org/app", want[i], img.Top.Digest)
	}
	p := start(t, o)
	for _, base := range []string{"/v2/org/app/tags/list", "/v2/hub.test/org/app/tags/list", "/hub.test/v2/org/app/tags/list",
		"/v2/org/app/tags/list?ns=hub.test"} {
		for _, n := range []int{1, 3, 4, 10, 11, 1000} {
			if got := p.pages(t, base, n); !slices.Equal(got, want) {
				t.Errorf("%s by %d: %v", base, n, got)
			}
		}
	}
	for query, want := range map[string][]string{
		"": want, "?n=": nil, "?n=0": {}, "?n=2": want[:2], "?n=2&last=v4": want[5:7], "?last=v8": want[9:], "?last=v9": {},
		"?last=v41": want[5:], "?last=zzz": {}, "?n=1&last=": want[:1], "?n=1000000000": want, "?n=2147483648": want,
		"?n=9223372036854775808": want, "?n=99999999999999999999999999": want, "?n=-1": nil, "?n=x": nil, "?n=1e3": nil,
		"?n=1&n=2": nil, "?n=0x10": nil,
	} {
		a := p.get(t, "/v2/org/app/tags/list"+query)
		if want == nil {
			if a.StatusCode != 400 || code(string(a.body)) != "UNSUPPORTED" {
				t.Errorf("%s: %d %s", query, a.StatusCode, a.body)
			}
			continue
		}
		if name, tags := a.tags(t); name != "org/app" || !slices.Equal(tags, want) {
			t.Errorf("%s: %s %v", query, name, tags)
		}
		if more := a.Header.Get("Link") != ""; more != (query == "?n=2" || query == "?n=2&last=v4" || query == "?n=1&last=") {
			t.Errorf("%s: Link %q", query, a.Header.Get("Link"))
		}
	}
	a := p.get(t, "/v2/org/app/tags/list?n=2")
	a.has(t, "Content-Type", "application/json", "Link", `</v2/org/app/tags/list?n=2&last=v1>; rel="next"`)
	p.get(t, "/v2/org/app/tags/list?n=2", "If-None-Match", a.Header.Get("Etag")).is(t, 304, nil)
	p.get(t, "/v2/org/app/tags/list?n=3", "If-None-Match", a.Header.Get("Etag")).has(t, "Content-Type", "application/json")
	p.do(t, http.MethodHead, "/v2/org/app/tags/list").is(t, 200, nil)
	if a := p.get(t, "/v2/org/none/tags/list"); a.StatusCode != 404 || code(string(a.body)) != "NAME_UNKNOWN" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// tags reads a list of tags.
func (a answer) tags(t *testing.T) (name string, tags []string) {
	t.Helper()
	var list struct {
		Name string
		Tags []string
	}
	if err := json.Unmarshal(a.body, &list); err != nil || a.StatusCode != 200 || list.Tags == nil {
		t.Errorf("%s: %d %s: %v", a.Request.URL, a.StatusCode, a.body, err)
	}
	return list.Name, list.Tags
}

// pages follows the links from the first page of n tags on.
func (p *pool) pages(t *testing.T, base string, n int) (all []string) {
	t.Helper()
	sep := "?"
	if strings.Contains(base, "?") {
		sep = "&"
	}
	next := fmt.Sprintf("%s%sn=%d", base, sep, n)
	way, _, _ := strings.Cut(base, "?")
	for next != "" {
		a := p.get(t, next)
		_, tags := a.tags(t)
		if all = append(all, tags...); len(tags) > n || len(tags) == 0 {
			t.Fatalf("%s: %d tags", next, len(tags))
		}
		link := a.Header.Get("Link")
		if link == "" {
			return all
		}
		next = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
		if !strings.HasPrefix(next, way+"?") {
			t.Fatalf("from %s to %s", base, link)
		}
	}
	return all
}

// CVE-2023-2253: a registry made room for as many names as the client said it wanted.
func TestCVE_2023_2253_PageSize(t *testing.T) {
	o := origintest.New()
	o.PutImage("org/app", "v0", origintest.Spec{})
	p := start(t, o)
	p.get(t, "/v2/org/app/tags/list")
	for _, n := range []string{"1000000000", "2147483647", "9223372036854775807", "18446744073709551615"} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 {
			p.get(t, "/v2/org/app/tags/list?n="+n)
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / 10; each > 1<<20 {
			t.Errorf("n=%s: %d bytes", n, each)
		}
	}
}

func TestReferrers(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("org/app", "v0", origintest.Spec{})
	sbom := o.PutArtifact("org/app", img.Top.Descriptor, "application/spdx+json", origintest.Bytes([]byte("sbom")))
	sig := o.PutArtifact("org/app", img.Top.Descriptor, "application/vnd.sig", origintest.Bytes([]byte("sig")))
	p := start(t, o)
	path := "/v2/org/app/referrers/" + img.Top.Digest.String()
	for query, want := range map[string][]cache.Digest{
		"":                                  {sbom.Top.Digest, sig.Top.Digest},
		"?artifactType=application/vnd.sig": {sig.Top.Digest},
		"?artifactType=application%2Fspdx%2Bjson": {sbom.Top.Digest},
		"?artifactType=application/spdx+json":     {sbom.Top.Digest},
		"?artifactType=none&ns=hub.test":          {},
	} {
		a := p.get(t, path+query)
		if got := a.manifests(t); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
		filtered := ""
		if query != "" {
			filtered = "artifactType"
		}
		a.has(t, "Content-Type", origintest.OCIIndex, "Oci-Filters-Applied", filtered)
	}
	nobody := p.get(t, "/v2/org/app/referrers/"+digest)
	if got := nobody.manifests(t); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if a := p.get(t, "/v2/org/none/referrers/"+digest); len(a.manifests(t)) != 0 {
		t.Errorf("%s", a.body)
	}
	p.hub.Close()
	if got := p.get(t, path+"?artifactType=application/vnd.sig").manifests(t); len(got) != 1 {
		t.Errorf("without the hub: %v", got)
	}
}

// manifests are the digests in an index.
func (a answer) manifests(t *testing.T) []cache.Digest {
	t.Helper()
	var index struct {
		SchemaVersion int
		MediaType     string
		Manifests     []origintest.Descriptor
	}
	err := json.Unmarshal(a.body, &index)
	if err != nil || a.StatusCode != 200 || index.SchemaVersion != 2 || index.MediaType != origintest.OCIIndex || index.Manifests == nil {
		t.Errorf("%s: %d %s: %v", a.Request.URL, a.StatusCode, a.body, err)
	}
	digests := []cache.Digest{}
	for _, m := range index.Manifests {
		digests = append(digests, m.Digest)
	}
	return digests
}

// Content whose bytes turn out to be others must never arrive as a whole.
func TestWrongBytesAreCutOff(t *testing.T) {
	for name, spoil := range map[string]func(*origintest.Rule) *origintest.Rule{
		"sized":   func(r *origintest.Rule) *origintest.Rule { return r.Flip(1 << 19) },
		"chunked": func(r *origintest.Rule) *origintest.Rule { return r.Flip(1 << 19).NoLength() },
	} {
		t.Run(name, func(t *testing.T) {
			o := origintest.New()
			content := o.PutBlob("library/app", origintest.Synthetic(5, 1<<20))
			spoil(o.When(origintest.Blob, origintest.GET))
			p := start(t, o)
			a := p.get(t, blob("app", content.Digest()))
			if a.StatusCode == 200 && a.err == nil {
				t.Errorf("%d bytes came as if they were the whole", len(a.body))
			}
			if x := p.last(1); !x.Torn && x.Status < 500 || x.Err == nil {
				t.Errorf("%+v", x)
			}
			o.Heal()
			p.get(t, blob("app", content.Digest())).is(t, 200, content.Bytes())
		})
	}
}

// To an HTTP/1.0 client the end of the connection is the end of the content, so it gets nothing before all is proven.
func TestHTTP10(t *testing.T) {
	o := origintest.New()
	good := o.PutBlob("library/app", origintest.Synthetic(6, 4<<20))
	bad := o.PutBlob("library/app", origintest.Synthetic(8, 4<<20))
	o.When(origintest.Of(bad.Digest()), origintest.GET).Flip(3 << 20).Pace(16 << 20) // so that the door is ahead of it
	o.When(origintest.Of(good.Digest()), origintest.GET).NoLength().Pace(16 << 20)
	p := start(t, o)
	res, body := p.old(t, blob("app", good.Digest()), "")
	if res.StatusCode != 200 || !bytes.Equal(body, good.Bytes()) || res.ContentLength != good.Size() {
		t.Errorf("%d, %d bytes, length %d", res.StatusCode, len(body), res.ContentLength)
	}
	res, body = p.old(t, blob("app", good.Digest()), "Range: bytes=1000-1999\r\n")
	if res.StatusCode != 206 || !bytes.Equal(body, good.Bytes()[1000:2000]) {
		t.Errorf("%d, %d bytes", res.StatusCode, len(body))
	}
	res, body = p.old(t, blob("app", bad.Digest()), "")
	if res.StatusCode != 502 || code(string(body)) != "CORRUPT" {
		t.Errorf("%d, %d bytes", res.StatusCode, len(body))
	}
}

// old asks as an HTTP/1.0 client.
func (p *pool) old(t *testing.T, path, headers string) (*http.Response, []byte) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.0\r\n%s\r\n", path, headers)
	return readAnswer(t, c)
}

// The client's own context ends, and so does the wait for it; the download goes on.
func TestClientLeaves(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(9, 1<<20))
	rule := o.When(origintest.Blob, origintest.GET).Once().StallAt(0)
	p := start(t, o)
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+blob("app", content.Digest()), nil)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error)
	go func() {
		res, err := p.client.Do(r)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		left <- err
	}()
	<-rule.Reached()
	leave()
	if err := <-left; err == nil {
		t.Error("it was answered")
	}
	p.last(1)
	rule.Release()
	p.get(t, blob("app", content.Digest())).is(t, 200, content.Bytes())
	if n := o.Count(origintest.Blob, origintest.GET); n != 1 {
		t.Errorf("%d downloads", n)
	}
}
