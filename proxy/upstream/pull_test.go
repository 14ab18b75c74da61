package upstream_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

func TestManifests(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}})
	h := hubs(t, upstream.Options{Version: "1.2"}, at(origintest.Serve(t, o)))

	for _, m := range img.Manifests {
		ref := tagRef("").At(m.Digest)
		a, err := h.Resolve(t.Context(), ref, cache.Whole)
		if err != nil || a.Desc != (cache.Desc{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}) || a.Body != nil {
			t.Errorf("%s: %+v, %v", ref, a, err)
		}
		a, b, err := slurp(t.Context(), h, ref, cache.Whole)
		if err != nil || a.MediaType != m.MediaType || !m.Digest.Names(b) {
			t.Errorf("%s: %+v, %v", ref, a, err)
		}
	}
	a, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	if err != nil || a.Digest != img.Top.Digest || a.Size != img.Top.Size {
		t.Errorf("by tag: %+v, %v", a, err)
	}
	if n := o.Count(origintest.GET); n != len(img.Manifests) {
		t.Errorf("%d GETs: resolving needs none", n)
	}
	for _, r := range o.Requests() {
		if got := r.Header.Get("Accept"); strings.Count(got, ",") != 4 {
			t.Errorf("%s %s: Accept is %q, want the whole list", r.Method, r.Path, got)
		}
		if r.Header.Get("User-Agent") != "tidepool/1.2" || r.Header.Get("Accept-Encoding") != "identity" || r.Header.Get("Via") != "1.1 tidepool" {
			t.Errorf("%s %s: %v", r.Method, r.Path, r.Header)
		}
	}
}

func TestUnchanged(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	known := cache.Want{N: -1, Known: img.Top.Digest}

	_, err := h.Resolve(t.Context(), tagRef("latest"), known)
	wantErr(t, err, cache.ErrUnchanged)
	_, err = h.Open(t.Context(), tagRef("latest"), known)
	wantErr(t, err, cache.ErrUnchanged)

	o.When(origintest.HEAD).Status(http.StatusMethodNotAllowed)
	_, err = h.Resolve(t.Context(), tagRef("latest"), known)
	wantErr(t, err, cache.ErrUnchanged)
	for _, r := range o.Requests(origintest.GET) {
		if got := r.Header.Get("If-None-Match"); got != `"`+img.Top.Digest.String()+`"` {
			t.Errorf("If-None-Match is %q", got)
		}
	}
	for _, kind := range []cache.Ref{tagsRef(), referrersRef(img.Top.Digest)} {
		a, err := h.Resolve(t.Context(), kind, cache.Whole)
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.Resolve(t.Context(), kind, cache.Want{N: -1, Known: a.Digest})
		wantErr(t, err, cache.ErrUnchanged)
	}
}

// A HEAD that does not tell is followed by a GET, which hands its body over.
func TestResolveByGET(t *testing.T) {
	head := []origintest.Match{origintest.Manifest, origintest.HEAD}
	for name, spoil := range map[string]func(*origintest.Origin){
		"no HEAD":        func(o *origintest.Origin) { o.When(head...).Status(405) },
		"no digest":      func(o *origintest.Origin) { o.When().Header("Docker-Content-Digest", "") },
		"no good digest": func(o *origintest.Origin) { o.When(head...).Header("Docker-Content-Digest", "sha256:12") },
		"odd digest": func(o *origintest.Origin) {
			o.When().Header("Docker-Content-Digest", "md5:d41d8cd98f00b204e9800998ecf8427e")
		},
		"no type in HEAD": func(o *origintest.Origin) { o.When(head...).Header("Content-Type", "application/octet-stream") },
	} {
		t.Run(name, func(t *testing.T) {
			o := origintest.New()
			img := o.PutImage(repo, "latest", origintest.Spec{})
			spoil(o)
			h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
			a, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Body.Close()
			b, err := io.ReadAll(a.Body)
			if err != nil || a.Digest != img.Top.Digest || a.Size != img.Top.Size || !img.Top.Digest.Names(b) {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
}

func TestBlobs(t *testing.T) {
	o := origintest.New()
	c := o.PutBlob(repo, origintest.Synthetic(1, 1<<20))
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	a, err := h.Resolve(t.Context(), blobRef(c.Digest()), cache.Whole)
	if err != nil || a.Size != c.Size() || a.Digest != c.Digest() {
		t.Fatalf("%+v, %v", a, err)
	}
	for _, w := range []cache.Want{cache.Whole, {Off: 1, N: -1}, {Off: 0, N: 10}, {Off: 1000, N: 5000}, {Off: c.Size() - 1, N: 1}, {Off: c.Size() - 5, N: 100}} {
		a, err := h.Open(t.Context(), blobRef(c.Digest()), w)
		if err != nil {
			t.Fatalf("%+v: %v", w, err)
		}
		err = c.Compare(a.Body, w.Off, min(w.N, c.Size()-w.Off))
		if a.Size != c.Size() || a.Off != w.Off || err != nil {
			t.Errorf("%+v: %+v, %v", w, a, err)
		}
		a.Body.Close()
	}
	for _, r := range o.Requests(origintest.GET) {
		if r.Proto != "HTTP/1.1" {
			t.Errorf("a blob came over %s", r.Proto)
		}
	}
}

// A blob's body comes over HTTP/1.1 though the hub has HTTP/2, which everything else uses.
func TestBlobsOverHTTP1(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	s := origintest.ServeTLS(t, o, origintest.TLS{})
	c := at(s)
	c.CAFile = file(t, "ca.pem", s.CA.PEM())
	h := hubs(t, upstream.Options{}, c)
	mustSlurp(t, h, tagRef("latest"))
	mustSlurp(t, h, blobRef(img.Blobs[0].Digest))
	for _, r := range o.Requests() {
		if want := map[origintest.Kind]string{origintest.Manifest: "HTTP/2.0", origintest.Blob: "HTTP/1.1"}[r.Kind]; r.Proto != want {
			t.Errorf("%s over %s, want %s", r.Kind, r.Proto, want)
		}
	}
}

func TestEmptyBlob(t *testing.T) {
	o := origintest.New()
	c := o.PutBlob(repo, origintest.Bytes(nil))
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	for _, head := range []string{"with HEAD", "without"} {
		a, err := h.Resolve(t.Context(), blobRef(c.Digest()), cache.Whole)
		if err != nil || a.Size != 0 {
			t.Errorf("%s: %+v, %v", head, a, err)
		}
		o.When(origintest.HEAD).Status(404)
	}
	if b := mustSlurp(t, h, blobRef(c.Digest())); len(b) != 0 {
		t.Errorf("%d bytes", len(b))
	}
}

// A cache in front of a hub says 404 to the HEAD of what it has not fetched yet.
func TestHEADOfBlobIsNotBelieved(t *testing.T) {
	head := []origintest.Match{origintest.Blob, origintest.HEAD}
	for name, spoil := range map[string]func(*origintest.Origin){
		"404":       func(o *origintest.Origin) { o.When(head...).Status(404) },
		"405":       func(o *origintest.Origin) { o.When(head...).Status(405) },
		"501":       func(o *origintest.Origin) { o.When(head...).Status(501) },
		"no length": func(o *origintest.Origin) { o.When(head...).Header("Content-Length", "") },
		"no Range either": func(o *origintest.Origin) {
			o.When(head...).Status(404)
			o.When(origintest.Blob, origintest.GET).NoRange()
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := origintest.New()
			c := o.PutBlob(repo, origintest.Synthetic(2, 300_000))
			spoil(o)
			h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
			a, err := h.Resolve(t.Context(), blobRef(c.Digest()), cache.Whole)
			if err != nil || a.Size != c.Size() || a.Off != 0 {
				t.Errorf("%+v, %v", a, err)
			}
			if gets := o.Requests(origintest.GET); len(gets) > 1 || len(gets) == 1 && gets[0].Range != "bytes=0-0" {
				t.Errorf("%+v", gets)
			}
		})
	}
	o := origintest.New()
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	_, err := h.Resolve(t.Context(), blobRef(cache.Sum([]byte("nowhere"))), cache.Whole)
	wantErr(t, err, cache.ErrNotFound)
}

func TestAnswersRefused(t *testing.T) {
	big := bytes.Repeat([]byte(" "), 4<<20+1)
	for name, c := range map[string]struct {
		spoil func(r *origintest.Rule)
		kind  error
		says  string
	}{
		"HTML":                {func(r *origintest.Rule) { r.HTML() }, cache.ErrUnavailable, "web page"},
		"HTML as XHTML":       {func(r *origintest.Rule) { r.Body("application/xhtml+xml; charset=utf-8", []byte("<p>")) }, cache.ErrUnavailable, "web page"},
		"JSON error with 200": {func(r *origintest.Rule) { r.Body("application/json", []byte(`{"errors":[]}`)) }, cache.ErrUnavailable, "another type"},
		"no type":             {func(r *origintest.Rule) { r.Header("Content-Type", "") }, cache.ErrUnavailable, "another type"},
		"204":                 {func(r *origintest.Rule) { r.NoContent() }, cache.ErrUnavailable, "answered 204"},
		"206 unasked":         {func(r *origintest.Rule) { r.Partial(0, 5) }, cache.ErrUnavailable, "not asked for"},
		"304 unasked":         {func(r *origintest.Rule) { r.Status(304) }, cache.ErrUnavailable, "304"},
		"empty":               {func(r *origintest.Rule) { r.Empty() }, cache.ErrUnavailable, ""},
		"gzip":                {func(r *origintest.Rule) { r.Gzip() }, cache.ErrUnavailable, `"gzip"`},
		"schema 1":            {func(r *origintest.Rule) { r.Body(origintest.DockerSchema1, []byte("{}")) }, cache.ErrUnsupported, "schema 1"},
		"over 4 MiB":          {func(r *origintest.Rule) { r.Body(origintest.OCIManifest, big) }, cache.ErrUnsupported, "4 MiB"},
		"endless":             {func(r *origintest.Rule) { r.Endless() }, cache.ErrUnsupported, "4 MiB"},
		"flipped":             {func(r *origintest.Rule) { r.Flip(3) }, cache.ErrCorrupt, ""},
		"cut":                 {func(r *origintest.Rule) { r.Times(2).CutAt(9) }, io.ErrUnexpectedEOF, ""},
		"too short":           {func(r *origintest.Rule) { r.Times(2).Length(10) }, io.ErrUnexpectedEOF, "ended"},
		"cut, no length":      {func(r *origintest.Rule) { r.Times(2).NoLength().CutAt(9) }, io.ErrUnexpectedEOF, ""},
		"hangs up":            {func(r *origintest.Rule) { r.Drop() }, cache.ErrUnavailable, ""},
		"500":                 {func(r *origintest.Rule) { r.Status(500) }, cache.ErrUnavailable, "answered 500"},
		"400":                 {func(r *origintest.Rule) { r.Status(400) }, cache.ErrUnavailable, "answered 400"},
		"403":                 {func(r *origintest.Rule) { r.Status(403) }, cache.ErrDenied, "answered 403"},
		"404":                 {func(r *origintest.Rule) { r.Status(404) }, cache.ErrNotFound, "answered 404"},
		"410":                 {func(r *origintest.Rule) { r.Status(410) }, cache.ErrNotFound, "answered 410"},
		"508":                 {func(r *origintest.Rule) { r.Status(508) }, cache.ErrUnavailable, "loop"},
		"our own Via":         {func(r *origintest.Rule) { r.Header("Via", "1.1 nginx, 1.1 tidepool (x)") }, cache.ErrUnavailable, "loop"},
	} {
		t.Run(name, func(t *testing.T) {
			o := origintest.New()
			img := o.PutImage(repo, "latest", origintest.Spec{})
			c.spoil(o.When(origintest.Manifest, origintest.GET).Once())
			h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
			_, _, err := slurp(soon(t), h, tagRef("").At(img.Top.Digest), cache.Whole)
			wantErr(t, err, c.kind, c.says)
			if got := mustSlurp(t, h, tagRef("latest")); !img.Top.Digest.Names(got) {
				t.Error("the next pull brought other bytes")
			}
		})
	}
}

func TestBlobAnswersRefused(t *testing.T) {
	part := cache.Want{Off: 1000, N: 500}
	for name, c := range map[string]struct {
		spoil func(r *origintest.Rule)
		want  cache.Want
		kind  error
	}{
		"HTML":               {func(r *origintest.Rule) { r.HTML() }, cache.Whole, cache.ErrUnavailable},
		"204":                {func(r *origintest.Rule) { r.NoContent() }, cache.Whole, cache.ErrUnavailable},
		"206 unasked":        {func(r *origintest.Rule) { r.Partial(0, 500) }, cache.Whole, cache.ErrUnavailable},
		"another part":       {func(r *origintest.Rule) { r.Partial(500, 500) }, part, cache.ErrUnavailable},
		"more than the part": {func(r *origintest.Rule) { r.Partial(1000, 501) }, part, cache.ErrUnavailable},
		"which part?":        {func(r *origintest.Rule) { r.Header("Content-Range", "") }, part, cache.ErrUnavailable},
		"mad part":           {func(r *origintest.Rule) { r.Header("Content-Range", "bytes 1000-1499/7") }, part, cache.ErrUnavailable},
		"several parts": {func(r *origintest.Rule) {
			r.Header("Content-Range", "").Header("Content-Type", "multipart/byteranges; boundary=x")
		}, part, cache.ErrUnavailable},
		"416":            {func(r *origintest.Rule) { r.Status(416) }, part, cache.ErrUnavailable},
		"gzip":           {func(r *origintest.Rule) { r.Gzip() }, cache.Whole, cache.ErrUnavailable},
		"gzipped part":   {func(r *origintest.Rule) { r.Header("Content-Encoding", "br") }, part, cache.ErrUnavailable},
		"cut":            {func(r *origintest.Rule) { r.CutAt(1000) }, cache.Whole, io.ErrUnexpectedEOF},
		"cut part":       {func(r *origintest.Rule) { r.CutAt(100) }, part, io.ErrUnexpectedEOF},
		"cut, no length": {func(r *origintest.Rule) { r.NoLength().CutAt(1000) }, cache.Whole, io.ErrUnexpectedEOF},
		"reset":          {func(r *origintest.Rule) { r.ResetAt(1000) }, cache.Whole, cache.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			o := origintest.New()
			blob := o.PutBlob(repo, origintest.Synthetic(3, 1<<20))
			c.spoil(o.When(origintest.Blob, origintest.GET).Once())
			h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
			_, b, err := slurp(soon(t), h, blobRef(blob.Digest()), c.want)
			wantErr(t, err, c.kind)
			wantErr(t, err, cache.ErrUnavailable)
			if err := blob.Compare(bytes.NewReader(b), c.want.Off, int64(len(b))); err != nil {
				t.Errorf("what came before the error: %v", err)
			}
			if got := mustSlurp(t, h, blobRef(blob.Digest())); !blob.Digest().Names(got) {
				t.Error("the next pull brought other bytes")
			}
		})
	}
}

// An error whose text never ends is cut, in bytes and in time.
func TestEndlessError(t *testing.T) {
	for name, pause := range map[string]time.Duration{"fast": 0, "slow": 10 * time.Millisecond} {
		s := raw(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusInternalServerError)
			for {
				if _, err := io.WriteString(w, strings.Repeat("all is lost ", 100)); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(pause):
				}
			}
		})
		h := hubs(t, upstream.Options{}, upstream.Config{Endpoints: []string{s}})
		_, err := h.Open(soon(t), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "answered 500: all is lost all is lost")
		if n := len(err.Error()); n > 400 {
			t.Errorf("%s: %d bytes of text", name, n)
		}
	}
}

// A manifest that is said to be too large, or of schema 1, is refused before it is fetched.
func TestRefusedByHEAD(t *testing.T) {
	for header, value := range map[string]string{"Content-Length": "4194305", "Content-Type": origintest.DockerSchema1} {
		o := origintest.New()
		o.PutImage(repo, "latest", origintest.Spec{})
		o.When(origintest.HEAD).Header(header, value)
		h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
		_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnsupported)
		if o.Count(origintest.GET) != 0 {
			t.Error("it was fetched")
		}
	}
}

// A hub that ignores Range, or does not tell a length, is served right.
func TestOddButLegal(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(4, 200_000))
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))

	r := o.When(origintest.Blob).NoRange()
	a, b, err := slurp(t.Context(), h, blobRef(blob.Digest()), cache.Want{Off: 1000, N: 10})
	if err != nil || a.Off != 0 || a.Size != blob.Size() || !blob.Digest().Names(b) {
		t.Errorf("without Range: %+v, %v", a, err)
	}
	r.End()

	r = o.When(origintest.Blob).NoLength()
	a, b, err = slurp(t.Context(), h, blobRef(blob.Digest()), cache.Whole)
	if err != nil || a.Size != -1 || !blob.Digest().Names(b) {
		t.Errorf("without a length: %+v, %v", a, err)
	}
	a, b, err = slurp(t.Context(), h, blobRef(blob.Digest()), cache.Want{Off: 7, N: 10})
	if err != nil || a.Size != blob.Size() || a.Off != 7 || len(b) != 10 {
		t.Errorf("a part without a length: %+v, %d bytes, %v", a, len(b), err)
	}
	r.End()

	o.When(origintest.Blob).Header("Content-Encoding", "identity")
	if got := mustSlurp(t, h, blobRef(blob.Digest())); !blob.Digest().Names(got) {
		t.Error("identity is no encoding")
	}
}

// A hub that says that a blob ends before what is wanted of it begins contradicts what somebody was told.
func TestEndsBeforeWhatIsWanted(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(4, 1000))
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	_, err := h.Open(t.Context(), blobRef(blob.Digest()), cache.Want{Off: 1000, N: 10})
	wantErr(t, err, cache.ErrCorrupt, "ends before byte 1000")
	o.When(origintest.Blob).Status(416) // which says no size
	_, err = h.Open(t.Context(), blobRef(blob.Digest()), cache.Want{Off: 1000, N: 10})
	wantErr(t, err, cache.ErrUnavailable, "answered 416")
}

// What follows the announced end of a part is not handed on, and is an error.
func TestLongerThanAnnounced(t *testing.T) {
	s := raw(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", "bytes 10-19/100")
		w.WriteHeader(http.StatusPartialContent)
		w.(http.Flusher).Flush() // so that there is no Content-Length
		fmt.Fprint(w, strings.Repeat("x", 15))
	})
	h := hubs(t, upstream.Options{}, upstream.Config{Endpoints: []string{s}})
	_, b, err := slurp(t.Context(), h, blobRef(cache.Sum(nil)), cache.Want{Off: 10, N: 10})
	wantErr(t, err, cache.ErrUnavailable, "longer than announced")
	if len(b) != 10 {
		t.Errorf("%d bytes", len(b))
	}
}

func TestHeldOnlyAsksNobody(t *testing.T) {
	h := hubs(t, upstream.Options{}, upstream.Config{Endpoints: []string{origintest.Dead(t)}})
	for name, err := range map[string]error{
		"resolve": second(h.Resolve(t.Context(), tagRef("x"), cache.Want{HeldOnly: true})),
		"open":    second(h.Open(t.Context(), tagRef("x"), cache.Want{HeldOnly: true})),
	} {
		if !errors.Is(err, cache.ErrNotHeld) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ cache.Answer, err error) error { return err }

func TestRefsThatNameNothing(t *testing.T) {
	o := origintest.New()
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	d := cache.Sum(nil)
	for _, r := range []cache.Ref{
		{Repo: "", Kind: cache.KindTags},
		{Repo: "../x", Kind: cache.KindTags},
		{Repo: "a/../b", Kind: cache.KindTags},
		{Repo: "a//b", Kind: cache.KindTags},
		{Repo: "a/./b", Kind: cache.KindTags},
		{Repo: "a/b?x=1", Kind: cache.KindTags},
		{Repo: "a%2fb", Kind: cache.KindTags},
		{Repo: "a\r\nb", Kind: cache.KindTags},
		{Repo: strings.Repeat("a", 256), Kind: cache.KindTags},
		{Repo: "a", Kind: cache.KindManifest},
		{Repo: "a", Kind: cache.KindManifest, Tag: "x/../../y"},
		{Repo: "a", Kind: cache.KindManifest, Tag: "x", Digest: d},
		{Repo: "a", Kind: cache.KindManifest, Tag: ".."},
		{Repo: "a", Kind: cache.KindBlob, Tag: "x"},
		{Repo: "a", Kind: cache.KindReferrers},
	} {
		r.Registry = "reg.test"
		_, err := h.Open(t.Context(), r, cache.Whole)
		wantErr(t, err, cache.ErrUnsupported)
	}
	if n := o.Count(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestHopsArePassedOn(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	h := hubs(t, upstream.Options{ID: "edge-7"}, at(origintest.Serve(t, o)))
	ctx := cache.WithHops(t.Context(), "1.1 branch-3")
	if _, err := h.Resolve(ctx, tagRef("latest"), cache.Whole); err != nil {
		t.Fatal(err)
	}
	if got := o.Requests()[0].Header.Get("Via"); got != "1.1 branch-3, 1.1 edge-7" {
		t.Errorf("Via is %q", got)
	}
}

// An answer out of another cache is as old as that says.
func TestAge(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	a, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	if err != nil || !a.AsOf.IsZero() {
		t.Errorf("just now: %v, %v", a.AsOf, err)
	}
	o.When().Header("Age", "3600")
	for _, ref := range []cache.Ref{tagRef("latest"), tagsRef()} {
		a, err = h.Resolve(t.Context(), ref, cache.Whole)
		if age := time.Since(a.AsOf); err != nil || age < time.Hour || age > time.Hour+time.Minute {
			t.Errorf("%s: %v old, %v", ref, age, err)
		}
	}
}

// The addresses in a manifest are content, and nobody goes there: neither with our login nor without.
func TestCVE_2020_15157_DescriptorURLs(t *testing.T) {
	evil := origintest.New()
	e := origintest.Serve(t, evil)
	o := origintest.New()
	o.Account("acme", canary)
	o.RequireBasic()
	layer := o.PutBlob(repo, origintest.Synthetic(5, 1000))
	doc := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x","digest":%q,"size":1000},"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","digest":%q,"size":1000,"urls":[%q]}]}`,
		origintest.OCIManifest, layer.Digest(), layer.Digest(), e.URL+"/layer")
	o.PutManifest(repo, "latest", origintest.OCIManifest, origintest.Bytes(doc))
	c := at(origintest.Serve(t, o))
	c.Credentials = []upstream.Credential{{Username: "acme", Password: canary}}
	h := hubs(t, upstream.Options{}, c)
	if got := mustSlurp(t, h, tagRef("latest")); !slices.Equal(got, doc) {
		t.Error("the manifest changed on its way")
	}
	mustSlurp(t, h, blobRef(layer.Digest()))
	if n := evil.Count(); n != 0 {
		t.Errorf("%d requests to the address in the manifest", n)
	}
}
