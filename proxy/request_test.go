package proxy

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
)

const (
	hex256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	sha256 = "sha256:" + hex256
	sha512 = "sha512:" + hex256 + hex256
)

// testNames is a house with one of each kind of upstream.
var testNames = Names{
	Upstreams: map[string]Upstream{
		"docker.io":          {Library: true},
		"ghcr.io":            {},
		"registry.corp:5000": {},
		"localhost:5000":     {},
		"plain":              {},
		"all":                {Prefix: true},
	},
	Default: "docker.io",
	Hosts:   map[string]string{"ghcr.mirror.corp": "ghcr.io", "hub.corp:8443": "docker.io"},
}

// get is a request as net/http's server would make it of a first line, a Host and nothing else.
func get(t testing.TB, host, target string) *http.Request {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Request{Method: http.MethodGet, URL: u, Host: host, Header: http.Header{}}
}

func TestWaysIn(t *testing.T) {
	const here = "127.0.0.1:5000"
	for _, c := range []struct{ host, target, want string }{
		// No host: the default upstream, where short names live under library/.
		{here, "/v2/library/alpine/manifests/3", "docker.io/library/alpine:3"},
		{here, "/v2/alpine/manifests/3", "docker.io/library/alpine:3"},
		{here, "/v2/alpine/blobs/" + sha256, "docker.io/library/alpine@" + sha256},
		{here, "/v2/alpine/tags/list", "docker.io/library/alpine (tags)"},
		{here, "/v2/org/a/b/c/d/e/manifests/v1", "docker.io/org/a/b/c/d/e:v1"},
		{here, "/v2/bitnami/redis/referrers/" + sha512, "docker.io/bitnami/redis@" + sha512 + " (referrers)"},

		// Names whose components look like verbs are read from their end.
		{here, "/v2/blobs/manifests/tags/manifests/manifests", "docker.io/blobs/manifests/tags:manifests"},
		{here, "/v2/a/tags/list/tags/list", "docker.io/a/tags/list (tags)"},
		{here, "/v2/manifests/blobs/blobs/" + sha256, "docker.io/manifests/blobs@" + sha256},
		{here, "/v2/v2/v2/manifests/v2", "docker.io/v2/v2:v2"},

		// The ns parameter.
		{here, "/v2/org/img/manifests/v1?ns=ghcr.io", "ghcr.io/org/img:v1"},
		{here, "/v2/alpine/manifests/3?ns=docker.io", "docker.io/library/alpine:3"},
		{here, "/v2/alpine/manifests/3?ns=index.docker.io", "docker.io/library/alpine:3"},
		{here, "/v2/alpine/manifests/3?x=1&ns=registry-1.docker.io", "docker.io/library/alpine:3"},
		{here, "/v2/alpine/manifests/3?ns=GHCR.io", "ghcr.io/alpine:3"},
		{here, "/v2/a/b/manifests/3?ns=registry.corp%3A5000", "registry.corp:5000/a/b:3"},
		{here, "/v2/a/manifests/3?ns=plain", "plain/a:3"},

		// A path prefix behind /v2/.
		{here, "/v2/ghcr.io/org/img/manifests/v1", "ghcr.io/org/img:v1"},
		{here, "/v2/docker.io/alpine/manifests/3", "docker.io/library/alpine:3"},
		{here, "/v2/index.docker.io/alpine/manifests/3", "docker.io/library/alpine:3"},
		{here, "/v2/registry.corp:5000/a/manifests/3", "registry.corp:5000/a:3"},
		{here, "/v2/localhost:5000/a/manifests/3", "localhost:5000/a:3"},
		{here, "/v2/localhost%3a5000/a/blobs/sha256%3A" + hex256, "localhost:5000/a@" + sha256},
		{here, "/v2/all/a/manifests/3", "all/a:3"},
		{here, "/v2/plain/a/manifests/3", "docker.io/plain/a:3"},         // no dot, and it does not say that it is a prefix
		{here, "/v2/ghcr.io/manifests/3", "docker.io/library/ghcr.io:3"}, // alone it is no host, as in docker's names

		// And before it, where it can be nothing else.
		{here, "/ghcr.io/v2/org/img/manifests/v1", "ghcr.io/org/img:v1"},
		{here, "/docker.io/v2/alpine/manifests/3", "docker.io/library/alpine:3"},
		{here, "/registry-1.docker.io/v2/alpine/manifests/3", "docker.io/library/alpine:3"},
		{here, "/plain/v2/a/manifests/3", "plain/a:3"},
		{here, "/all/v2/a/manifests/3", "all/a:3"},

		// The Host header, where it is configured.
		{"ghcr.mirror.corp", "/v2/org/img/manifests/v1", "ghcr.io/org/img:v1"},
		{"GHCR.Mirror.Corp:5000", "/v2/org/img/manifests/v1", "ghcr.io/org/img:v1"},
		{"hub.corp:8443", "/v2/alpine/manifests/3", "docker.io/library/alpine:3"},
		{"hub.corp", "/v2/ghcr.io/a/manifests/3", "ghcr.io/a:3"}, // configured with its port only

		// Precedence: ns, Host, path; what is left is the repository.
		{"ghcr.mirror.corp", "/v2/a/manifests/3?ns=plain", "plain/a:3"},
		{"ghcr.mirror.corp", "/v2/docker.io/a/manifests/3", "ghcr.io/docker.io/a:3"},
		{here, "/v2/ghcr.io/a/manifests/3?ns=plain", "plain/ghcr.io/a:3"},
		{here, "/docker.io/v2/a/b/manifests/3?ns=ghcr.io", "ghcr.io/a/b:3"},

		// What says the same registry twice means it once: a mirror URL with a path, and containerd's ns.
		{here, "/v2/ghcr.io/org/img/manifests/v1?ns=ghcr.io", "ghcr.io/org/img:v1"},
		{here, "/ghcr.io/v2/org/img/manifests/v1?ns=ghcr.io", "ghcr.io/org/img:v1"},
		{here, "/v2/docker.io/library/alpine/manifests/3?ns=registry-1.docker.io", "docker.io/library/alpine:3"},
		{"ghcr.mirror.corp", "/v2/ghcr.io/org/img/manifests/v1", "ghcr.io/org/img:v1"},
		{here, "/v2/all/a/manifests/3?ns=all", "all/all/a:3"}, // a name without a dot may be a repository's own
	} {
		ask, err := testNames.read(get(t, c.host, c.target))
		if err != nil {
			t.Errorf("%s %s: %v", c.host, c.target, err)
		} else if got := ask.ref.String(); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.host, c.target, got, c.want)
		}
	}
}

func TestRoot(t *testing.T) {
	for _, target := range []string{"/v2", "/v2/", "/ghcr.io/v2/", "/ghcr.io/v2", "/plain/v2/", "/v2/?ns=ghcr.io"} {
		if ask, err := testNames.read(get(t, "", target)); err != nil || !ask.root {
			t.Errorf("%s: root %v, %v", target, ask.root, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	long := strings.Repeat("a", maxPath)
	for _, c := range []struct {
		target string
		verdict
	}{
		{"/", routeUnknown},
		{"/v1/", routeUnknown},
		{"/v2/alpine", routeUnknown},
		{"/v2/manifests/latest", routeUnknown},
		{"/v2/_catalog", routeUnknown},
		{"/v2/alpine/manifests", routeUnknown},
		{"/v2/alpine/manifests/latest/", routeUnknown},
		{"/v2/alpine/tags/lists", routeUnknown},
		{"/v2/alpine/blobs/uploads/", routeUnknown},
		{"/unknown/v2/alpine/manifests/3", routeUnknown},
		{"/a/b/v2/alpine/manifests/3", routeUnknown},
		{"http://evil.example/v2", verdict{}}, // an absolute target is read like any other
		{"http://evil.example", routeUnknown},

		{"/v2/quay.io/a/manifests/3", denied},
		{"/v2/localhost/a/manifests/3", denied},
		{"/v2/127.0.0.1:22/a/manifests/3", denied},
		{"/quay.io/v2/a/manifests/3", denied},
		{"/quay.io/v2/", denied},
		{"/v2/a/manifests/3?ns=quay.io", denied},
		{"/v2/a/manifests/3?ns=", nameInvalid},
		{"/v2/a/manifests/3?ns=ghcr.io.", denied},
		{"/v2/a/manifests/3?ns=ghcr.io:443", denied},
		{"/v2/a/manifests/3?ns=http://169.254.169.254/", denied},
		{"/v2/a/manifests/3?ns=ghcr.io%00", denied},
		{"/v2/a/manifests/3?ns=ghcr.io%2f..%2f..", denied},
		{"/v2/a/manifests/3?ns=ghcr.io@evil.example", denied},

		{"/v2/Alpine/manifests/3", nameInvalid},
		{"/v2/a//b/manifests/3", nameInvalid},
		{"/v2//a/manifests/3", nameInvalid},
		{"/v2/a/manifests/manifests/3/manifests/3;x", tagInvalid},
		{"/v2/a;b/manifests/3", nameInvalid},
		{"/v2/a%2fb/manifests/3", nameInvalid},
		{"/v2/%61lpine/manifests/3", nameInvalid},
		{"/v2/a/manifests/3%00", nameInvalid},
		{"/v2/ghcr.io//a/manifests/3", nameInvalid},
		{"/v2/ghcr.io/Org/manifests/3", nameInvalid},
		{"/v2/a:b/c/manifests/3", denied}, // a colon makes it a host

		{"/v2/alpine/manifests/" + strings.Repeat("t", 129), tagInvalid},
		{"/v2/alpine/manifests/-t", tagInvalid},
		{"/v2/alpine/manifests/.t", tagInvalid},
		{"/v2/alpine/manifests/a+b", tagInvalid},
		{"/v2/alpine/manifests/latest@" + sha256, digestInvalid},

		{"/v2/" + long + "/manifests/3", nameTooLong},
		{"/v2/a/manifests/3?x=" + strings.Repeat("x", maxQuery), nameTooLong},
		{"/v2/a/manifests/3?ns=ghcr.io&ns=docker.io", paramInvalid},
		{"/v2/a/tags/list?n=1&n=2", paramInvalid},
		{"/v2/a/tags/list?last=%zz", paramInvalid},
	} {
		checkVerdict(t, &testNames, c.target, c.verdict)
	}
}

// checkVerdict checks how a target is refused; the zero verdict: not at all.
func checkVerdict(t *testing.T, n *Names, target string, want verdict) {
	t.Helper()
	_, err := n.read(get(t, "127.0.0.1:5000", target))
	var r *refusal
	switch {
	case err == nil && want == verdict{}:
	case !errors.As(err, &r):
		t.Errorf("%.80s: %v, want it refused with %v", target, err, want)
	case r.verdict != want:
		t.Errorf("%.80s: refused with %v (%v), want %v", target, r.verdict, r, want)
	}
}

// What cannot be a digest must be refused before anything is made of it: libraries have panicked on such, and file
// names were made from it.
func TestCVE_2024_3727_Digests(t *testing.T) {
	for _, d := range []string{
		"sha256:", "sha256:" + hex256[1:], sha256 + "0", "sha256:" + strings.ToUpper(hex256), "SHA256:" + hex256,
		"sha384:" + hex256 + hex256[:32], "md5:" + hex256[:32], "sha256:../../../../etc/passwd", ":" + hex256,
		"sha256+b64:" + hex256, "sha512:" + hex256, "sha256:" + sha256, "sha256:" + hex256[:63] + "g", "sha256:baddigeststring",
	} {
		if strings.Contains(d, "/") {
			checkVerdict(t, &testNames, "/v2/alpine/blobs/"+d, routeUnknown)
			continue
		}
		checkVerdict(t, &testNames, "/v2/alpine/blobs/"+d, digestInvalid)
		checkVerdict(t, &testNames, "/v2/alpine/manifests/"+d, digestInvalid)
		checkVerdict(t, &testNames, "/v2/alpine/referrers/"+d, digestInvalid)
	}
	checkVerdict(t, &testNames, "/v2/alpine/blobs/sha256%2f"+hex256, nameInvalid)
}

func TestAnyUpstream(t *testing.T) {
	n := testNames
	n.Any = true
	for _, c := range []struct{ target, want string }{
		{"/v2/quay.io/a/b/manifests/3", "quay.io/a/b:3"},
		{"/v2/quay.io:8443/a/manifests/3", "quay.io:8443/a:3"},
		{"/quay.io/v2/a/manifests/3", "quay.io/a:3"},
		{"/v2/a/manifests/3?ns=quay.io", "quay.io/a:3"},
		{"/v2/a/manifests/3?ns=QUAY.IO", "quay.io/a:3"},
		{"/v2/quay.io/a/manifests/3?ns=quay.io", "quay.io/a:3"},
		{"/v2/localhost/a/manifests/3", "localhost/a:3"}, // the dialer refuses it
		{"/v2/alpine/manifests/3", "docker.io/library/alpine:3"},
	} {
		ask, err := n.read(get(t, "quay.io", c.target)) // a Host that is not configured means nothing
		if err != nil || ask.ref.String() != c.want {
			t.Errorf("%s: %v, %v; want %s", c.target, ask.ref, err, c.want)
		}
	}
	for _, ns := range []string{
		"", "quay", "quay..io", ".quay.io", "quay.io.", "-quay.io", "quay-.io", "quay.io:", "quay.io:0", "quay.io:65536",
		"quay.io:80:80", "user@quay.io", "quay.io/path", "quay.io%3fx", "quay.io%23x", "qu%61y.io%20", "q_y.io", "[::1]:80",
		"quay.io%5c.evil", "quay.io%0d%0ax", strings.Repeat("a.", 127) + "io", strings.Repeat("a", 64) + ".io",
	} {
		checkVerdict(t, &n, "/v2/a/manifests/3?ns="+ns, nameInvalid)
	}
}

func TestNoDefault(t *testing.T) {
	n := testNames
	n.Default = ""
	checkVerdict(t, &n, "/v2/alpine/manifests/3", nameUnknown)
	checkVerdict(t, &n, "/v2/ghcr.io/alpine/manifests/3", verdict{})
}

// CVE-2024-4956 and its like: the text of a request reached the file system. Whatever a name, a tag, a digest or ns
// says, what comes out is refused or made of components that are no dots.
func TestCVE_2024_4956_Traversal(t *testing.T) {
	var steps []string
	for _, dot := range []string{".", "%2e", "%252e", "%c0%ae", "%uff0e"} {
		for _, slash := range []string{"/", "%2f", "%2F%2F", "%5c", "\\", "%252f", "//", "/./", ";/"} {
			steps = append(steps, dot+dot+slash, slash+dot+dot+slash, dot+dot+dot+dot+slash+slash)
		}
	}
	tried := 0
	for _, step := range steps {
		evil := strings.Repeat(step, 6) + "etc/passwd"
		for _, target := range []string{
			"/v2/" + evil + "/manifests/3", "/v2/a/" + evil + "/manifests/3", "/v2/a/manifests/" + evil,
			"/v2/a/blobs/" + evil, "/v2/a/blobs/sha256:" + evil, "/v2/ghcr.io/" + evil + "/blobs/" + sha256,
			"/" + evil + "/v2/a/manifests/3", "/v2/" + evil, evil, "/v2/a/manifests/3?ns=" + evil, "/v2/../v2/a/" + evil,
		} {
			u, err := url.ParseRequestURI(target)
			if err != nil {
				continue // net/http answers 400 by itself
			}
			tried++
			r := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}
			if ask, err := testNames.read(r); err == nil {
				t.Errorf("%s means %v", target, ask.ref)
			}
		}
	}
	if tried < 200 {
		t.Errorf("only %d targets came as far as the grammar", tried)
	}
}

// Two spellings that mean the same content must be the same Ref, and two that differ upstream must not (CVE-2024-6915
// was a cache that mixed them). What is equal here is equal upstream, because an upstream's URL is made of the Ref.
func TestCVE_2024_6915_Spellings(t *testing.T) {
	same := []string{
		"/v2/library/alpine/manifests/3", "/v2/alpine/manifests/3", "/v2/docker.io/alpine/manifests/3",
		"/docker.io/v2/alpine/manifests/3", "/v2/alpine/manifests/3?ns=docker.io", "/v2/alpine/manifests/3?n=5&x=y",
		"/v2/alpine/manifests/3?ns=index.docker.io&utm=1",
	}
	first, err := testNames.read(get(t, "", same[0]))
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range same[1:] {
		if ask, err := testNames.read(get(t, "", target)); err != nil || ask.ref != first.ref {
			t.Errorf("%s: %v, %v; want %v", target, ask.ref, err, first.ref)
		}
	}
	seen := map[cache.Ref]string{}
	for _, target := range []string{
		"/v2/alpine/manifests/3", "/v2/alpine/manifests/latest", "/v2/alpine/manifests/" + sha256, "/v2/alpine/blobs/" + sha256,
		"/v2/alpine/referrers/" + sha256, "/v2/alpine/tags/list", "/v2/library/library/alpine/manifests/3",
		"/v2/ghcr.io/alpine/manifests/3", "/v2/alpine/manifests/" + sha512, "/v2/al-pine/manifests/3",
	} {
		ask, err := testNames.read(get(t, "", target))
		if err != nil {
			t.Errorf("%s: %v", target, err)
		}
		if other, ok := seen[ask.ref]; ok {
			t.Errorf("%s and %s are both %v", target, other, ask.ref)
		}
		seen[ask.ref] = target
	}
}

// Host, X-Forwarded-Host and Forwarded are the client's to choose: they must not choose content.
func TestHostHeaderChoosesNothing(t *testing.T) {
	want, err := testNames.read(get(t, "127.0.0.1:5000", "/v2/alpine/manifests/3"))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"", "evil.example", "ghcr.io", "quay.io:443", "ghcr.mirror.corp.evil.example", "[::1]:5000",
		"xghcr.mirror.corp", "hub.corp:8444"} {
		r := get(t, host, "/v2/alpine/manifests/3")
		for _, h := range []string{"X-Forwarded-Host", "X-Forwarded-Server", "X-Original-Host", "X-Host", "X-Original-Url"} {
			r.Header.Set(h, "ghcr.mirror.corp")
		}
		r.Header.Set("Forwarded", "host=ghcr.mirror.corp")
		if ask, err := testNames.read(r); err != nil || ask.ref != want.ref {
			t.Errorf("Host %q: %v, %v", host, ask.ref, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, target := range []string{
		"/v2/", "/v2/alpine/manifests/3", "/v2/ghcr.io/a/b/blobs/" + sha256, "/ghcr.io/v2/a/tags/list?n=3&last=x",
		"/v2/a/referrers/" + sha512 + "?artifactType=a%2Fb&ns=docker.io", "/v2/localhost:5000/a__b/manifests/x",
		"/v2/..%2f/manifests/3", "/v2/a//b/blobs/sha256:00", "/v2/all/x/manifests/_", "//v2/a/manifests/3",
	} {
		f.Add("ghcr.mirror.corp", target, true)
		f.Add("127.0.0.1:5000", target, false)
	}
	f.Fuzz(func(t *testing.T, host, target string, anyUpstream bool) {
		if _, err := url.ParseRequestURI(target); err != nil {
			return // net/http answers 400 by itself
		}
		n := testNames
		n.Any = anyUpstream
		ask, err := n.read(get(t, host, target))
		if err != nil || ask.root {
			return
		}
		ref := ask.ref
		if _, known := n.Upstreams[ref.Registry]; !known && !(anyUpstream && validHost(ref.Registry)) {
			t.Errorf("%q asks %q, which is no upstream", target, ref.Registry)
		}
		if !validName(ref.Repo) {
			t.Errorf("%q is about the repository %q", target, ref.Repo)
		}
		if ref.Digest.String() != ask.digest || ref.Kind == cache.KindManifest && ask.digest == "" && !validTag(ref.Tag) {
			t.Errorf("%q is about %v", target, ref)
		}
		// The plainest spelling of what was read is read the same: there is one reading.
		again, err := n.read(get(t, "", canonicalTarget(ref)))
		if err != nil || again.ref != ref {
			t.Errorf("%q is %v, and %q is %v (%v)", target, ref, canonicalTarget(ref), again.ref, err)
		}
	})
}

// canonicalTarget spells ref out in the one way that leaves nothing to be decided: a second first component that names
// the registry once more is there to be taken off.
func canonicalTarget(ref cache.Ref) string {
	repo := ref.Repo
	if looksLikeHost(ref.Registry) {
		repo = ref.Registry + "/" + repo
	}
	last := map[cache.Kind]string{cache.KindTags: "tags/list", cache.KindReferrers: "referrers/", cache.KindBlob: "blobs/",
		cache.KindManifest: "manifests/"}[ref.Kind]
	return "/v2/" + repo + "/" + last + ref.Tag + ref.Digest.String() + "?ns=" + url.QueryEscape(ref.Registry)
}

func BenchmarkRead(b *testing.B) {
	for _, target := range []string{
		"/v2/library/alpine/manifests/3.20", "/v2/ghcr.io/org/team/image/blobs/" + sha256, "/v2/library/alpine/blobs/" + sha256 + "?ns=docker.io",
	} {
		b.Run(target[4:18], func(b *testing.B) {
			r := get(b, "127.0.0.1:5000", target)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := testNames.read(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
