package cache

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	layers     = `"config":{"digest":"` + someDigest + `","size":1},"layers":[{"digest":"` + someDigest + `","size":2}]`
	manifests  = `"manifests":[{"digest":"` + someDigest + `","size":3}]`
	v2         = `"schemaVersion":2,`
)

func typed(mediaType string) string { return `"mediaType":"` + mediaType + `",` }

// Whatever an upstream calls it: what a manifest is, its bytes say, and where these can be read in two ways it is refused.
func TestCVE_2021_41190_ManifestTypes(t *testing.T) {
	const helm, html = "application/vnd.cncf.helm.config.v1+json", "text/html"
	for _, x := range []struct {
		name     string
		content  string
		called   string
		want     string // media type; "": refused
		children int
	}{
		{"image", `{` + v2 + typed(typeImage) + layers + `}`, typeImage, typeImage, 2},
		{"image, called nothing", `{` + v2 + typed(typeImage) + layers + `}`, "", typeImage, 2},
		{"image, called JSON", `{` + v2 + typed(typeImage) + layers + `}`, "application/json", typeImage, 2},
		{"image, called text", `{` + v2 + typed(typeImage) + layers + `}`, "text/plain", typeImage, 2},
		{"image, called an index", `{` + v2 + typed(typeImage) + layers + `}`, typeIndex, "", 0},
		{"image, called a docker image", `{` + v2 + typed(typeImage) + layers + `}`, typeSchema2, "", 0},
		{"image without type", `{` + v2 + layers + `}`, typeImage, typeImage, 2},
		{"image without type, called an index", `{` + v2 + layers + `}`, typeIndex, "", 0},
		{"image without type, called a list", `{` + v2 + layers + `}`, typeList, "", 0},
		{"image without type, called a docker image", `{` + v2 + layers + `}`, typeSchema2, typeImage, 2},
		{"docker image", `{` + v2 + typed(typeSchema2) + layers + `}`, typeSchema2, typeSchema2, 2},
		{"index", `{` + v2 + typed(typeIndex) + manifests + `}`, typeIndex, typeIndex, 1},
		{"index, called an image", `{` + v2 + typed(typeIndex) + manifests + `}`, typeImage, "", 0},
		{"index without type", `{` + v2 + manifests + `}`, typeIndex, typeIndex, 1},
		{"index without type, called an image", `{` + v2 + manifests + `}`, typeImage, "", 0},
		{"list", `{` + v2 + typed(typeList) + manifests + `}`, typeList, typeList, 1},
		{"artifact", `{` + typed(typeArtifact) + `"artifactType":"a/b","blobs":[{"digest":"` + someDigest + `","size":1}]}`, typeArtifact, typeArtifact, 1},
		{"of a type of its own", `{` + v2 + typed(helm) + layers + `}`, helm, helm, 2},
		{"empty image", `{` + v2 + `"layers":[]}`, "", typeImage, 0},
		{"empty index", `{` + v2 + `"manifests":[]}`, "", typeIndex, 0},
		{"digests we do not know", `{` + v2 + `"layers":[{"digest":"md5:00","size":1},{"digest":"` + someDigest + `","size":-1}]}`, "", typeImage, 0},

		{"both", `{` + v2 + layers + `,` + manifests + `}`, "", "", 0},
		{"both, typed as an image", `{` + v2 + typed(typeImage) + layers + `,` + manifests + `}`, typeImage, "", 0},
		{"both, typed as an index", `{` + v2 + typed(typeIndex) + layers + `,` + manifests + `}`, typeIndex, "", 0},
		{"layers, typed as an index", `{` + v2 + typed(typeIndex) + layers + `}`, typeIndex, "", 0},
		{"manifests, typed as an image", `{` + v2 + typed(typeImage) + manifests + `}`, typeImage, "", 0},
		{"manifests twice", `{` + v2 + manifests + `,` + manifests + `}`, "", "", 0},
		{"type twice", `{` + v2 + typed(typeImage) + typed(typeIndex) + layers + `}`, "", "", 0},
		{"other key twice", `{` + v2 + `"a":1,"a":1,` + layers + `}`, "", "", 0},
		{"key twice, once escaped", `{` + v2 + layers + `,"\u006dediaType":"x","mediaType":"y"}`, "", "", 0},
		{"folded", `{` + v2 + layers + `,"Manifests":[]}`, "", "", 0},
		{"folded type", `{` + v2 + `"MEDIATYPE":"` + typeIndex + `",` + layers + `}`, "", "", 0},
		{"folded by Unicode", `{` + v2 + layers + `,"manifestſ":[]}`, "", "", 0},
		{"folded version", `{"ſchemaVersion":1,` + layers + `}`, "", "", 0},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[]}`, typeSchema1, "", 0},
		{"schema 1, called an image", `{"schemaVersion":1,` + layers + `}`, typeSchema2, "", 0},
		{"called schema 1", `{` + v2 + layers + `}`, typeSigned1, "", 0},
		{"schema 1 by type", `{` + v2 + typed(typeSigned1) + layers + `}`, "", "", 0},
		{"a byte order mark", "\ufeff{" + v2 + layers + `}`, "", "", 0},
		{"trailing data", `{` + v2 + layers + `}{}`, "", "", 0},
		{"a trailing brace", `{` + v2 + layers + `}}`, "", "", 0},
		{"trailing zero", `{` + v2 + layers + "}\x00", "", "", 0},
		{"trailing space", `{` + v2 + layers + "}\n", "", typeImage, 2},
		{"cut", `{` + v2 + layers, "", "", 0},
		{"a list", `[{` + v2 + layers + `}]`, "", "", 0},
		{"a string", `"{}"`, "", "", 0},
		{"null", `null`, "", "", 0},
		{"nothing", ``, "", "", 0},
		{"no manifest", `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, "", "", 0},
		{"HTML", `<!DOCTYPE html><title>Sign in</title>`, "", "", 0},
		{"type of a page", `{` + v2 + typed(html) + layers + `}`, "", "", 0},
		{"type with a line break", `{` + v2 + typed(`application/x\r\nSet-Cookie: a=b`) + layers + `}`, "", "", 0},
		{"type is no string", `{` + v2 + `"mediaType":5,` + layers + `}`, "", "", 0},
		{"layers are none", `{` + v2 + `"layers":"x"}`, "", "", 0},
	} {
		h := newHub()
		ref := h.tag("docker.io", "library/a", "1", []byte(x.content))
		h.types[Sum([]byte(x.content))] = x.called
		c := open(t, h, Options{})
		for i, ref := range []Ref{ref, ref.At(Sum([]byte(x.content))), ref} {
			got, found, err := readTag(t, c, ref)
			if x.want == "" {
				if !errors.Is(err, ErrUnsupported) || c.Stats().Landed > 0 {
					t.Errorf("%s #%d: %q, %v", x.name, i, got, err)
				}
				continue
			}
			if err != nil || string(got) != x.content || found.MediaType != x.want || found.Size != int64(len(x.content)) {
				t.Errorf("%s #%d: %q, %+v, %v", x.name, i, got, found, err)
			}
		}
		if doc, _ := c.heldDocument(ref, Sum([]byte(x.content))); doc != nil && len(doc.children) != x.children {
			t.Errorf("%s: %d children", x.name, len(doc.children))
		}
	}
}

func TestLargeManifests(t *testing.T) {
	image := func(n int) []byte {
		return fmt.Appendf(nil, `{%s"layers":[],"annotations":{"a":"%s"}}`, v2, strings.Repeat("x", n))
	}
	crowd := func(n int) []byte {
		return fmt.Appendf(nil, `{%s"layers":[%s{"digest":%q,"size":1}]}`, v2,
			strings.Repeat(`{"digest":"`+someDigest+`","size":1},`, n-1), someDigest)
	}
	around := len(image(0))
	for _, x := range []struct {
		content []byte
		ok      bool
	}{
		{image(largestManifest - around), true}, {image(largestManifest - around + 1), false},
		{image(20 << 20), false}, {crowd(mostChildren), true}, {crowd(mostChildren + 1), false},
	} {
		h := newHub()
		ref := h.tag("docker.io", "library/a", "1", x.content)
		c := open(t, h, Options{})
		got, _, err := readTag(t, c, ref)
		if x.ok != (err == nil && bytes.Equal(got, x.content)) || !x.ok && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%d bytes: %d, %v", len(x.content), len(got), err)
		}
		if sent := h.bytes(Sum(x.content)); sent > largestManifest+1<<20 {
			t.Errorf("%d bytes: %d taken", len(x.content), sent)
		}
	}
}

// What a tag is said to be must be what comes.
func TestWrongDigestOfTag(t *testing.T) {
	h := newHub()
	ref := h.tag("docker.io", "library/a", "1", manifestOf(1))
	claimed := ref.At(Sum(manifestOf(2)))
	claimed.Kind = KindBlob
	h.have("docker.io", "library/a", claimed.Digest, bytes.NewReader(manifestOf(1)))
	h.tags["docker.io/library/a:1"] = claimed.Digest
	c := open(t, h, Options{})
	for _, ref := range []Ref{ref, ref.At(claimed.Digest)} {
		if got, _, err := readTag(t, c, ref); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %q, %v", ref, got, err)
		}
	}
	if c.Stats().Landed != 0 {
		t.Error("kept")
	}
}

// Answers that end early or are longer than announced.
func TestTornManifest(t *testing.T) {
	for _, bad := range []turn{{cut: 10}, {cut: 10, with: io.EOF}, {size: 5}, {size: 5000}, {flip: 40}} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			ref := h.tag("docker.io", "library/a", "1", manifestOf(1))
			h.turn = func(request) turn { return bad }
			c := open(t, h, Options{ScrubRate: -1})
			for _, ref := range []Ref{ref, ref.At(Sum(manifestOf(1)))} {
				if got, _, err := readTag(t, c, ref); err == nil {
					t.Errorf("%+v: %q", bad, got)
				}
			}
			h.set(func(h *hub) { h.turn = nil })
			time.Sleep(longestSulk)
			if got, _, err := readTag(t, c, ref); err != nil || !bytes.Equal(got, manifestOf(1)) {
				t.Errorf("%+v: after: %q, %v", bad, got, err)
			}
		})
	}
}

func TestSHA512(t *testing.T) {
	for _, size := range []int{0, 100, 1 << 20} {
		data := noise(1, size)
		sum := sha512.Sum512(data)
		d := Digest{alg: algSHA512, sum: sum}
		h := newHub()
		ref := h.have("docker.io", "library/a", d, bytes.NewReader(data))
		c := open(t, h, Options{})
		for range 2 {
			if n, _, err := pull(t.Context(), c, ref, data); err != nil {
				t.Errorf("%d bytes: %d, %v", size, n, err)
			}
		}
		d.sum[60] ^= 1
		bad := h.have("docker.io", "library/a", d, bytes.NewReader(data))
		if n, _, err := pull(t.Context(), c, bad, data); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d bytes under another digest: %d, %v", size, n, err)
		}
		if gets, _ := h.asked(); gets != 2 {
			t.Errorf("%q", h.opens)
		}
	}
	h := newHub()
	sum := sha512.Sum512(manifestOf(1))
	blob := h.have("docker.io", "library/a", Digest{alg: algSHA512, sum: sum}, bytes.NewReader(manifestOf(1)))
	blob.Kind = KindManifest
	if got, found, err := readTag(t, open(t, h, Options{}), blob); err != nil || !bytes.Equal(got, manifestOf(1)) || found.Digest != blob.Digest {
		t.Errorf("%q, %v", got, err)
	}
}

// A manifest and a blob of the same bytes: that an upstream serves one says nothing of the other.
func TestKindsApart(t *testing.T) {
	h := newHub()
	m := h.tag("docker.io", "library/a", "1", manifestOf(1)).At(Sum(manifestOf(1)))
	c := open(t, h, Options{})
	if _, _, err := readTag(t, c, m); err != nil {
		t.Fatal(err)
	}
	h.set(func(h *hub) {
		h.head = func(r request) error {
			if r.ref.Kind == KindBlob {
				return ErrNotFound
			}
			return nil
		}
	})
	blob := m
	blob.Kind = KindBlob
	if n, _, err := pull(t.Context(), c, blob, manifestOf(1)); !errors.Is(err, ErrNotFound) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := c.Stat(t.Context(), blob); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	// And a blob that is no manifest is none because somebody asks for one.
	page := h.put("docker.io", "library/a", []byte("<html>"))
	h.set(func(h *hub) { h.head = nil })
	if n, _, err := pull(t.Context(), c, page, []byte("<html>")); err != nil {
		t.Fatal(n, err)
	}
	page.Kind = KindManifest
	if _, _, err := readTag(t, c, page); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

// HEAD of a layer needs no upstream where a manifest of the repository tells its size.
func TestSizeFromManifest(t *testing.T) {
	h := newHub()
	layer := noise(2, 1<<20)
	ref := h.put("docker.io", "library/a", layer)
	m := h.tag("docker.io", "library/a", "1", fmt.Appendf(nil, `{%s"layers":[{"digest":%q,"size":%d}]}`, v2, ref.Digest, len(layer)))
	c := open(t, h, Options{})
	if _, _, err := readTag(t, c, m); err != nil {
		t.Fatal(err)
	}
	found, err := c.Stat(t.Context(), ref)
	if gets, heads := h.asked(); err != nil || found.Size != int64(len(layer)) || gets != 1 || heads != 0 {
		t.Errorf("%+v, %v; %q, %q", found, err, h.opens, h.heads)
	}
	for _, other := range []Ref{{Registry: "ghcr.io", Repo: ref.Repo, Digest: ref.Digest}, {Registry: ref.Registry, Repo: "x", Digest: ref.Digest}} {
		if found, err := c.Stat(t.Context(), other); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %+v, %v", other, found, err)
		}
	}
	if found, err := c.Stat(WithCaller(t.Context(), "bob"), ref); err != nil || found.From != FromUpstream {
		t.Errorf("another caller: %+v, %v", found, err)
	}
}

// Lists are names with content.
func TestLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		tags := Ref{Registry: "docker.io", Repo: "library/a", Kind: KindTags}
		referrers := Ref{Registry: "docker.io", Repo: "library/a", Kind: KindReferrers, Digest: Sum(nil)}
		h.lists[tags] = []byte(`{"name":"library/a","tags":["1"]}`)
		h.lists[referrers] = []byte(`{` + v2 + `"manifests":[]}`)
		c := open(t, h, Options{ScrubRate: -1})
		read := func(when string, ref Ref, stale bool) {
			t.Helper()
			got, found, err := readTag(t, c, ref)
			if err != nil || !bytes.Equal(got, h.lists[ref]) || found.Stale() != stale || found.Digest != Sum(got) ||
				stale && found.From != FromMemory {
				t.Errorf("%s: %q, %+v, %v", when, got, found, err)
			}
		}
		for range 2 {
			read("tags", tags, false)
			read("referrers", referrers, false)
		}
		if gets, heads := h.asked(); gets != 2 || heads != 0 {
			t.Errorf("%q, %q", h.opens, h.heads)
		}
		time.Sleep(defaultFresh)
		h.set(func(h *hub) { h.lists[tags] = []byte(`{"name":"library/a","tags":["1","2"]}`) })
		read("moved", tags, false)
		time.Sleep(defaultFresh)
		h.set(func(h *hub) { h.down = true })
		read("out of reach", tags, true)
		h.set(func(h *hub) { h.down = false })
		c.memory.drop(Sum(h.lists[tags]))
		h.lists[tags] = []byte(`[`)
		time.Sleep(defaultFresh)
		if got, found, err := readTag(t, c, tags); err != nil || !found.Stale() {
			t.Errorf("no JSON: %q, %+v, %v", got, found, err)
		}
		// Where the content is not held any more, what the name was is of no use.
		h.lists[tags] = []byte(`{"name":"library/a","tags":["3"]}`)
		time.Sleep(defaultFresh)
		read("content there", tags, false)
		time.Sleep(time.Second)
		h.lists[tags] = []byte(`{"name":"library/a","tags":["4"]}`)
		d := Sum([]byte(`{"name":"library/a","tags":["3"]}`))
		c.memory.drop(d)
		hd, ok := c.disk.open(d)
		if !ok {
			t.Fatal("not on disk")
		}
		c.disk.bad(hd.entry, errors.New("lost"))
		_ = hd.Close()
		read("content lost", tags, false)
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{`+v2+typed(typeImage)+layers+`}`), typeImage)
	f.Add([]byte(`{`+v2+manifests+`}`), typeIndex)
	f.Add([]byte(`{`+v2+layers+`,"manifestſ":[]}`), "")
	f.Fuzz(func(t *testing.T, b []byte, called string) {
		doc, err := parse(KindManifest, b)
		if err != nil {
			if !errors.Is(err, ErrUnsupported) {
				t.Error(err)
			}
			return
		}
		// What we take it for, everybody does who reads it strictly or by folding keys, and whatever it is called.
		var m map[string]json.RawMessage
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatalf("no JSON object was taken for a %s", doc.MediaType)
		}
		index, image := m["manifests"] != nil, m["layers"] != nil || m["config"] != nil || m["blobs"] != nil
		for key := range m {
			index = index || strings.EqualFold(key, "manifests")
			image = image || strings.EqualFold(key, "layers")
		}
		if index && image || !mediaType(doc.MediaType) || len(doc.children) > mostChildren {
			t.Fatalf("taken for a %q: %s", doc.MediaType, b)
		}
		isIndex := doc.MediaType == typeIndex || doc.MediaType == typeList
		isImage := doc.MediaType == typeImage || doc.MediaType == typeSchema2 || doc.MediaType == typeArtifact
		if isIndex && image || isImage && index {
			t.Fatalf("taken for a %q: %s", doc.MediaType, b)
		}
		if doc.agrees(called) == nil && (isIndex && (called == typeImage || called == typeSchema2) || isImage && (called == typeIndex || called == typeList)) {
			t.Fatalf("called %q, taken for a %q: %s", called, doc.MediaType, b)
		}
	})
}
