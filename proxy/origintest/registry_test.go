package origintest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

func TestGoodAnswers(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	img := o.PutImage("a/blobs", "v1", origintest.Spec{})
	blob := img.Blobs[0]
	strong := o.PutBlob("a/blobs", origintest.Synthetic(3, 99).SHA512()).Digest()
	o.PutBlob("b", origintest.Bytes([]byte("elsewhere")))
	top, blobs := "/v2/a/blobs/manifests/v1", "/v2/a/blobs/blobs/"
	accept := []string{"Accept", "text/html, " + origintest.OCIManifest + ";q=0.5"}
	last := fmt.Sprintf("bytes %d-%d/%d", blob.Size-7, blob.Size-1, blob.Size)
	for _, c := range []struct {
		method, path string
		headers      []string
		status       int
		header, want string
	}{
		{"GET", "/v2/", nil, 200, "Content-Length", "2"},
		{"HEAD", top, accept, 200, "Content-Length", fmt.Sprint(img.Top.Size)},
		{"GET", top, accept, 200, "Content-Type", origintest.OCIManifest},
		{"GET", top, accept, 200, "Docker-Content-Digest", img.Top.Digest.String()},
		{"GET", top, append(accept, "If-None-Match", `"x", W/"`+img.Top.Digest.String()+`"`), 304, "Content-Length", ""},
		{"GET", top, append(accept, "Range", "bytes=0-3"), 200, "Content-Length", fmt.Sprint(img.Top.Size)},
		{"GET", top, nil, 404, "Content-Type", "application/json"},
		{"GET", blobs + blob.Digest.String(), nil, 200, "Etag", `"` + blob.Digest.String() + `"`},
		{"HEAD", blobs + blob.Digest.String(), nil, 200, "Content-Length", fmt.Sprint(blob.Size)},
		{"GET", blobs + blob.Digest.String(), []string{"Range", "bytes=-7"}, 206, "Content-Range", last},
		{"GET", blobs + blob.Digest.String(), []string{"Range", "bytes=0-1,4-5"}, 200, "Content-Range", ""},
		{"GET", blobs + blob.Digest.String(), []string{"Range", "bytes=5-1"}, 200, "Content-Range", ""},
		{"GET", blobs + blob.Digest.String(), []string{"Range", "bytes=3-", "If-Range", `"old"`}, 200, "Content-Range", ""},
		{"GET", blobs + blob.Digest.String(), []string{"Range", "bytes=99999-"}, 416, "Content-Range", fmt.Sprintf("bytes */%d", blob.Size)},
		{"GET", blobs + strong.String(), nil, 200, "Docker-Content-Digest", strong.String()},
		{"GET", blobs + cache.Sum([]byte("elsewhere")).String(), nil, 404, "Content-Type", "application/json"},
		{"GET", blobs + "sha256:short", nil, 400, "Content-Type", "application/json"},
		{"GET", "/v2/none/manifests/v1", nil, 404, "Content-Type", "application/json"},
		{"POST", "/v2/a/blobs/blobs/uploads/", nil, 405, "Content-Type", "application/json"},
	} {
		resp, _, err := ask(t, hub, c.method, hub.URL+c.path, c.headers...)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get(c.header); resp.StatusCode != c.status || got != c.want {
			t.Errorf("%s %s %v: %d, %s %q; want %+v", c.method, c.path, c.headers, resp.StatusCode, c.header, got, c)
		}
	}
}

func TestShortAcceptGetsAnotherImage(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	img := o.PutImage("a", "docker", origintest.Spec{Docker: true, Platforms: []string{"linux/arm64", "linux/amd64"}})
	o.PutImage("a", "oci", origintest.Spec{Platforms: []string{"linux/amd64"}})
	digest := func(ref, accept string) string {
		resp, _, err := get(t, hub, "/v2/a/manifests/"+ref, "Accept", accept)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Get("Docker-Content-Digest")
	}
	list, amd64 := img.Top.Digest.String(), img.Variants[1].Manifest.Digest.String()
	if got := digest("docker", origintest.DockerList+","+origintest.DockerManifest); got != list {
		t.Errorf("long Accept: %s", got)
	}
	if got := digest("docker", origintest.DockerManifest); got != amd64 {
		t.Errorf("short Accept: %s, want %s", got, amd64)
	}
	if got := digest(list, origintest.DockerManifest); got != list {
		t.Errorf("by digest: %s", got)
	}
	if got := digest("oci", origintest.OCIManifest); got != "" {
		t.Errorf("OCI index to one who knows none: %s", got)
	}
	o.Behave(origintest.Manners{AnyAccept: true})
	if got := digest("docker", ""); got != list {
		t.Errorf("any Accept: %s", got)
	}
}

// pages follows the links of a list.
func pages(t *testing.T, hub *origintest.Server, path string) (bodies [][]byte) {
	t.Helper()
	for next := hub.URL + path; next != ""; {
		resp, body, err := ask(t, hub, "GET", next)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %v, %v", next, resp, err)
		}
		bodies = append(bodies, body)
		link, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
		if link == "" {
			return bodies
		}
		u, err := url.Parse(next)
		if err == nil {
			u, err = u.Parse(link)
		}
		if err != nil {
			t.Fatal(err)
		}
		next = u.String()
	}
	return bodies
}

func TestTagPages(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	img := o.PutImage("a", "", origintest.Spec{})
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("v%02d", i))
		o.Tag("a", want[i], img.Top.Digest)
	}
	for _, m := range []origintest.Manners{{}, {PageSize: 10}, {PageSize: 10, AbsoluteLinks: true}} {
		o.Behave(m)
		var got []string
		all := pages(t, hub, "/v2/a/tags/list?n=12")
		for _, b := range all {
			var page struct{ Tags []string }
			if err := json.Unmarshal(b, &page); err != nil {
				t.Fatal(err)
			}
			got = append(got, page.Tags...)
		}
		if !slices.Equal(got, want) || len(all) != 3 {
			t.Errorf("%+v: %d pages, %v", m, len(all), got)
		}
	}
	if resp, _, _ := get(t, hub, "/v2/a/tags/list?n=-1"); resp.StatusCode != 400 {
		t.Errorf("n=-1: %d", resp.StatusCode)
	}
}

func TestReferrers(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	img := o.PutImage("a", "v1", origintest.Spec{})
	for i := range 5 {
		kind := []string{"application/x.sbom", "application/x.sig"}[i%2]
		o.PutArtifact("a", img.Top.Descriptor, kind, origintest.Synthetic(uint64(i), 100))
	}
	count := func(path string) (n int, filtered bool) {
		for _, b := range pages(t, hub, path) {
			var page struct{ Manifests []origintest.Descriptor }
			if err := json.Unmarshal(b, &page); err != nil || page.Manifests == nil {
				t.Fatalf("%s: %v", b, err)
			}
			n += len(page.Manifests)
		}
		resp, _, _ := get(t, hub, path)
		return n, resp.Header.Get("OCI-Filters-Applied") != ""
	}
	path := "/v2/a/referrers/" + img.Top.Digest.String()
	filter := path + "?artifactType=" + url.QueryEscape("application/x.sig")
	fallback := strings.Replace(img.Top.Digest.String(), ":", "-", 1)
	for _, c := range []struct {
		manners  origintest.Manners
		path     string
		n        int
		filtered bool
	}{
		{origintest.Manners{}, path, 5, false},
		{origintest.Manners{}, filter, 2, true},
		{origintest.Manners{PageSize: 1}, filter, 2, true},
		{origintest.Manners{NoFilter: true, PageSize: 2, AbsoluteLinks: true}, filter, 5, false},
		{origintest.Manners{}, "/v2/a/referrers/" + cache.Sum(nil).String(), 0, false},
		{origintest.Manners{NoReferrers: true, AnyAccept: true}, "/v2/a/manifests/" + fallback, 5, false},
	} {
		o.Behave(c.manners)
		if n, filtered := count(c.path); n != c.n || filtered != c.filtered {
			t.Errorf("%+v %s: %d, filtered %v; want %d, %v", c.manners, c.path, n, filtered, c.n, c.filtered)
		}
	}
	if resp, _, _ := get(t, hub, path); resp.StatusCode != 404 {
		t.Errorf("without the API: %d", resp.StatusCode)
	}
	if _, body, _ := get(t, hub, "/v2/a/manifests/"+img.Top.Digest.String()); !img.Top.Digest.Names(body) {
		t.Errorf("the subject itself: %s", body)
	}
}

func TestSchema1(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	d := o.PutSchema1("a", "old").Digest()
	resp, body, err := get(t, hub, "/v2/a/manifests/old")
	if err != nil || resp.Header.Get("Content-Type") != origintest.DockerSchema1 || d.Names(body) {
		t.Errorf("%v, %v", resp, err)
	}
	if resp.Header.Get("Docker-Content-Digest") != d.String() {
		t.Errorf("digest %s", resp.Header.Get("Docker-Content-Digest"))
	}
}

func TestRateLimit(t *testing.T) {
	bubble(t, func(t *testing.T, o *origintest.Origin, client *http.Client) {
		o.PutImage("a", "v1", origintest.Spec{})
		o.Behave(origintest.Manners{AnyAccept: true})
		o.RateLimit(2, 6*time.Hour, "192.0.2.1")
		pull := func(method string) (int, string) {
			req, _ := http.NewRequestWithContext(t.Context(), method, "http://hub.test/v2/a/manifests/v1", nil)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			return resp.StatusCode, resp.Header.Get("ratelimit-remaining")
		}
		for i, c := range []struct {
			method string
			status int
			left   string
		}{
			{"HEAD", 200, "2;w=21600"}, {"GET", 200, "1;w=21600"}, {"GET", 200, "0;w=21600"},
			{"GET", 429, "0;w=21600"}, {"HEAD", 200, "0;w=21600"},
		} {
			if status, left := pull(c.method); status != c.status || left != c.left {
				t.Errorf("%d: %d, %q left; want %+v", i, status, left, c)
			}
		}
		time.Sleep(6 * time.Hour)
		if status, left := pull("GET"); status != 200 || left != "1;w=21600" {
			t.Errorf("the next day: %d, %q left", status, left)
		}
	})
}

func TestBasic(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	img := o.PutImage("a", "v1", origintest.Spec{})
	o.PutImage("b", "v1", origintest.Spec{})
	o.RequireBasic()
	o.Account("ann", "secret", "a")
	for login, want := range map[string]int{"": 401, "ann:wrong@": 401, "ann:secret@": 200} {
		resp, _, err := ask(t, hub, "GET", "http://"+login+hub.Addr()+"/v2/a/blobs/"+img.Blobs[0].Digest.String())
		if err != nil || resp.StatusCode != want {
			t.Errorf("%q: %v, %v", login, resp, err)
		}
	}
	resp, _, _ := ask(t, hub, "GET", "http://ann:secret@"+hub.Addr()+"/v2/b/blobs/"+img.Blobs[0].Digest.String())
	if resp.StatusCode != 403 {
		t.Errorf("another's: %d", resp.StatusCode)
	}
	if n := o.Count(origintest.Where((*origintest.Request).Authorized)); n != 3 {
		t.Errorf("%d requests with a login, want 3", n)
	}
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n origintest.Net
		o := origintest.New()
		hub := origintest.ServeIn(t, &n, "hub.test:80", o)
		auth := origintest.ServeIn(t, &n, "auth.test:80", o)
		o.PutImage("public", "v1", origintest.Spec{})
		o.PutImage("private", "v1", origintest.Spec{})
		o.Behave(origintest.Manners{AnyAccept: true})
		o.Account("ann", "secret")
		o.Private("private")
		o.RequireToken(origintest.TokenServer{
			Realm: auth.URL + "/token", Life: time.Minute,
			Answer: func(m map[string]any) { delete(m, "token") },
		})
		token := func(login, repo string) string {
			_, body, err := ask(t, auth, "GET", "http://"+login+"auth.test/token?service=origintest&scope=repository:"+repo+":pull")
			var m struct {
				Token       string
				AccessToken string `json:"access_token"`
			}
			if err != nil || json.Unmarshal(body, &m) != nil || m.Token != "" {
				t.Fatalf("%s, %v", body, err)
			}
			return m.AccessToken
		}
		pull := func(repo, token string) (int, string) {
			resp, _, err := get(t, hub, "/v2/"+repo+"/manifests/v1", "Authorization", "Bearer "+token)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, resp.Header.Get("WWW-Authenticate")
		}
		resp, _, _ := get(t, hub, "/v2/public/manifests/v1")
		want := `Bearer realm="http://auth.test:80/token",service="origintest",scope="repository:public:pull"`
		if got := resp.Header.Get("WWW-Authenticate"); got != want {
			t.Errorf("challenge %s", got)
		}
		anyone, ann := token("", "public"), token("ann:secret@", "private")
		for i, c := range []struct {
			repo, token string
			status      int
			says        string
		}{
			{"public", anyone, 200, ""},
			{"private", token("", "private"), 401, "insufficient_scope"},
			{"private", anyone, 401, "insufficient_scope"},
			{"private", ann, 200, ""},
			{"public", ann + "x", 401, "invalid_token"},
		} {
			if status, says := pull(c.repo, c.token); status != c.status || !strings.Contains(says, c.says) {
				t.Errorf("%d: %d, %s", i, status, says)
			}
		}
		if resp, _, _ := ask(t, auth, "GET", "http://ann:wrong@auth.test/token"); resp.StatusCode != 401 {
			t.Errorf("wrong password: %d", resp.StatusCode)
		}
		time.Sleep(time.Minute)
		if status, _ := pull("public", anyone); status != 401 {
			t.Errorf("expired: %d", status)
		}
		fresh := token("", "public")
		o.RevokeTokens()
		if status, _ := pull("public", fresh); status != 401 {
			t.Errorf("revoked: %d", status)
		}
	})
}

func TestCDN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n origintest.Net
		o := origintest.New()
		hub := origintest.ServeIn(t, &n, "hub.test:80", o)
		cdn := origintest.ServeIn(t, &n, "cdn.test:80", o)
		blob := o.PutBlob("a/b", origintest.Synthetic(1, 1000))
		o.RedirectBlobs(cdn.URL, time.Minute)
		resp, _, err := get(t, hub, "/v2/a/b/blobs/"+blob.Digest().String())
		if err != nil || resp.StatusCode != 307 {
			t.Fatalf("%v, %v", resp, err)
		}
		there := resp.Header.Get("Location")
		_, body, err := ask(t, cdn, "GET", there, "Range", "bytes=990-")
		if err != nil || len(body) != 10 {
			t.Errorf("%d bytes, %v", len(body), err)
		}
		if c := o.Sent(blob.Digest()); c.Total() != 10 {
			t.Errorf("coverage %v", c)
		}
		if resp, _, _ := ask(t, cdn, "GET", there, "Authorization", "Bearer x"); resp.StatusCode != 400 {
			t.Errorf("two ways to authorize: %d", resp.StatusCode)
		}
		if resp, _, _ := ask(t, cdn, "GET", strings.Replace(there, "expires=", "expires=9", 1)); resp.StatusCode != 403 {
			t.Errorf("forged: %d", resp.StatusCode)
		}
		time.Sleep(time.Minute)
		if resp, _, _ := ask(t, cdn, "GET", there); resp.StatusCode != 403 {
			t.Errorf("expired: %d", resp.StatusCode)
		}
		if n := o.Count(origintest.CDN, origintest.Host(cdn.Addr())); n != 4 {
			t.Errorf("%d requests to the CDN, want 4", n)
		}
	})
}
