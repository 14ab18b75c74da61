package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// The same bytes must not be an image to one and an index to another: what could be read as both is refused, and the
// type that content is served with follows from its bytes, whatever an upstream calls it.
func TestCVE_2021_41190_TypeConfusion(t *testing.T) {
	const image, index = `"config":{},"layers":[]`, `"manifests":[]`
	for name, c := range map[string]struct{ mediaType, body string }{
		"image and index":       {origintest.OCIManifest, `{"schemaVersion":2,` + image + `,` + index + `}`},
		"index with layers":     {origintest.OCIIndex, `{"schemaVersion":2,"mediaType":"` + origintest.OCIIndex + `",` + index + `,"layers":[]}`},
		"image called an index": {origintest.OCIIndex, `{"schemaVersion":2,"mediaType":"` + origintest.OCIManifest + `",` + image + `}`},
		"index called an image": {origintest.OCIManifest, `{"schemaVersion":2,"mediaType":"` + origintest.OCIIndex + `",` + index + `}`},
		"key there twice":       {origintest.OCIManifest, `{"schemaVersion":2,` + image + `,"layers":[{"size":1}]}`},
		"key in capitals":       {origintest.OCIManifest, `{"schemaVersion":2,"config":{},"Layers":[]}`},
		"manifests in capitals": {origintest.OCIManifest, `{"schemaVersion":2,` + image + `,"MANIFESTS":[]}`},
		"byte order mark":       {origintest.OCIManifest, "\xef\xbb\xbf" + `{"schemaVersion":2,` + image + `}`},
		"something behind":      {origintest.OCIManifest, `{"schemaVersion":2,` + image + `} {}`},
		"an array":              {origintest.OCIManifest, `[]`},
		"schema 1":              {origintest.DockerSchema1, `{"schemaVersion":1,"fsLayers":[]}`},
		"schema 1 called image": {origintest.OCIManifest, `{"schemaVersion":1,"fsLayers":[]}`},
		"neither of both":       {origintest.OCIManifest, `{"schemaVersion":2}`},
		"too many layers":       {origintest.OCIManifest, `{"schemaVersion":2,"config":{},"layers":[` + strings.Repeat(`{"digest":"`+otherDigest+`","size":1},`, 11_000) + `{}]}`},
	} {
		bubble(t, name, func(t *testing.T) {
			o := origintest.New()
			o.Behave(origintest.Manners{AnyAccept: true})
			doc := o.PutManifest(repo, "latest", c.mediaType, origintest.Bytes([]byte(c.body)))
			w := inBubble(t, o)
			for range 2 {
				w.get(manifestPath("latest")).refuses(t, http.StatusUnsupportedMediaType, "UNSUPPORTED")
				w.get(digestPath(doc.Digest())).refuses(t, http.StatusUnsupportedMediaType, "UNSUPPORTED")
			}
		})
	}
	bubble(t, "type follows from the bytes", func(t *testing.T) {
		o := origintest.New()
		o.Behave(origintest.Manners{AnyAccept: true})
		img := o.PutImage(repo, "latest", origintest.Spec{})
		o.When(origintest.Manifest).Header("Content-Type", "application/vnd.example+json; charset=utf-8")
		w := inBubble(t, o)
		for _, path := range []string{manifestPath("latest"), digestPath(img.Top.Digest)} {
			a := w.get(path)
			a.brings(t, img.Top.Content)
			a.has(t, "Content-Type", origintest.OCIManifest)
		}
	})
}

// What an upstream serves under one address says nothing of what it has under another: no error makes another kind be
// asked for, and none is served as another.
func TestKindsAreNotMixed(t *testing.T) {
	bubble(t, "kinds", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		layer := img.Variants[0].Layers[0]
		w := inBubble(t, o)
		w.pulls("latest", img)
		for range 2 {
			w.get(blobPath(img.Top.Digest)).refuses(t, http.StatusNotFound, "BLOB_UNKNOWN")
			w.get(digestPath(layer.Digest)).refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
			w.settled()
		}
		o.PutManifest(repo, "odd", origintest.OCIManifest, layer.Content) // a layer is no manifest, whatever it is called
		w.get(digestPath(layer.Digest)).refuses(t, http.StatusUnsupportedMediaType, "UNSUPPORTED")
		w.get(blobPath(layer.Digest)).brings(t, layer.Content)
		o.PutBlob(repo, img.Top.Content) // a manifest may be a blob too, without a type
		a := w.get(blobPath(img.Top.Digest))
		a.brings(t, img.Top.Content)
		a.has(t, "Content-Type", "application/octet-stream")
		w.get(digestPath(img.Top.Digest)).has(t, "Content-Type", img.Top.MediaType)
	})
	bubble(t, "errors", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		o.PutBlob(repo, img.Top.Content)
		o.When(origintest.Manifest).Status(500)
		w := inBubble(t, o)
		for _, path := range []string{manifestPath("latest"), digestPath(img.Top.Digest)} {
			w.get(path).refuses(t, http.StatusBadGateway, "UNAVAILABLE")
		}
		if n := o.Count(origintest.Blob); n > 0 {
			t.Errorf("%v", asked(o))
		}
	})
}

// A digest names content by its own algorithm only: one header that says that two are the same is no proof of it. And
// an entity tag is a text, also where it looks like a digest.
func TestDigestsAreNotBelieved(t *testing.T) {
	bubble(t, "algorithms", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		long := img.Top.Content.SHA512()
		w := inBubble(t, o)
		w.pulls("latest", img)
		w.get(digestPath(long.Digest())).refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
		o.PutManifest(repo, "long", origintest.OCIManifest, long)
		a := w.get(digestPath(long.Digest()))
		a.brings(t, long)
		a.has(t, "Docker-Content-Digest", long.Digest().String())
		w.get(digestPath(img.Top.Digest)).has(t, "Docker-Content-Digest", img.Top.Digest.String())

		o.When(origintest.Manifest).Header("Docker-Content-Digest", long.Digest().String()).Header("Etag", `"`+otherDigest+`"`)
		o.Tag(repo, "other", img.Top.Digest)
		a = w.get(manifestPath("other"))
		a.brings(t, img.Top.Content)
		a.has(t, "Docker-Content-Digest", long.Digest().String(), "Etag", `"`+long.Digest().String()+`"`)
		o.Heal()
		wrong := cache.Sum([]byte("x")).String()
		o.When(origintest.Manifest).Header("Docker-Content-Digest", strings.Replace(wrong, "sha256:", "sha512:", 1)+wrong[7:])
		o.Tag(repo, "third", img.Top.Digest)
		w.get(manifestPath("third")).refuses(t, http.StatusBadGateway, "CORRUPT")
	})
}

// watchedFS remembers every name that was not in the store's directory.
type watchedFS struct {
	*diskFS
	root string

	mu      sync.Mutex
	outside []string
}

func (d *watchedFS) see(names ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range names {
		if name != filepath.Clean(name) || name != d.root && !strings.HasPrefix(name, d.root+"/") {
			d.outside = append(d.outside, name)
		}
	}
}

func (d *watchedFS) OpenFile(name string, flag int, perm fs.FileMode) (cache.File, error) {
	d.see(name)
	return d.diskFS.OpenFile(name, flag, perm)
}

func (d *watchedFS) Rename(from, to string) error { d.see(from, to); return d.diskFS.Rename(from, to) }
func (d *watchedFS) Remove(name string) error     { d.see(name); return d.diskFS.Remove(name) }
func (d *watchedFS) Lstat(name string) (fs.FileInfo, error) {
	d.see(name)
	return d.diskFS.Lstat(name)
}

// Whatever is written into names, tags, digests, parameters and headers: no file outside the store is touched, and
// none in it has a name that a client chose.
func TestCVE_2022_47747_PathsStayInTheStore(t *testing.T) {
	bubble(t, "corpus", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		disk := &watchedFS{diskFS: new(diskFS), root: dir(t, true)}
		w := inBubble(t, o, plan{dir: disk.root, world: world{fs: disk}})
		w.pulls("latest", img)
		steps := []string{"..", "%2e%2e", "%2E%2e", "..%2f", "%2f..", "..%5c", `..\`, "%252e%252e", "%c0%ae%c0%ae", "..;", ".../", "%00", "....//", "%2F%2F..", "~", "*", "$HOME"}
		for _, step := range steps {
			up := strings.TrimSuffix(strings.Repeat(step+"/", 8), "/")
			for _, path := range []string{
				"/v2/" + up + "/etc/passwd/manifests/latest", "/v2/" + repo + "/manifests/" + up + "/etc/passwd", "/v2/" + repo + "/manifests/" + step,
				"/v2/" + repo + "/blobs/sha256:" + up, "/v2/" + repo + "/blobs/" + up + "/etc/passwd", "/v2/" + up + "/blobs/" + otherDigest,
				"/v2/" + repo + "/blobs/sha256:" + strings.Repeat("a", 62) + step, manifestPath("latest") + "?ns=" + up, "/" + up + "/v2/app/manifests/latest",
				"/v2/" + repo + "/referrers/" + up, "/v2/" + repo + "/tags/list?last=" + up + "/etc/passwd", "/v2/" + up, "/" + up + "/etc/passwd",
				"/v2/" + repo + "/blobs/uploads/" + up,
			} {
				res, err := w.raw("GET " + path + " HTTP/1.1\r\nHost: " + step + "\r\nConnection: close\r\n\r\n")
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(res, []byte("root:")) {
					t.Errorf("%s: %.200q", path, res)
				}
			}
		}
		w.settled()
		for _, name := range disk.outside {
			t.Errorf("touched %s", name)
		}
		for _, r := range o.Requests() {
			if strings.Contains(r.Path, "..") || strings.ContainsAny(r.Path, "%\\\x00") {
				t.Errorf("the upstream was asked for %q", r.Path)
			}
		}
		w.keepsOnlyTruth()
	})
}

// raw writes text to the door and returns all that comes back.
func (w *pool) raw(text string) ([]byte, error) {
	c, err := w.plan.net.DialContext(w.t.Context(), "tcp", w.addr.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	go func() { _, _ = c.Write([]byte(text)) }()
	var all bytes.Buffer
	_, _ = all.ReadFrom(c) // the end of the connection, however it comes
	return all.Bytes(), nil
}

// Nobody else on the machine reads or writes the store, however open the directory that it was given.
func TestCVE_2024_25621_StoreIsOursAlone(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	given := t.TempDir()
	if err := os.Chmod(given, 0o777); err != nil {
		t.Fatal(err)
	}
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	w := onLoopback(t, o, plan{dir: given})
	w.pulls("latest", img)
	w.close()
	err := filepath.WalkDir(filepath.Join(given, "store"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// The numbers that are shown do not grow with what clients ask for.
func TestCVE_2026_49835_LabelsAreBounded(t *testing.T) {
	bubble(t, "metrics", func(t *testing.T) {
		o := origintest.New()
		w := inBubble(t, o, plan{file: "any_upstream: true\n"})
		ask := func(i int) {
			w.get(fmt.Sprintf("/v2/org%d/app%d/manifests/tag%d", i, i, i))
			w.get(fmt.Sprintf("/v2/host%d.test/app%d/blobs/%s", i, i, cache.Sum(fmt.Append(nil, i))))
			w.do(http.MethodGet, fmt.Sprintf("/v2/?x=%d", i), "User-Agent", fmt.Sprint("agent", i), "X-Request-Id", fmt.Sprint("id", i))
			w.do(fmt.Sprint("VERB", i), "/v2/")
		}
		ask(0)
		before := bytes.Count(w.admin("/metrics").body, []byte("\n"))
		for i := range 100 {
			ask(i + 1)
		}
		after := w.admin("/metrics").body
		if n := bytes.Count(after, []byte("\n")); n > before+10 {
			t.Errorf("%d lines, then %d", before, n)
		}
		for _, text := range []string{"org1", "app1", "tag1", "host1", "agent1", "id1", "VERB1"} {
			if bytes.Contains(after, []byte(text)) {
				t.Errorf("%q is a label", text)
			}
		}
	})
}

// Requests that are larger than any client's are refused before anything is made of them, and harm nobody else.
func TestCVE_2025_58186_LargeRequests(t *testing.T) {
	bubble(t, "limits", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		w := inBubble(t, o)
		many := strings.Repeat("a=b; ", 20_000)
		for name, a := range map[string]answered{
			"cookies":    w.get(manifestPath("latest"), "Cookie", many),
			"header":     w.get(manifestPath("latest"), "X-A", strings.Repeat("x", 64<<10)),
			"path":       w.get("/v2/" + strings.Repeat("a/", 2000) + "manifests/latest"),
			"parameters": w.get("/v2/" + repo + "/tags/list?" + strings.Repeat("x=1&", 4000)),
			"tag":        w.get(manifestPath(strings.Repeat("t", 4000))),
		} {
			if a.err == nil && (a.status < 400 || a.status >= 500) {
				t.Errorf("%s: %v", name, a)
			}
		}
		if n := o.Count(); n > 0 {
			t.Errorf("%d requests upstream", n)
		}
		w.pulls("latest", img)
	})
}

// Secrets go to the upstream that they are for, and to nowhere that people look: not into answers, the log, the
// metrics or the health.
func TestCVE_2025_48374_SecretsStayInside(t *testing.T) {
	bubble(t, "canaries", func(t *testing.T) {
		const password, mine = "canary-of-the-file", "canary-of-the-client"
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		o.RequireToken(origintest.TokenServer{Answer: func(doc map[string]any) { doc["refresh_token"] = "canary-refresh" }})
		o.Private()
		o.Account("acme", password)
		var log lockedBuffer
		encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
		w := inBubble(t, o, plan{file: login(write(t, password)), log: zap.New(zapcore.NewCore(encoder, &log, zap.DebugLevel))})
		var seen bytes.Buffer
		look := func(path string) {
			a := w.get(path, "Authorization", "Basic "+mine, "Cookie", mine, "X-Registry-Auth", mine, "Proxy-Authorization", mine)
			fmt.Fprintln(&seen, a.header, string(a.body), a.err)
		}
		echo := func(r *origintest.Rule) *origintest.Rule {
			return r.Body("application/json", fmt.Appendf(nil, `{"errors":[{"code":"X","message":"you sent %s"}],"details":"%s"}`, password, password))
		}
		look(manifestPath("latest"))
		w.pulls("latest", img)
		for i, spoil := range []func(){
			func() { echo(o.When(origintest.Manifest)) },
			func() { o.When(origintest.Manifest).Redirect("http://user:" + password + "@nowhere.test/" + password) },
			func() { o.When(origintest.Manifest).Realm("http://acme:" + password + "@evil.test/token") },
			func() { echo(o.When(origintest.Token)); o.RevokeTokens() },
			func() { o.When(origintest.Token).Status(500); o.RevokeTokens() },
			func() { o.Account("acme", "another"); o.RevokeTokens() },
		} {
			spoil()
			look(manifestPath(fmt.Sprint("tag", i)))
			look(blobPath(cache.Sum(fmt.Append(nil, i))))
			o.Heal()
			time.Sleep(2 * time.Second)
		}
		for _, path := range []string{"/metrics", "/healthz?verbose", "/readyz", "/api/v1/status", "/debug/pprof/goroutine?debug=2"} {
			seen.Write(w.admin(path).body)
		}
		for where, text := range map[string]string{"answers and admin": seen.String(), "log": log.String()} {
			if i := strings.Index(text, "canary"); i >= 0 {
				t.Errorf("%s: a secret: …%.300s", where, text[max(0, i-150):])
			}
		}
		for _, r := range o.Requests() {
			for _, values := range r.Header {
				if strings.Contains(strings.Join(values, " "), mine) {
					t.Errorf("the client's login went upstream: %+v", r)
				}
			}
		}
	})
}

// lockedBuffer is a log in memory.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (*lockedBuffer) Sync() error { return nil }

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
