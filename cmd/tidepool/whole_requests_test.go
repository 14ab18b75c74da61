package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// asked are the requests that came to o since it last forgot, in words: "HEAD manifests/latest". They are sorted,
// because layers are pulled at once.
func asked(o *origintest.Origin) []string {
	var all []string
	for _, r := range o.Requests() {
		_, tail, _ := strings.Cut(r.Path, "/"+repo+"/")
		if r.Query != "" {
			tail += "?" + r.Query
		}
		if r.Range != "" {
			tail += " " + r.Range
		}
		all = append(all, r.Method+" "+tail)
	}
	slices.Sort(all)
	return all
}

// costs has o forget, does something, and checks what that asked of o.
func costs(t *testing.T, o *origintest.Origin, what string, do func(), want ...string) {
	t.Helper()
	o.Forget()
	do()
	slices.Sort(want)
	if got := asked(o); !slices.Equal(got, want) {
		t.Errorf("%s costs\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// A pull costs the upstream exactly what it must: a cold one each manifest and each blob once, a warm one nothing, an
// old tag one HEAD, and a HEAD no body.
func TestExactRequests(t *testing.T) {
	bubble(t, "image", func(t *testing.T) {
		for _, k := range []int{1, 3, 30} {
			o := origintest.New()
			img := o.PutImage(repo, "latest", origintest.Spec{Layers: slices.Repeat([]origintest.Layer{{Size: 1 << 10, Form: origintest.Raw}}, k)})
			w := inBubble(t, o)
			cold := []string{"GET manifests/latest"}
			for _, b := range img.Blobs {
				cold = append(cold, "GET blobs/"+b.Digest.String())
			}
			if len(cold) != k+2 {
				t.Fatalf("%d blobs", len(img.Blobs))
			}
			costs(t, o, "a cold pull", func() { w.pulls("latest", img) }, cold...)
			costs(t, o, "a warm pull", func() { w.pulls("latest", img) })
			time.Sleep(5 * time.Minute)
			costs(t, o, "an aged tag", func() { w.pulls("latest", img); w.pulls("latest", img) }, "HEAD manifests/latest")
			w.keepsOnlyTruth()
			costs(t, o, "a pull after a restart", func() { w.close(); w.open(); w.pulls("latest", img) })
		}
	})
	bubble(t, "index", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}})
		w, mine := inBubble(t, o), img.Variants[0]
		pull := func() {
			w.head(manifestPath("latest")).is(t, http.StatusOK) // as dockerd and containerd do
			w.get(digestPath(img.Top.Digest)).brings(t, img.Top.Content)
			w.get(digestPath(mine.Manifest.Digest)).brings(t, mine.Manifest.Content)
			w.get(blobPath(mine.Config.Digest)).brings(t, mine.Config.Content)
			for _, l := range mine.Layers {
				w.get(blobPath(l.Digest)).brings(t, l.Content)
			}
		}
		cold := []string{"HEAD manifests/latest", "GET manifests/" + img.Top.Digest.String(),
			"GET manifests/" + mine.Manifest.Digest.String(), "GET blobs/" + mine.Config.Digest.String()}
		for _, l := range mine.Layers {
			cold = append(cold, "GET blobs/"+l.Digest.String())
		}
		costs(t, o, "a cold pull for one platform", pull, cold...)
		costs(t, o, "a warm pull", pull)
		costs(t, o, "a warm pull by another way in", func() {
			w.get("/v2/docker.io/"+repo+"/manifests/latest").brings(t, img.Top.Content)
			w.get("/v2/app/manifests/latest").brings(t, img.Top.Content)
			w.get(manifestPath("latest")+"?ns=docker.io").brings(t, img.Top.Content)
		})
	})
	bubble(t, "HEAD", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		stray := o.PutBlob(repo, origintest.Synthetic(1, 5<<20))
		w := inBubble(t, o)
		costs(t, o, "HEAD of a tag never seen", func() { w.head(manifestPath("latest")).is(t, 200) }, "HEAD manifests/latest")
		costs(t, o, "HEAD of a cold blob", func() {
			a := w.head(blobPath(stray.Digest()))
			a.is(t, 200)
			a.has(t, "Content-Length", fmt.Sprint(stray.Size()))
		}, "HEAD blobs/"+stray.Digest().String())
		if n := o.Bytes(); n > 0 {
			t.Errorf("%d bytes were fetched for a HEAD", n)
		}
		w.get(manifestPath("latest")).brings(t, img.Top.Content)
		costs(t, o, "HEAD of a cold blob of a manifest that is held", func() {
			for _, b := range img.Blobs {
				a := w.head(blobPath(b.Digest))
				a.is(t, 200)
				a.has(t, "Content-Length", fmt.Sprint(b.Size))
			}
		})
		costs(t, o, "If-None-Match of what the client has", func() {
			tag := `"` + img.Top.Digest.String() + `"`
			w.get(manifestPath("latest"), "If-None-Match", tag).is(t, http.StatusNotModified)
			w.get(digestPath(img.Top.Digest), "If-None-Match", tag).is(t, http.StatusNotModified)
		})
	})
	bubble(t, "lists", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		o.PutArtifact(repo, img.Top.Descriptor, "application/spdx+json", origintest.Bytes([]byte("sbom")))
		w := inBubble(t, o)
		tags, referrers := "/v2/"+repo+"/tags/list", "/v2/"+repo+"/referrers/"+img.Top.Digest.String()
		for _, path := range []string{tags, referrers} {
			o.Forget()
			w.get(path).is(t, 200)
			if n := o.Count(); n != 1 {
				t.Errorf("%s costs %v", path, asked(o))
			}
		}
		costs(t, o, "lists that are held", func() {
			w.get(tags).is(t, 200)
			w.get(tags+"?n=1&last=a").is(t, 200)
			w.get(referrers).is(t, 200)
			w.get(referrers+"?artifactType=application/spdx%2Bjson").is(t, 200)
		})
	})
	bubble(t, "refusals", func(t *testing.T) {
		o := origintest.New()
		w := inBubble(t, o)
		costs(t, o, "what no upstream may be asked for", func() {
			for _, path := range []string{
				"/v2/", "/v2/UPPER/manifests/x", "/v2/a/manifests/.x", "/v2/a/blobs/sha256:zz", "/v2/nowhere.test/a/manifests/x",
				"/v2/a/manifests/x?ns=nowhere.test", "/v2/_catalog", "/", "/v2/a/blobs/uploads/", "/v2/a/tags/list?n=-1",
			} {
				w.get(path)
			}
			w.do(http.MethodPut, manifestPath("latest"))
			w.do(http.MethodPost, "/v2/"+repo+"/blobs/uploads/")
			w.do(http.MethodDelete, manifestPath("latest"))
		})
	})
}

// Whatever a client accepts, and whoever comes first, a tag is one and the same manifest for everybody.
func TestAcceptSelectsNothing(t *testing.T) {
	types := []string{origintest.OCIIndex, origintest.OCIManifest, origintest.DockerList, origintest.DockerManifest,
		"application/vnd.oci.artifact.manifest.v1+json"}
	for name, spec := range map[string]origintest.Spec{
		"OCI index":       {Platforms: []string{"linux/amd64", "linux/arm64"}},
		"Docker list":     {Platforms: []string{"linux/amd64", "linux/arm64"}, Docker: true},
		"OCI manifest":    {},
		"Docker manifest": {Docker: true},
	} {
		bubble(t, name, func(t *testing.T) {
			img := origintest.Build(spec)
			for set := range 1 << len(types) {
				o := origintest.New()
				o.Put(repo, "latest", img)
				w := inBubble(t, o)
				var some []string
				for i, mediaType := range types {
					if set>>i&1 == 1 {
						some = append(some, mediaType)
					}
				}
				w.accepts(t, img, strings.Join(some, ", "))
				w.accepts(t, img, strings.Join(types, ", "))
				w.accepts(t, img, "")
				w.accepts(t, img, "*/*")
				w.accepts(t, img, origintest.DockerSchema1)
				w.close()
			}
		})
	}
}

// accepts pulls as a client that accepts only so much, by HEAD and by GET, by tag and by digest.
func (w *pool) accepts(t *testing.T, img *origintest.Image, accept string) {
	t.Helper()
	header := []string{"Accept", accept}
	if accept == "" {
		header = nil
	}
	names := []string{"latest"}
	items := map[string]origintest.Item{"latest": img.Top}
	for _, m := range img.Manifests {
		names = append(names, m.Digest.String())
		items[m.Digest.String()] = m
	}
	for _, name := range names {
		m := items[name]
		h, g := w.head(manifestPath(name), header...), w.get(manifestPath(name), header...)
		g.brings(t, m.Content)
		for _, a := range []answered{h, g} {
			a.is(t, http.StatusOK)
			a.has(t, "Docker-Content-Digest", m.Digest.String(), "Content-Type", m.MediaType)
		}
		if t.Failed() {
			t.Fatalf("%s with Accept %q", name, accept)
		}
	}
}
