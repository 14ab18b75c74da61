package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// The repository that alice and carol may have and bob may not, and the one that everybody may.
const (
	secretRepo = "team/app"
	publicRepo = "open/app"
)

// asking is the configuration of corp.test as an upstream that is asked with its clients' logins.
const asking = "upstreams:\n  corp.test: {endpoints: ['http://corp.test'], cleartext_login: true, access: caller}\n" +
	"hosts: {corp.mirror: corp.test}\n"

// as is the header of a login; of nobody's for "".
func as(user string) []string {
	if user == "" {
		return nil
	}
	return []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":pass of "+user))}
}

// house is a registry with accounts, and a tidepool before it.
type house struct {
	*pool
	hub    *origintest.Origin
	img    *origintest.Image
	signed *origintest.Image // refers to img
	// outsiders are those who may not have anything of the secret repository, by what they send.
	outsiders map[string][]string
}

// callers starts them. hides: the registry tells who may not see something that it is not there. adjust may change how
// the tidepool is started.
func callers(t *testing.T, hides bool, adjust ...func(*plan)) *house {
	t.Helper()
	h := &house{hub: origintest.New(), outsiders: outsiders()}
	h.hub.RequireToken(origintest.TokenServer{Life: time.Minute})
	h.hub.Behave(origintest.Manners{Hides: hides})
	h.hub.Private(secretRepo)
	h.hub.Account("alice", "pass of alice", secretRepo)
	h.hub.Account("carol", "pass of carol", secretRepo)
	h.hub.Account("bob", "pass of bob", publicRepo)
	h.img = h.hub.PutImage(secretRepo, "latest", origintest.Spec{Layers: []origintest.Layer{
		{Size: 200 << 10, Form: origintest.Raw}, {Size: 1 << 10, Form: origintest.Raw}}})
	h.signed = h.hub.PutArtifact(secretRepo, h.img.Top.Descriptor, "application/vnd.test.signature", origintest.Synthetic(7, 100))
	h.hub.PutImage(publicRepo, "latest", origintest.Spec{Seed: 1})
	n := new(origintest.Net)
	origintest.ServeIn(t, n, "corp.test:80", h.hub)
	p := plan{net: n, hubs: map[string]string{}, file: asking + agings[1]} // the rule that would let most through
	for _, change := range adjust {
		change(&p)
	}
	h.pool = fill(t, p)
	return h
}

// way is one way of asking for something of the secret repository.
type way struct {
	name, method, path string
	headers            []string
}

// spellings are those of one request.
const spellings = 4

// ways are all of them, each in so many spellings. Of those in missing there is nothing.
func (h *house) ways() (all, missing []way) {
	add := func(name, method, tail string, headers ...string) {
		all = append(all,
			way{name, method, "/v2/corp.test/" + secretRepo + "/" + tail, headers},
			way{name + ", by ns", method, "/v2/" + secretRepo + "/" + tail + "?ns=corp.test", headers},
			way{name + ", by prefix", method, "/corp.test/v2/" + secretRepo + "/" + tail, headers},
			way{name + ", by host", method, "/v2/" + secretRepo + "/" + tail, append([]string{"Host", "corp.mirror"}, headers...)})
	}
	for _, method := range []string{http.MethodHead, http.MethodGet} { // a GET finds out more, and forgets what was wrong
		add("tag", method, "manifests/latest")
		add("digest", method, "manifests/"+h.img.Top.Digest.String())
		add("signature", method, "manifests/"+h.signed.Top.Digest.String())
		for i, b := range h.img.Blobs {
			add(fmt.Sprint("blob ", i), method, "blobs/"+b.Digest.String())
			add(fmt.Sprint("blob if changed ", i), method, "blobs/"+b.Digest.String(), "If-None-Match", `"`+b.Digest.String()+`"`)
		}
		add("manifest as blob", method, "blobs/"+h.img.Top.Digest.String())
		add("blob as manifest", method, "manifests/"+h.img.Blobs[0].Digest.String())
		add("tag if changed", method, "manifests/latest", "If-None-Match", `"`+h.img.Top.Digest.String()+`"`)
		add("anything if changed", method, "manifests/latest", "If-None-Match", "*")
		add("tags", method, "tags/list")
		add("page of tags", method, "tags/list?n=1")
		add("referrers", method, "referrers/"+h.img.Top.Digest.String())
		add("referrers of a type", method, "referrers/"+h.img.Top.Digest.String()+"?artifactType=application/vnd.test.signature")
	}
	for _, b := range h.img.Blobs {
		for _, r := range []string{"bytes=0-15", "bytes=0-", "bytes=-16", "bytes=0-15,32-47", "bytes=99999999-"} {
			add("range "+r, http.MethodGet, "blobs/"+b.Digest.String(), "Range", r)
		}
	}
	nothing := origintest.Synthetic(99, 100).Digest().String()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, tail := range []string{"manifests/absent", "manifests/" + nothing, "blobs/" + nothing} {
			missing = append(missing, way{"no " + tail, method, "/v2/corp.test/" + secretRepo + "/" + tail, nil})
		}
	}
	for i := range all { // a second parameter
		if strings.Count(all[i].path, "?") > 1 {
			j := strings.LastIndexByte(all[i].path, '?')
			all[i].path = all[i].path[:j] + "&" + all[i].path[j+1:]
		}
	}
	return all, missing
}

// outsiders are those of every house to begin with.
func outsiders() map[string][]string {
	return map[string][]string{
		"bob":            as("bob"),
		"nobody":         nil,
		"empty":          {"Authorization", "Basic Og=="},
		"wrong":          {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:guess"))},
		"bearer":         {"Authorization", "Bearer abcd"},
		"no username":    {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(":pass of alice"))},
		"case":           {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("Alice:pass of alice"))},
		"shifted":        {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("alic:epass of alice"))},
		"both":           append(as("bob"), as("alice")...),
		"not base64":     {"Authorization", "Basic alice:pass of alice"},
		"proxy's header": {"Proxy-Authorization", as("alice")[1]},
	}
}

// shuts checks that nobody from outside gets anything, and that what they are told tells nothing. told are the answers of
// the last time, by who and how: they must be the same whatever is held.
func (h *house) shuts(when string, told map[string]string, statuses ...int) {
	h.t.Helper()
	all, missing := h.ways()
	for who, header := range h.outsiders {
		for _, w := range append(some(all, len(who)), missing...) {
			a := h.do(w.method, w.path, append(header, w.headers...)...)
			if a.err != nil || !oneOf(a.status, statuses) && !(strings.HasPrefix(w.name, "referrers") && a.status == 200 && h.empty(a, w)) && a.status != 400 {
				h.t.Errorf("%s: %s of %s: %v", when, w.name, who, a)
			}
			h.silent(when+": "+w.name+" of "+who, a)
			said := fmt.Sprint(a.status, a.header["Cache-Status"], a.header["Www-Authenticate"], a.header["Content-Length"], a.header["Content-Type"], string(a.body))
			if a.status == http.StatusOK {
				continue // how long he gets the empty list is by his own earlier question
			}
			key := who + w.method + w.name + w.path
			if last, ok := told[key]; ok && last != said {
				h.t.Errorf("%s: %s of %s is told %s, and was told %s", when, w.name, who, said, last)
			}
			told[key] = said
		}
	}
}

// some is each way in all its spellings; under the race detector in one, another from way to way and from n to n.
func some(all []way, n int) (few []way) {
	for i, w := range all {
		if !racing || i%spellings == (i/spellings+n)%spellings {
			few = append(few, w)
		}
	}
	return few
}

// empty reports whether a is the list of nothing that a hidden digest's referrers are.
func (h *house) empty(a answered, w way) bool {
	return w.method == http.MethodHead || strings.Contains(string(a.body), `"manifests":[]`)
}

// silent checks that nothing of the secret is in an answer.
func (h *house) silent(what string, a answered) {
	h.t.Helper()
	if a.status == http.StatusOK {
		return // the empty list, looked at before
	}
	for _, key := range []string{"Docker-Content-Digest", "Content-Range", "Age", "Link"} {
		if v := a.header.Get(key); v != "" {
			h.t.Errorf("%s: %s: %s", what, key, v)
		}
	}
	if etag := a.header.Get("Etag"); etag != "" {
		h.t.Errorf("%s: Etag %s", what, etag)
	}
	if len(a.body) > 0 && (a.code() == "" || strings.Contains(string(a.body), "schemaVersion")) {
		h.t.Errorf("%s: no error document, or more than that: %.200q", what, a.body)
	}
}

func oneOf(n int, all []int) bool {
	for _, m := range all {
		if n == m {
			return true
		}
	}
	return false
}

// opens checks that user gets all of it.
func (h *house) opens(when, user string) {
	h.t.Helper()
	all, _ := h.ways()
	for _, w := range all {
		a := h.do(w.method, w.path, append(as(user), w.headers...)...)
		ok := a.status == http.StatusOK || a.status == http.StatusPartialContent || a.status == http.StatusNotModified
		switch {
		case strings.HasPrefix(w.name, "manifest as"), strings.HasPrefix(w.name, "blob as"):
			ok = a.status == http.StatusNotFound || a.status == http.StatusBadGateway || ok // nobody has it so
		case strings.HasPrefix(w.name, "range bytes=99999999"):
			ok = a.status == http.StatusRequestedRangeNotSatisfiable
		}
		if !ok || a.err != nil {
			h.t.Errorf("%s: %s of %s: %v %.200s", when, w.name, user, a, a.body)
		}
	}
}

// Who the hub would refuse gets nothing, in no way, and learns nothing from how it is refused: whether it is held or not,
// whether it exists or not, whether the hub is there or not. Each asks in all spellings only without the race detector: so
// .ci/steps runs it as well.
func TestCallersAreKeptApart(t *testing.T) {
	t.Parallel()
	for name, hides := range map[string]bool{"says so": false, "hides": true} {
		bubble(t, name, func(t *testing.T) { callers(t, hides).areKeptApart(hides) })
	}
}

// areKeptApart checks it, from when nothing is held until after alice may have nothing any more.
func (h *house) areKeptApart(hides bool) {
	h.t.Helper()
	told, no := map[string]string{}, []int{http.StatusUnauthorized, http.StatusForbidden}
	if hides {
		no = append(no, http.StatusNotFound)
	}
	h.shuts("cold", told, no...)
	time.Sleep(time.Minute) // the logins that were refused are shown again
	h.opens("alice, cold", "alice")
	h.settled()
	h.shuts("warm", told, no...)
	h.opens("alice, warm", "alice")
	h.opens("carol", "carol")

	down, lost := map[string]string{}, []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusBadGateway}
	h.hub.When().Drop()
	time.Sleep(time.Minute)
	h.shuts("down", down, lost...)
	h.opens("alice, while it is down", "alice")
	time.Sleep(5 * time.Minute)
	h.shuts("down for long", down, lost...)
	h.outsiders["alice"] = as("alice")
	defer delete(h.outsiders, "alice")
	h.shuts("down for too long", down, lost...)

	h.hub.Heal()
	time.Sleep(time.Minute)
	h.opens("alice, when it is back", "alice")
	h.hub.Account("alice", "pass of alice", publicRepo)
	time.Sleep(5*time.Minute + time.Minute) // the yes, and the token that it may have been given to
	h.shuts("revoked", map[string]string{}, no...)
	h.opens("carol, all the same", "carol")
}

// A second caller costs one HEAD and a token; what is held is not sent again. While his yes is fresh nothing is asked.
func TestSecondCallerCostsOneHead(t *testing.T) {
	bubble(t, "counts", func(t *testing.T) {
		h := callers(t, false)
		pull := func(user string) {
			t.Helper()
			for _, ref := range []string{"manifests/latest", "manifests/" + h.img.Top.Digest.String()} {
				h.get("/v2/corp.test/"+secretRepo+"/"+ref, as(user)...).brings(t, h.img.Top.Content)
			}
			for _, b := range h.img.Blobs {
				h.get("/v2/corp.test/"+secretRepo+"/blobs/"+b.Digest.String(), as(user)...).brings(t, b.Content)
			}
		}
		pull("alice")
		h.settled()
		sent := h.hub.Bytes(origintest.Blob)
		for _, user := range []string{"carol", "alice", "carol"} {
			h.hub.Forget()
			pull(user)
			heads, gets := h.hub.Count(origintest.HEAD), h.hub.Count(origintest.GET)-h.hub.Count(origintest.Token)
			t.Logf("%s: %d HEAD, %d GET, %d token", user, heads, gets, h.hub.Count(origintest.Token))
			if want := map[string]int{"carol": 1}[user]; heads > want || gets != 0 {
				t.Errorf("%s: %d HEAD, %d GET; %d bytes were sent before", user, heads, gets, sent)
			}
			h.hub.Forget()
			pull(user)
			if n := h.hub.Count(); n != 0 {
				t.Errorf("%s again: %d requests", user, n)
			}
		}
		time.Sleep(6 * time.Minute)
		h.hub.Forget()
		for _, b := range h.img.Blobs { // not by the name, which has aged as well
			h.get("/v2/corp.test/"+secretRepo+"/blobs/"+b.Digest.String(), as("alice")...).brings(t, b.Content)
		}
		if heads, gets := h.hub.Count(origintest.HEAD), h.hub.Count(origintest.GET)-h.hub.Count(origintest.Token); heads != 1 || gets != 0 {
			t.Errorf("after the yes had ended: %d HEAD, %d GET", heads, gets)
		}
	})
}

// A restart forgets every yes, and needs nothing but a HEAD to have it again.
func TestRestartForgetsCallers(t *testing.T) {
	bubble(t, "restart", func(t *testing.T) {
		h := callers(t, false)
		tag := "/v2/corp.test/" + secretRepo + "/manifests/latest"
		h.get(tag, as("alice")...).brings(t, h.img.Top.Content)
		h.settled()
		h.close()
		h.open()
		h.hub.When().Drop()
		h.get(tag, as("alice")...).refuses(t, http.StatusBadGateway, "UNAVAILABLE")
		h.hub.Heal()
		time.Sleep(time.Minute)
		h.hub.Forget()
		h.get(tag, as("alice")...).brings(t, h.img.Top.Content)
		if n := h.hub.Count(origintest.GET, origintest.Manifest); n != 0 {
			t.Errorf("%d GETs of what is held", n)
		}
	})
}

// The root of the API asks for a login where one may be wanted, and is content with any.
func TestKnock(t *testing.T) {
	bubble(t, "knock", func(t *testing.T) {
		h := callers(t, false)
		for _, c := range []struct {
			path, host, agent string
			status            int
		}{
			{"/v2/", "", "skopeo/1.9.3", 401},
			{"/v2/", "", "docker/20.10.24 go/go1.19", 200}, // names without a host are docker.io's, which is ours
			{"/v2/", "corp.mirror", "docker/20.10.24 go/go1.19", 401},
			{"/v2/?ns=corp.test", "", "", 401},
			{"/corp.test/v2/", "", "", 401},
			{"/v2/?ns=ghcr.io", "", "", 200},
			{"/ghcr.io/v2/", "", "", 200},
		} {
			headers := []string{"User-Agent", c.agent}
			if c.host != "" {
				headers = append(headers, "Host", c.host)
			}
			a := h.get(c.path, headers...)
			a.is(t, c.status)
			if asked := a.header.Get("Www-Authenticate") != ""; asked != (c.status == 401) {
				t.Errorf("%+v: %v", c, a.header)
			}
			for _, login := range [][]string{as("alice"), {"Authorization", "Basic Og=="}} {
				h.get(c.path, append(headers, login...)...).is(t, 200)
			}
		}
	})
}

// A login goes to the hub and its token server and to nobody else; who is refused is not shown again at once.
func TestLoginsOfCallers(t *testing.T) {
	bubble(t, "logins", func(t *testing.T) {
		h := callers(t, false)
		tag := "/v2/corp.test/" + secretRepo + "/manifests/latest"
		for range 5 {
			h.get(tag, h.outsiders["wrong"]...).refuses(t, http.StatusForbidden, "DENIED")
		}
		if n := h.hub.Count(origintest.Token); n != 1 {
			t.Errorf("a wrong login was shown %d times", n)
		}
		h.get(tag, as("alice")...).brings(t, h.img.Top.Content) // whose name it was, and who is not locked out
		time.Sleep(time.Minute)
		h.get(tag, h.outsiders["wrong"]...).refuses(t, http.StatusForbidden, "DENIED")
		if n := h.hub.Count(origintest.Token, origintest.Where(func(r *origintest.Request) bool { return r.Status == 401 })); n != 2 {
			t.Errorf("after a minute it was shown %d times in all", n)
		}
		for _, page := range []string{"/healthz?verbose", "/metrics", "/api/v1/saved"} {
			if a := h.admin(page); strings.Contains(string(a.body), "alice") {
				t.Errorf("%s: %s", page, a.body)
			}
		}
		if b := h.hubs.Ledger(); strings.Contains(string(b), "alice") {
			t.Errorf("%s", b)
		}
	})
}

// A registry that claims what a caller has pulled of another gets nothing of it for anybody, and no login of the other's.
func TestClaimedDigestOfCallers(t *testing.T) {
	bubble(t, "claims", func(t *testing.T) {
		corp, evil, n := origintest.New(), origintest.New(), new(origintest.Net)
		corp.RequireToken(origintest.TokenServer{})
		corp.Private()
		corp.Account("alice", "pass of alice", secretRepo)
		img := corp.PutImage(secretRepo, "latest", origintest.Spec{Layers: []origintest.Layer{{Size: 200 << 10, Form: origintest.Raw}, {Size: 1000, Form: origintest.Raw}}})
		origintest.ServeIn(t, n, "corp.test:80", corp)
		origintest.ServeIn(t, n, "evil.test:80", evil)
		for _, access := range []string{"shared", "caller"} {
			w := fill(t, plan{net: n, hubs: map[string]string{}, file: asking[:strings.Index(asking, "hosts:")] +
				"  evil.test: {endpoints: ['http://evil.test'], cleartext_login: true, access: " + access + "}\n"})
			w.get("/v2/corp.test/"+secretRepo+"/manifests/latest", as("alice")...).brings(t, img.Top.Content)
			for _, b := range img.Blobs {
				w.get("/v2/corp.test/"+secretRepo+"/blobs/"+b.Digest.String(), as("alice")...).brings(t, b.Content)
			}
			w.settled()
			for i, it := range append(img.Blobs, img.Top) {
				fake := origintest.Synthetic(uint64(100+i), it.Size)
				evil.PutBlob("team/app", fake.Named(it.Digest))
				evil.PutManifest("team/app", "latest", origintest.OCIManifest, fake.Named(it.Digest))
				for _, user := range []string{"alice", "mallory", ""} {
					for _, path := range []string{"blobs/" + it.Digest.String(), "manifests/" + it.Digest.String(), "manifests/latest"} {
						for _, header := range [][]string{nil, {"Range", "bytes=0-99"}, {"Range", "bytes=-100"}} {
							a := w.get("/v2/evil.test/team/app/"+path, append(as(user), header...)...)
							own := it.Content.Bytes()
							for _, piece := range [][]byte{own[:40], own[len(own)/2:][:40], own[len(own)-40:]} {
								if strings.Contains(string(a.body), string(piece)) {
									t.Errorf("LEAK: %s of evil.test (%s) to %q, %v: %v", path, access, user, header, a)
								}
							}
						}
					}
				}
			}
			w.close()
		}
		for _, r := range evil.Requests(origintest.Where(func(r *origintest.Request) bool { return r.Authorized() })) {
			t.Errorf("evil.test, which asked for no login, was shown one: %s", r.Path)
		}
	})
}
