package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

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
