package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

func acme(c upstream.Config) upstream.Config {
	c.Credentials = []upstream.Credential{{Username: "acme", Password: canary}}
	return c
}

func TestAnonymousToken(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	o.RequireToken(origintest.TokenServer{})
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	mustSlurp(t, h, tagRef("latest"))
	for _, b := range img.Blobs {
		mustSlurp(t, h, blobRef(b.Digest))
	}
	if n, all := o.Count(origintest.Token), o.Count(); n != 1 || all != 1+2+len(img.Blobs) {
		t.Errorf("%d tokens, %d requests: want one token, and one 401", n, all)
	}
}

func TestBasic(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	o.Account("acme", canary, repo)
	o.RequireBasic()
	h := hubs(t, upstream.Options{}, acme(at(origintest.Serve(t, o))))
	mustSlurp(t, h, tagRef("latest"))
	mustSlurp(t, h, blobRef(img.Blobs[0].Digest))
	if n := o.Count(); n != 3 {
		t.Errorf("%d requests: once it is known that a login is wanted, it is shown at once", n)
	}
	other := tagRef("latest")
	other.Repo = "another/app"
	_, err := h.Resolve(t.Context(), other, cache.Whole)
	wantErr(t, err, cache.ErrDenied) // the repository is refused, the login is good
	mustSlurp(t, h, tagRef("latest"))
}

// Some registries answer 401 where an accepted login may not see a repository.
func TestBasic401ForARepository(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.Account("acme", canary)
	o.RequireBasic()
	o.When(origintest.Repo("secret/app")).Unauthorized()
	h := hubs(t, upstream.Options{}, acme(at(origintest.Serve(t, o))))
	secret := tagRef("latest")
	secret.Repo = "secret/app"
	_, err := h.Resolve(t.Context(), secret, cache.Whole)
	wantErr(t, err, cache.ErrDenied)
	mustSlurp(t, h, tagRef("latest"))
}

// Where a refused login cannot be told from a refused repository, because the hub fails in between, nothing is final.
func TestRefusedWhileTheHubFails(t *testing.T) {
	o := origintest.New()
	o.Account("acme", canary)
	o.RequireBasic()
	o.When(noPing).After(1).Status(403)
	o.When(origintest.Ping).Drop()
	h := hubs(t, upstream.Options{}, acme(at(origintest.Serve(t, o))))
	_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable)
	if s := h.Stats()[0]; len(s.Refused) != 0 {
		t.Errorf("%+v", s)
	}
}

var noPing = origintest.Where(func(r *origintest.Request) bool { return r.Kind != origintest.Ping })

func TestAnonymousIsRefused(t *testing.T) {
	for name, guard := range map[string]func(*origintest.Origin){
		"basic": func(o *origintest.Origin) { o.RequireBasic() },
		"token": func(o *origintest.Origin) { o.Private(); o.RequireToken(origintest.TokenServer{}) },
		"no challenge": func(o *origintest.Origin) {
			o.When().Status(http.StatusUnauthorized).Header("WWW-Authenticate", "")
		},
		"unknown challenge": func(o *origintest.Origin) {
			o.When().Status(http.StatusUnauthorized).Header("WWW-Authenticate", "Negotiate abc==, Digest realm=x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := origintest.New()
			guard(o)
			h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
			for range 2 {
				_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
				wantErr(t, err, cache.ErrDenied, "needs a login (credentials under upstreams.reg.test)")
			}
		})
	}
}

// A login that is refused is our trouble and not the caller's; it is put aside, so that the account is not locked, and
// tried again later. A changed password is tried at once.
func TestRefusedLoginIsParked(t *testing.T) {
	for name, guard := range map[string]func(*origintest.Origin){
		"basic": func(o *origintest.Origin) { o.RequireBasic() },
		"token": func(o *origintest.Origin) { o.Private(); o.RequireToken(origintest.TokenServer{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := origintest.New()
				o.PutImage(repo, "latest", origintest.Spec{})
				o.Account("acme", canary)
				guard(o)
				var n origintest.Net
				c := at(origintest.ServeIn(t, &n, "hub.test:80", o))
				secret := file(t, "password", []byte("wrong-"+canary+"\n"))
				c.Credentials = []upstream.Credential{{Username: "acme", PasswordFile: secret}}
				h := hubs(t, upstream.Options{Dial: n.DialContext}, c)

				_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
				wantErr(t, err, cache.ErrUnavailable, `login "acme" under upstreams.reg.test is refused`)
				tries := logins(o)
				for range 20 {
					time.Sleep(2900 * time.Millisecond)
					_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
					wantErr(t, err, cache.ErrUnavailable, "was refused; it is tried again at")
				}
				if got := logins(o); got != tries {
					t.Errorf("shown %d times while it was parked", got-tries)
				}
				if s := h.Stats()[0]; !slices.Equal(s.Refused, []string{`"acme"`}) || !s.Endpoints[0].Up {
					t.Errorf("%+v", s)
				}
				time.Sleep(3 * time.Second)
				_, err = h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
				wantErr(t, err, cache.ErrUnavailable, "is refused")
				if err := os.WriteFile(secret, []byte(canary+"\r\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				mustSlurp(t, h, tagRef("latest"))
				if s := h.Stats()[0]; len(s.Refused) != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// logins is how often a password was shown.
func logins(o *origintest.Origin) int {
	return o.Count(origintest.Where(func(r *origintest.Request) bool {
		return strings.HasPrefix(r.Header.Get("Authorization"), "Basic ")
	}))
}

func TestSecondLoginTakesOver(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.Account("acme", canary)
	o.RequireBasic()
	c := at(origintest.Serve(t, o))
	c.Credentials = []upstream.Credential{{Username: "old", Password: "gone-gone"}, {Username: "acme", Password: canary}}
	h := hubs(t, upstream.Options{}, c)
	_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, `"old"`)
	mustSlurp(t, h, tagRef("latest"))
}

// A login is never shown under any name but its own.
func TestCredentialsAreForOneHostAndPort(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.RequireBasic()
	var n origintest.Net
	var endpoints []string
	for _, host := range []string{"registry.corp.evil.io", "registry.corp:444", "evil.registry.corp", "registry.corpse"} {
		addr := host
		if !strings.Contains(host, ":") {
			addr += ":80"
		}
		endpoints = append(endpoints, origintest.ServeIn(t, &n, addr, o).URL)
	}
	endpoints = append(endpoints, "http://evil.test/registry.corp", "http://registry.corp")
	origintest.ServeIn(t, &n, "evil.test:80", o)
	o2 := origintest.New()
	o2.PutImage(repo, "latest", origintest.Spec{})
	o2.Account("acme", canary)
	o2.RequireBasic()
	origintest.ServeIn(t, &n, "registry.corp:80", o2)

	doc := fmt.Sprintf(`{"auths": {"registry.corp": {"username": "acme", "password": %q}, "registry.corp/team": {"username": "x", "password": "y"}}}`, canary)
	for name, c := range map[string]upstream.Config{
		"credentials":   {Credentials: []upstream.Credential{{Username: "acme", Password: canary, Endpoint: "registry.corp:80"}}},
		"docker config": {DockerConfig: file(t, "config.json", []byte(doc))},
	} {
		c.Endpoints = endpoints
		mustSlurp(t, hubs(t, upstream.Options{Dial: n.DialContext}, c), tagRef("latest"))
		for _, r := range o.Requests() {
			if r.Authorized() {
				t.Errorf("%s: %s was shown %q", name, r.Host, r.Header.Get("Authorization"))
			}
		}
	}
}

func TestDockerConfig(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.Account("acme", canary)
	o.RequireBasic()
	s := origintest.Serve(t, o)
	host := strings.TrimPrefix(s.URL, "http://")
	auth := "YWNtZTpzM2NyM3QtYzRuNHJ5LTVkNDE0MDJhYmM0YjJhNzY=" // acme and the canary
	for name, doc := range map[string]string{
		"username and password": `{"auths": {"HOST": {"username": "acme", "password": "` + canary + `"}}}`,
		"auth":                  `{"auths": {"HOST": {"auth": "` + auth + `"}}}`,
		"with a scheme":         `{"auths": {"http://HOST/v1/": {"auth": "` + auth + `"}}}`,
		"with a path":           `{"auths": {"https://HOST/v2/": {"auth": "` + auth + `"}}, "credsStore": ""}`,
		"helper for the host":   `{"credHelpers": {"HOST": "good"}}`,
		"helper for all":        `{"auths": {"HOST": {}}, "credsStore": "good"}`,
	} {
		t.Run(name, func(t *testing.T) {
			helpers(t)
			c := at(s)
			c.DockerConfig = file(t, "config.json", []byte(strings.ReplaceAll(doc, "HOST", host)))
			h := hubs(t, upstream.Options{}, c)
			mustSlurp(t, h, tagRef("latest"))
			mustSlurp(t, h, tagRef("latest"))
			if asked, err := os.ReadFile(os.Getenv("HELPER_LOG")); err == nil && strings.Count(string(asked), host) != 1 {
				t.Errorf("the helper was asked %q: once is enough for a while", asked)
			}
		})
	}
	for name, doc := range map[string]string{
		"nothing for the host":  `{"auths": {"other": {"auth": "` + auth + `"}}}`,
		"helper knows nothing":  `{"credsStore": "empty"}`,
		"another path":          `{"auths": {"HOST/team": {"auth": "` + auth + `"}}}`,
		"no entries whatsoever": `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			helpers(t)
			c := at(s)
			c.DockerConfig = file(t, "config.json", []byte(strings.ReplaceAll(doc, "HOST", host)))
			_, err := hubs(t, upstream.Options{}, c).Resolve(t.Context(), tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrDenied, "the docker_config under upstreams.reg.test has none for "+host)
		})
	}
	for name, doc := range map[string]string{
		"helper fails":     `{"credsStore": "bad"}`,
		"helper babbles":   `{"credsStore": "babble"}`,
		"helper is absent": `{"credsStore": "absent"}`,
		"helper is a path": `{"credsStore": "../good"}`,
	} {
		t.Run(name, func(t *testing.T) {
			helpers(t)
			c := at(s)
			c.DockerConfig = file(t, "config.json", []byte(doc))
			_, err := hubs(t, upstream.Options{}, c).Resolve(t.Context(), tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable, "no login for "+host+" can be used", "credential helper")
			if strings.Contains(err.Error(), canary) {
				t.Errorf("%v", err)
			}
		})
	}
}

// helpers puts credential helpers on the PATH.
func helpers(t *testing.T) {
	dir := t.TempDir()
	for name, script := range map[string]string{
		"good":   `read server; echo "$server" >>"$HELPER_LOG"; echo '{"Username":"acme","Secret":"` + canary + `"}'`,
		"empty":  `echo "credentials not found in native keychain"; exit 1`,
		"bad":    `echo ` + canary + `; echo ` + canary + ` >&2; exit 3`,
		"babble": `echo "the password is ` + canary + `"`,
		"token":  `echo '{"Username":"<token>","Secret":"` + canary + `"}'`,
	} {
		path := filepath.Join(dir, "docker-credential-"+name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("HELPER_LOG", filepath.Join(dir, "log"))
}

func TestDockerConfigIsReadAnew(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.Account("acme", canary)
	o.RequireBasic()
	c := at(origintest.Serve(t, o))
	c.DockerConfig = file(t, "config.json", []byte(`{}`))
	h := hubs(t, upstream.Options{}, c)
	_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrDenied)
	doc := fmt.Sprintf(`{"auths": {%q: {"username": "acme", "password": %q}}}`, strings.TrimPrefix(c.Endpoints[0], "http://"), canary)
	if err := os.WriteFile(c.DockerConfig, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	mustSlurp(t, h, tagRef("latest"))
}

// Docker Hub's login is filed under its old name.
func TestDockerConfigOfDockerHub(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.Account("acme", canary)
	o.Private()
	o.RequireToken(origintest.TokenServer{Realm: "https://auth.docker.io/token"})
	s := origintest.ServeTLS(t, o, origintest.TLS{Names: []string{"auth.docker.io", "registry-1.docker.io"}})
	w := &world{rest: s.Addr()}
	doc := fmt.Sprintf(`{"auths": {"https://index.docker.io/v1/": {"username": "acme", "password": %q}}}`, canary)
	h := hubs(t, upstream.Options{Dial: w.Dial}, upstream.Config{
		Name: "docker.io", DockerConfig: file(t, "config.json", []byte(doc)), CAFile: file(t, "ca.pem", s.CA.PEM()),
	})
	ref := tagRef("latest")
	ref.Registry = "docker.io"
	mustSlurp(t, h, ref)
}

// An identity token goes to the token server in the body of a POST.
func TestIdentityToken(t *testing.T) {
	var form, auth string
	s := raw(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			r.ParseForm()
			form, auth = r.Method+" "+r.PostForm.Encode(), r.Header.Get("Authorization")+r.URL.RawQuery
			fmt.Fprint(w, `{"access_token": "good-token", "expires_in": "300"}`)
		case r.Header.Get("Authorization") != "Bearer good-token":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="svc"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.Write(blobBytes)
		}
	})
	helpers(t)
	h := hubs(t, upstream.Options{}, upstream.Config{
		Endpoints: []string{s}, DockerConfig: file(t, "config.json", []byte(`{"credsStore": "token"}`)),
	})
	if b := mustSlurp(t, h, blobRef(cache.Sum(blobBytes))); string(b) != string(blobBytes) {
		t.Errorf("%q", b)
	}
	want := "POST client_id=tidepool&grant_type=refresh_token&refresh_token=" + canary + "&scope=repository%3Alibrary%2Fapp%3Apull&service=svc"
	if form != want || auth != "" {
		t.Errorf("%q, %q", form, auth)
	}
}

// A token is used for four fifths of its life, believed within reason, and replaced once when it is refused.
func TestTokensAge(t *testing.T) {
	for name, c := range map[string]struct {
		expires any
		lasts   time.Duration // before the next one is fetched
	}{
		"300 s":        {300, 240 * time.Second},
		"as a string":  {"300", 240 * time.Second},
		"a fraction":   {300.5, 240400 * time.Millisecond},
		"0":            {0, 24 * time.Second},
		"-1":           {-1, 24 * time.Second},
		"5 s":          {5, 24 * time.Second},
		"10⁹":          {1e9, 48 * time.Minute},
		"10³⁰⁰":        {1e300, 48 * time.Minute},
		"none":         {nil, 48 * time.Second},
		"nonsense":     {"soon", 48 * time.Second},
		"not a number": {"NaN", 48 * time.Second},
		"an object":    {map[string]int{}, 48 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := origintest.New()
				o.PutImage(repo, "latest", origintest.Spec{})
				o.RequireToken(origintest.TokenServer{Life: 24 * time.Hour, Answer: func(m map[string]any) {
					m["expires_in"] = c.expires
					if c.expires == nil {
						delete(m, "expires_in")
					}
				}})
				var n origintest.Net
				h := hubs(t, upstream.Options{Dial: n.DialContext}, at(origintest.ServeIn(t, &n, "hub.test:80", o)))
				mustSlurp(t, h, tagRef("latest"))
				time.Sleep(c.lasts - time.Second)
				mustSlurp(t, h, tagRef("latest"))
				if got := o.Count(origintest.Token); got != 1 {
					t.Errorf("%d tokens before %v are over", got, c.lasts)
				}
				time.Sleep(2 * time.Second)
				mustSlurp(t, h, tagRef("latest"))
				if got := o.Count(origintest.Token); got != 2 {
					t.Errorf("%d tokens after %v", got, c.lasts)
				}
			})
		})
	}
}

func TestRevokedTokenIsReplacedOnce(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.RequireToken(origintest.TokenServer{})
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	mustSlurp(t, h, tagRef("latest"))
	o.RevokeTokens()
	mustSlurp(t, h, tagRef("latest"))
	if n := o.Count(origintest.Token); n != 2 {
		t.Errorf("%d tokens", n)
	}
	o.Forget()
	o.When(noToken).Unauthorized()
	_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrDenied)
	if tokens, asked := o.Count(origintest.Token), o.Count(noToken); tokens != 1 || asked != 2 {
		t.Errorf("a hub that always says 401 got %d requests and %d for tokens", asked, tokens)
	}
}

// While a new token cannot be had, one that is not over yet is good enough.
func TestTokenServerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := origintest.New()
		o.PutImage(repo, "latest", origintest.Spec{})
		o.RequireToken(origintest.TokenServer{})
		var n origintest.Net
		h := hubs(t, upstream.Options{Dial: n.DialContext}, at(origintest.ServeIn(t, &n, "hub.test:80", o)))
		mustSlurp(t, h, tagRef("latest"))
		down := o.When(origintest.Token).Status(503)
		time.Sleep(270 * time.Second)
		mustSlurp(t, h, tagRef("latest"))
		if down.Seen() != 1 {
			t.Error("the token server was not asked")
		}
		time.Sleep(60 * time.Second)
		_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "answered 503")
		down.End()
		time.Sleep(2 * time.Second)
		mustSlurp(t, h, tagRef("latest"))
	})
}

// All who need the same token wait for one request, and none of them owns it.
func TestOneTokenRequestForAll(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.RequireToken(origintest.TokenServer{})
	hold := o.When(origintest.Token).Hang()
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	first, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := h.Resolve(first, tagRef("latest"), cache.Whole)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
	})
	<-hold.Reached()
	for range 20 {
		wg.Go(func() {
			if _, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole); err != nil {
				t.Error(err)
			}
		})
	}
	if err := o.Await(t.Context(), 21, noToken); err != nil {
		t.Fatal(err)
	}
	leave()
	hold.End()
	wg.Wait()
	if n := o.Count(origintest.Token); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

func TestTokenServersThatMisbehave(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*origintest.Rule)
		says  string
	}{
		"no JSON":     {func(r *origintest.Rule) { r.Body("application/json", []byte("token!")) }, "no JSON"},
		"no token":    {func(r *origintest.Rule) { r.Body("application/json", []byte(`{"tokens":1}`)) }, "no usable token"},
		"bad token":   {func(r *origintest.Rule) { r.Body("application/json", []byte(`{"token":"a\r\nX: y"}`)) }, "no usable token"},
		"endless":     {func(r *origintest.Rule) { r.Endless() }, "larger than 1 MiB"},
		"HTML":        {func(r *origintest.Rule) { r.HTML() }, "no JSON"},
		"redirect":    {func(r *origintest.Rule) { r.Redirect("http://evil.test/") }, "redirects"},
		"hangs up":    {func(r *origintest.Rule) { r.Drop() }, ""},
		"404":         {func(r *origintest.Rule) { r.Status(404) }, "answered 404"},
		"cut":         {func(r *origintest.Rule) { r.CutAt(10) }, "ended"},
		"its own 401": {func(r *origintest.Rule) { r.Unauthorized() }, "is refused"},
		"403":         {func(r *origintest.Rule) { r.Status(403) }, "is the login under upstreams.reg.test right?"},
	} {
		t.Run(name, func(t *testing.T) {
			o := origintest.New()
			o.PutImage(repo, "latest", origintest.Spec{})
			o.Account("acme", canary)
			o.RequireToken(origintest.TokenServer{})
			c.spoil(o.When(origintest.Token))
			h := hubs(t, upstream.Options{}, acme(at(origintest.Serve(t, o))))
			_, err := h.Resolve(soon(t), tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable, c.says)
			if errors.Is(err, cache.ErrNotFound) {
				t.Errorf("%v: what the token was for may well exist", err)
			}
		})
	}
}

// A token server that does not answer is given up as a registry is.
func TestTokenServerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := origintest.New()
		o.PutImage(repo, "latest", origintest.Spec{})
		o.RequireToken(origintest.TokenServer{})
		hang := o.When(origintest.Token).Hang()
		var n origintest.Net
		h := hubs(t, upstream.Options{Dial: n.DialContext}, at(origintest.ServeIn(t, &n, "hub.test:80", o)))
		began := time.Now()
		_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable)
		if took := time.Since(began); took != 15*time.Second {
			t.Errorf("took %v", took)
		}
		hang.End()
		time.Sleep(time.Second)
		trickle := o.When(origintest.Token).Pace(1)
		_, err = h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "within 1m0s")
		trickle.End()
		time.Sleep(2 * time.Second)
		mustSlurp(t, h, tagRef("latest"))
	})
}
