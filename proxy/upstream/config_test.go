package upstream_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// Every fault of every upstream is reported at once, with the key that it is under, and without a secret.
func TestFaultsOfTheConfiguration(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	empty, junk := file(t, "empty", nil), file(t, "junk", []byte("{"+canary))
	cert, key := pemFiles(t, issue(t))
	_, err := upstream.New([]upstream.Config{
		{Name: "a", Endpoints: []string{"ftp://x", "https://", "https://u:" + canary + "@x", "https://x?y", "https://x#y", "http://a b:" + canary, "x"}},
		{Name: "b", Credentials: []upstream.Credential{
			{Password: canary}, {Username: "u"}, {Username: "u:v", Password: canary}, {Username: "u", Password: canary, PasswordFile: empty},
			{Username: "u", PasswordFile: nowhere}, {Username: "u", PasswordFile: empty}, {Username: "u", Password: canary, Endpoint: "elsewhere"},
		}},
		{Name: "c", DockerConfig: nowhere},
		{Name: "d", DockerConfig: junk},
		{Name: "e", Realms: []string{"", "a b", "*.corp", "https://u:" + canary + "@x", "ftp://x", "10.0.0.0/8"}},
		{Name: "f", RedirectHosts: []string{"", "a/b", "u:" + canary + "@x", "*", "a*b", "10.0.0.0/99", "http://x"}},
		{Name: "g", CAFile: nowhere},
		{Name: "h", CAFile: junk},
		{Name: "i", CertFile: cert},
		{Name: "j", KeyFile: key},
		{Name: "k", CertFile: cert, KeyFile: junk},
		{Name: "l", Fetches: -1},
		{Name: "m"}, {Name: "m"},
		{},
	}, upstream.Options{})
	if err == nil {
		t.Fatal("no error")
	}
	var one *upstream.ConfigError
	if !errors.As(err, &one) || one.Registry != "a" || one.Key != "endpoints[0]" {
		t.Errorf("%#v", one)
	}
	for prefix, n := range map[string]int{
		"upstreams.a.endpoints[": 7, "upstreams.b.credentials[": 7, "upstreams.c.docker_config: ": 1, "upstreams.d.docker_config: ": 1,
		"upstreams.e.realm: ": 6, "upstreams.f.redirect_hosts: ": 7, "upstreams.g.ca_file: ": 1, "upstreams.h.ca_file: ": 1,
		"upstreams.i.cert_file: ": 1, "upstreams.j.cert_file: ": 1, "upstreams.k.cert_file: ": 1, "upstreams.l.fetches: ": 1,
		"upstreams.m: ": 1, "upstreams.: ": 1,
	} {
		if got := strings.Count("\n"+err.Error(), "\n"+prefix); got != n {
			t.Errorf("%d faults at %q, want %d", got, prefix, n)
		}
	}
	if strings.Contains(err.Error(), canary) {
		t.Errorf("%v", err)
	}
	if t.Failed() {
		t.Log(err)
	}
}

func TestPathsOfEndpoints(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.PutImage("hub/"+repo, "latest", origintest.Spec{})
	s := origintest.Serve(t, o)
	for path, want := range map[string]string{
		"":                         "/v2/library/app/manifests/latest",
		"/":                        "/v2/library/app/manifests/latest",
		"/v2":                      "/v2/library/app/manifests/latest",
		"/v2/":                     "/v2/library/app/manifests/latest",
		"/v2/hub":                  "/v2/hub/library/app/manifests/latest",
		"/v2/hub/":                 "/v2/hub/library/app/manifests/latest",
		"/repository/docker":       "/repository/docker/v2/library/app/manifests/latest",
		"/repository/docker/v2/x/": "/repository/docker/v2/x/library/app/manifests/latest",
	} {
		o.Forget()
		h := hubs(t, upstream.Options{}, upstream.Config{Endpoints: []string{s.URL + path}})
		h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		if r := o.Requests(); len(r) == 0 || r[0].Path != want {
			t.Errorf("%q: %+v", path, r)
		}
	}
	// the prefix is part of the repository that a token is for
	o.RequireToken(origintest.TokenServer{})
	mustSlurp(t, hubs(t, upstream.Options{}, upstream.Config{Endpoints: []string{s.URL + "/v2/hub"}}), tagRef("latest"))
}

func TestDefaultEndpoints(t *testing.T) {
	w := &world{}
	h, err := upstream.New([]upstream.Config{{Name: "docker.io"}, {Name: "ghcr.io"}, {Name: "reg.corp:5000"}}, upstream.Options{Dial: w.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, s := range h.Stats() {
		ref := tagRef("latest")
		ref.Registry = s.Registry
		_, err := h.Resolve(t.Context(), ref, cache.Whole)
		wantErr(t, err, cache.ErrUnavailable)
	}
	if got := strings.Join(w.Dialled(), " "); got != "registry-1.docker.io:443 ghcr.io:443 reg.corp:5000" {
		t.Error(got)
	}
}

func TestPasswordFileIsReadAnew(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.Account("acme", "first-password")
	o.RequireBasic()
	secret := file(t, "password", []byte("first-password\n"))
	c := at(origintest.Serve(t, o))
	c.Credentials = []upstream.Credential{{Username: "acme", PasswordFile: secret}}
	h := hubs(t, upstream.Options{}, c)
	mustSlurp(t, h, tagRef("latest"))
	o.Account("acme", "second-password")
	if err := os.WriteFile(secret, []byte("second-password"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustSlurp(t, h, tagRef("latest"))
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, "no login", secret)
}
