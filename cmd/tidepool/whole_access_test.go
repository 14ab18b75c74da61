package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// twoHubs is a configuration with a private registry, corp.test, and one of somebody else's, evil.test.
func twoHubs(t *testing.T) string {
	return "upstreams:\n" +
		"  corp.test: {endpoints: ['http://corp.test'], cleartext_login: true, credentials: [{username: acme, password_file: " + write(t, "secret") + "}]}\n" +
		"  evil.test: {endpoints: ['http://evil.test']}\n"
}

// A registry that claims what another has shown only to our login gets nothing of it: no byte, by no way of asking.
func TestClaimedDigest(t *testing.T) {
	bubble(t, "claims", func(t *testing.T) {
		corp, evil, n := origintest.New(), origintest.New(), new(origintest.Net)
		corp.RequireToken(origintest.TokenServer{})
		corp.Private()
		corp.Account("acme", "secret")
		secret := corp.PutBlob("team/app", origintest.Synthetic(1, 1<<20))
		small := corp.PutBlob("team/app", origintest.Synthetic(2, 1<<10))
		img := corp.PutImage("team/app", "latest", origintest.Spec{Seed: 3})
		origintest.ServeIn(t, n, "corp.test:80", corp)
		origintest.ServeIn(t, n, "evil.test:80", evil)
		w := fill(t, plan{net: n, hubs: map[string]string{}, file: twoHubs(t)})
		for _, c := range []*origintest.Content{secret, small} {
			w.get("/v2/corp.test/team/app/blobs/"+c.Digest().String()).brings(t, c)
		}
		w.get("/v2/corp.test/team/app/manifests/latest").brings(t, img.Top.Content)
		w.settled()

		held := []*origintest.Content{secret, small, img.Top.Content}
		for i, c := range held { // noise of the same size under the same name
			fake := origintest.Synthetic(uint64(100+i), c.Size())
			evil.PutBlob("a", fake.Named(c.Digest()))
			evil.PutManifest("a", fmt.Sprintf("tag%d", i), origintest.OCIManifest, fake.Named(c.Digest()))
		}
		for _, c := range held {
			for _, q := range [][]string{
				{http.MethodGet, "blobs/%s"}, {http.MethodHead, "blobs/%s"}, {http.MethodGet, "manifests/%s"}, {http.MethodHead, "manifests/%s"},
				{http.MethodGet, "blobs/%s", "Range", "bytes=100-199"}, {http.MethodGet, "blobs/%s", "Range", "bytes=-7"},
				{http.MethodGet, "blobs/%s", "Range", "bytes=0-9,20-29,-5"}, {http.MethodGet, "manifests/%s", "Range", "bytes=0-9"},
				{http.MethodGet, "blobs/%s", "If-None-Match", "*"},
			} {
				a := w.do(q[0], "/v2/evil.test/a/"+fmt.Sprintf(q[1], c.Digest()), q[2:]...)
				if leaks(a.body, c) {
					t.Errorf("%v of %s: %d bytes of what is not its own: %.60q", q, c.Digest(), len(a.body), a.body)
				}
			}
		}
		for _, tag := range []string{"tag0", "tag1", "tag2"} {
			for _, method := range []string{http.MethodHead, http.MethodGet, http.MethodGet} {
				a := w.do(method, "/v2/evil.test/a/manifests/"+tag)
				if a.status == http.StatusOK && method == http.MethodGet {
					t.Errorf("%s: %v", tag, a)
				}
			}
		}
		evil.When().Drop() // and now it says nothing at all
		time.Sleep(time.Minute)
		for _, c := range held {
			for _, kind := range []string{"blobs/", "manifests/"} {
				if a := w.get("/v2/evil.test/a/" + kind + c.Digest().String()); leaks(a.body, c) {
					t.Errorf("%s%s without its upstream: %v", kind, c.Digest(), a)
				}
			}
		}
		for _, c := range []*origintest.Content{secret, small} { // nothing was spoilt for who may have it
			w.get("/v2/corp.test/team/app/blobs/"+c.Digest().String()).brings(t, c)
		}
		w.keepsOnlyTruth()
	})
}

// leaks reports whether body has a piece of c in it. The noise of tests has no accidents of 16 bytes.
func leaks(body []byte, c *origintest.Content) bool {
	b := c.Bytes()
	for off := 0; off+16 <= len(b); off += 16 {
		if bytes.Contains(body, b[off:off+16]) {
			return true
		}
	}
	return false
}

// Another repository of the same registry that may not be seen by our login has nothing by way of what another has.
func TestOtherRepositoryOfTheRegistry(t *testing.T) {
	bubble(t, "mount", func(t *testing.T) {
		o := origintest.New()
		blob := o.PutBlob(repo, origintest.Synthetic(1, 100<<10))
		img := o.PutImage(repo, "latest", origintest.Spec{})
		o.PutImage("library/other", "latest", origintest.Spec{Seed: 1})
		w := inBubble(t, o)
		w.pulls("latest", img)
		w.get(blobPath(blob.Digest())).brings(t, blob)
		for range 2 {
			w.get("/v2/library/other/blobs/"+blob.Digest().String()).refuses(t, http.StatusNotFound, "BLOB_UNKNOWN")
			w.head("/v2/library/other/blobs/"+blob.Digest().String()).is(t, http.StatusNotFound)
			w.get("/v2/library/other/blobs/"+blob.Digest().String(), "Range", "bytes=0-9").refuses(t, http.StatusNotFound, "BLOB_UNKNOWN")
			w.get("/v2/library/other/manifests/"+img.Top.Digest.String()).refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
			w.settled()
		}
		o.PutBlob("library/other", blob) // now it has it too: that it says so is enough, it need not be sent
		o.Forget()
		w.get("/v2/library/other/blobs/"+blob.Digest().String()).brings(t, blob)
		if n := o.Bytes(); n > 8<<10 {
			t.Errorf("%d bytes were sent again", n)
		}
	})
}

// A private registry whose login is refused or that is gone: what was granted is served for a day, and no longer.
func TestGrantsAge(t *testing.T) {
	for name, fail := range map[string]func(o *origintest.Origin){
		"down":          func(o *origintest.Origin) { o.When().Drop() },
		"login refused": func(o *origintest.Origin) { o.Account("acme", "another"); o.RevokeTokens() },
		"denied":        func(o *origintest.Origin) { o.When().Status(http.StatusForbidden) },
	} {
		bubble(t, name, func(t *testing.T) {
			o := origintest.New()
			o.RequireToken(origintest.TokenServer{})
			o.Private()
			o.Account("acme", "secret")
			img := o.PutImage(repo, "latest", origintest.Spec{})
			w := inBubble(t, o, plan{file: login(write(t, "secret"))})
			w.pulls("latest", img)
			fail(o)
			time.Sleep(23 * time.Hour)
			for _, b := range img.Blobs {
				w.get(blobPath(b.Digest)).brings(t, b.Content)
			}
			w.get(digestPath(img.Top.Digest)).brings(t, img.Top.Content)
			time.Sleep(2 * time.Hour)
			for _, b := range img.Blobs {
				if a := w.get(blobPath(b.Digest)); a.status == http.StatusOK {
					t.Errorf("after a day: %v", a)
				}
			}
			if a := w.get(digestPath(img.Top.Digest)); a.status == http.StatusOK {
				t.Errorf("after a day: %v", a)
			}
		})
	}
}

// Hosts that nobody configured are asked where that is allowed, but never where they lead back to this machine.
func TestAnyUpstreamNeverLeadsInside(t *testing.T) {
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reached := make(chan string, 100)
	go func() {
		for {
			c, err := inside.Accept()
			if err != nil {
				close(reached)
				return
			}
			reached <- c.RemoteAddr().String()
			_ = c.Close()
		}
	}()
	w := fill(t, plan{file: "any_upstream: true\n"})
	_, port, _ := net.SplitHostPort(inside.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "127.1", "0.0.0.0", "2130706433", "127.000.000.001", "0x7f.1"} {
		for _, path := range []string{
			"/v2/" + host + ":" + port + "/a/manifests/latest", "/" + host + ":" + port + "/v2/a/manifests/latest",
			"/v2/a/manifests/latest?ns=" + host + ":" + port,
		} {
			if a := w.get(path); a.status < 400 || a.code() == "" || strings.Contains(path, "127.0.0.1:") && a.status == http.StatusNotFound {
				t.Errorf("%s: %v", path, a)
			}
		}
	}
	_ = inside.Close()
	for from := range reached {
		t.Errorf("somebody inside was reached, from %s", from)
	}
}
