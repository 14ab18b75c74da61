package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// circle is a tidepool before three registries, of which the first is inside, and which it shows as one.
type circle struct {
	*pool
	corp, quay, hub *origintest.Origin
}

const allOfThem = `default_upstream: all
hosts: {all.mirror.test: all}
upstreams:
  all: {type: virtual, of: [corp.test, quay.io, docker.io], inside: ["internal/**", tool], inside_of: [corp.test]}
aliases:
  - {from: "old.test/**", to: "all/**"}
`

func encircle(t *testing.T, more string) *circle {
	t.Helper()
	n := new(origintest.Net)
	c := &circle{corp: origintest.New(), quay: origintest.New(), hub: origintest.New()}
	origintest.ServeIn(t, n, "corp.test:80", c.corp)
	origintest.ServeIn(t, n, "quay.test:80", c.quay)
	origintest.ServeIn(t, n, "hub.test:80", c.hub)
	c.pool = fill(t, plan{net: n, file: allOfThem + more, hubs: map[string]string{
		"corp.test": "http://corp.test", "quay.io": "http://quay.test", "docker.io": "http://hub.test"}})
	return c
}

// outside checks how many requests have left for the registries outside.
func (c *circle) outside(t *testing.T, what string, want int) {
	t.Helper()
	if n := c.quay.Count() + c.hub.Count(); n != want {
		t.Errorf("%s: %d requests outside, want %d: %.300v %.300v", what, n, want, asked(c.quay), asked(c.hub))
	}
}

// No name of the inside is asked for outside, whatever is asked, by whichever way, and however the inside is.
func TestInsideNamesNeverLeave(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"well", "empty", "down", "denying", "limiting", "loses it"} {
		bubble(t, state, func(t *testing.T) {
			c := encircle(t, "hold: 0s\n")
			for _, o := range []*origintest.Origin{c.quay, c.hub} { // where anybody may put what is called so
				for _, repo := range []string{"internal/app", "internal/a/b", "tool", "library/tool"} {
					o.PutImage(repo, "latest", origintest.Spec{Seed: 666})
				}
			}
			img := origintest.Build(origintest.Spec{Seed: 1})
			if state != "empty" {
				for _, repo := range []string{"internal/app", "internal/a/b", "tool"} {
					c.corp.Put(repo, "latest", img)
				}
			}
			switch state {
			case "down":
				c.corp.When().Status(503)
			case "denying":
				c.corp.When().Status(403)
			case "limiting":
				c.corp.When().Status(429)
			case "loses it":
				c.get("/v2/internal/app/manifests/latest").brings(t, img.Top.Content)
				c.corp.When().Status(404)
				time.Sleep(time.Hour)
			}
			for range 2 {
				c.tryEverything(t, img, state == "well")
				time.Sleep(10 * time.Minute)
			}
			c.outside(t, state, 0)
		})
	}
}

// tryEverything asks for names of the inside in every way there is. Where all is well, those come that may.
func (c *circle) tryEverything(t *testing.T, img *origintest.Image, well bool) {
	t.Helper()
	d := img.Top.Digest.String()
	for _, repo := range []string{"internal/app", "internal/a/b", "tool", "library/tool"} {
		for _, rest := range []string{"manifests/latest", "manifests/" + d, "blobs/" + img.Blobs[0].Digest.String(),
			"manifests/none", "manifests/" + otherDigest, "blobs/" + otherDigest, "tags/list", "referrers/" + d, "referrers/" + otherDigest} {
			inside := []string{"/v2/" + repo + "/" + rest, "/v2/all/" + repo + "/" + rest, "/v2/" + repo + "/" + rest + "?ns=all",
				"/all/v2/" + repo + "/" + rest, "/v2/old.test/" + repo + "/" + rest, "/v2/" + repo + "/" + rest + "?ns=old.test"}
			outside := []string{"/v2/docker.io/" + repo + "/" + rest, "/v2/" + repo + "/" + rest + "?ns=docker.io",
				"/v2/" + repo + "/" + rest + "?ns=index.docker.io", "/v2/quay.io/" + repo + "/" + rest, "/quay.io/v2/" + repo + "/" + rest}
			for _, path := range append(inside, outside...) {
				c.head(path)
				c.get(path, "Range", "bytes=0-9")
				a := c.get(path)
				there := !strings.Contains(rest, "none") && !strings.Contains(rest, otherDigest) && repo != "library/tool"
				if well && there && strings.Contains(strings.Join(inside, " "), path) && a.status != http.StatusOK {
					t.Errorf("%s: %v", path, a)
				}
			}
			c.get("/v2/"+repo+"/"+rest, "Host", "all.mirror.test")
			for _, path := range outside {
				if a := c.get(path); a.status != http.StatusForbidden || !strings.Contains(string(a.body), "inside") {
					t.Errorf("%s: %v %s", path, a, a.body)
				}
			}
		}
	}
}

// The first that has it wins, by each name; blobs are asked for where the manifest was; one request for each thing.
func TestVirtualUpstream(t *testing.T) {
	bubble(t, "order", func(t *testing.T) {
		c := encircle(t, "")
		own := c.corp.PutImage("org/app", "both", origintest.Spec{Seed: 1})
		c.hub.PutImage("org/app", "both", origintest.Spec{Seed: 2})
		far := c.hub.PutImage("org/app", "far", origintest.Spec{Seed: 3, Platforms: []string{"linux/amd64", "linux/arm64"}})
		alpine := c.hub.PutImage("library/alpine", "3", origintest.Spec{Seed: 4})
		c.by(t, "/v2/org/app", "both", own)
		c.outside(t, "what the first has", 0)
		c.corp.Forget()
		c.by(t, "/v2/all/org/app", "far", far)
		reached(t, "not in the first", c.corp, 1)
		reached(t, "nor in the second", c.quay, 1)
		reached(t, "but in the third", c.hub, len(far.Manifests)+len(far.Blobs))
		for _, way := range []string{"/v2/alpine", "/v2/library/alpine", "/v2/docker.io/alpine", "/all/v2/alpine"} {
			c.by(t, way, "3", alpine)
		}
		reached(t, "alpine, as docker.io calls it", c.hub, len(alpine.Manifests)+len(alpine.Blobs))
		reached(t, "its two names, in the second", c.quay, 2)
		c.by(t, "/v2/org/app", "far", far)
		c.by(t, "/v2/org/app", "both", own)
		c.outside(t, "all again", 0)
		a := c.get("/v2/org/app/tags/list")
		if string(a.body) != `{"name":"org/app","tags":["both","far"]}` {
			t.Errorf("%s", a.body)
		}
		c.get("/v2/org/none/manifests/1").refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
		c.get("/v2/org/none/tags/list").refuses(t, http.StatusNotFound, "NAME_UNKNOWN")
	})
	bubble(t, "what a registry hides", func(t *testing.T) {
		for _, hides := range []bool{false, true} {
			c := encircle(t, "")
			c.quay.When().Status(http.StatusUnauthorized)
			img := c.hub.PutImage("org/app", "1", origintest.Spec{})
			if hides {
				c.close()
				c.plan.file = strings.Replace(c.plan.file, "upstreams:\n", "upstreams:\n  quay.io: {denied_is_missing: true}\n", 1)
				c.open()
				c.by(t, "/v2/org/app", "1", img)
				c.get("/v2/org/app/tags/list").is(t, http.StatusOK)
				c.get("/v2/org/none/manifests/1").refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
			} else {
				c.get("/v2/org/app/manifests/1").refuses(t, http.StatusForbidden, "DENIED")
				c.get("/v2/org/app/tags/list").refuses(t, http.StatusForbidden, "DENIED")
			}
			c.close()
		}
	})
}

// What answered once does not change because another cannot be asked.
func TestVirtualUpstreamDoesNotFlap(t *testing.T) {
	for _, fault := range []int{503, 429} {
		bubble(t, fmt.Sprintf("the first answers %d", fault), func(t *testing.T) {
			c := encircle(t, "hold: 0s\n")
			own := c.corp.PutImage("org/app", "1", origintest.Spec{Seed: 1})
			c.hub.PutImage("org/app", "1", origintest.Spec{Seed: 2}) // another image by the same name
			far := c.hub.PutImage("org/far", "1", origintest.Spec{Seed: 3})
			c.by(t, "/v2/org/app", "1", own)
			c.by(t, "/v2/org/far", "1", far)
			c.hub.Forget()
			c.quay.Forget()
			c.corp.When().Status(fault)
			for range 3 {
				time.Sleep(time.Hour)
				c.by(t, "/v2/org/app", "1", own) // stale
				c.by(t, "/v2/org/far", "1", far) // where it was
			}
			if n := c.hub.Count(origintest.Repo("org/app")) + c.quay.Count(origintest.Repo("org/app")); n > 0 {
				t.Errorf("the others were asked %d times for what the first has", n)
			}
			for _, path := range []string{"/v2/org/app/manifests/2", "/v2/org/new/manifests/1", "/v2/org/new/tags/list", "/v2/org/app/blobs/" + otherDigest} {
				if a := c.get(path); a.status < 429 {
					t.Errorf("%s: %v, though the first cannot be asked", path, a)
				}
			}
			if n := c.hub.Count(origintest.Repo("org/new")) + c.quay.Count(origintest.Repo("org/new")); n > 0 {
				t.Errorf("the others were asked %d times for what nobody has answered yet", n)
			}
			c.corp.Heal()
			time.Sleep(time.Hour)
			c.by(t, "/v2/org/app", "1", own)
		})
	}
	bubble(t, "the one that answers is down", func(t *testing.T) {
		c := encircle(t, "")
		far := c.quay.PutImage("org/far", "1", origintest.Spec{Seed: 3})
		c.hub.PutImage("org/far", "1", origintest.Spec{Seed: 4})
		c.by(t, "/v2/org/far", "1", far)
		c.quay.When().Status(503)
		time.Sleep(time.Hour)
		c.by(t, "/v2/org/far", "1", far)
		reached(t, "behind it", c.hub, 0)
		c.quay.Heal()
		c.quay.Delete("org/far", far.Top.Digest)
		c.corp.When().Status(503) // it may have it by now
		time.Sleep(time.Hour)
		c.get("/v2/org/far/manifests/1").refuses(t, http.StatusBadGateway, "UNAVAILABLE")
		reached(t, "behind it", c.hub, 0)
		c.corp.Heal()
		time.Sleep(time.Hour)
		if a := c.get("/v2/org/far/manifests/1"); a.status != http.StatusOK || a.header.Get("Docker-Content-Digest") == far.Top.Digest.String() {
			t.Errorf("deleted at the second: %v", a)
		}
	})
	bubble(t, "a name pulled from one alone says nothing", func(t *testing.T) {
		c := encircle(t, "")
		c.hub.PutImage("org/app", "1", origintest.Spec{Seed: 2})
		own := c.corp.PutImage("org/app", "1", origintest.Spec{Seed: 1})
		c.get("/v2/docker.io/org/app/manifests/1").is(t, http.StatusOK)
		c.corp.When().Status(503)
		if a := c.get("/v2/org/app/manifests/1"); a.status < 500 {
			t.Errorf("%v of what the first was never asked for", a)
		}
		c.corp.Heal()
		time.Sleep(time.Minute)
		c.by(t, "/v2/org/app", "1", own)
	})
}

// A digest is content, wherever it is: it is found where it is, and nobody else is asked again and again.
func TestVirtualByDigest(t *testing.T) {
	bubble(t, "digest", func(t *testing.T) {
		c := encircle(t, "")
		img := c.hub.PutImage("org/app", "1", origintest.Spec{Platforms: []string{"linux/amd64"}})
		digest := func(d cache.Digest) string { return "/v2/org/app/manifests/" + d.String() }
		c.head(digest(img.Top.Digest)).is(t, http.StatusOK)
		c.get(digest(img.Top.Digest)).brings(t, img.Top.Content)
		first := img.Blobs[0] // of a manifest that nobody has pulled
		c.get("/v2/org/app/blobs/"+first.Digest.String()).brings(t, first.Content)
		c.corp.Forget()
		c.get(digest(img.Variants[0].Manifest.Digest)).brings(t, img.Variants[0].Manifest.Content)
		for _, b := range img.Blobs {
			c.get("/v2/org/app/blobs/"+b.Digest.String()).brings(t, b.Content)
		}
		reached(t, "the first, for what is elsewhere", c.corp, 0)
	})
}
