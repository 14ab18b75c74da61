package upstream_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// foreignRealms are the token servers that a hub at https://reg.com might name to be given the login meant for it.
var foreignRealms = []string{
	"https://evil.tld/token",
	"https://reg.com:8443/token",
	"https://auth.reg.com/token",
	"https://reg.com.evil.tld/token",
	"https://reg.com@evil.tld/token",
	"https://reg.com:443@evil.tld/token",
	"https://evil.tld/token?host=reg.com",
	"https://evil.tld#@reg.com/",
	`https://evil.tld\@reg.com/`,
	"https://93.184.216.34/token",
	"https://1572395042/token",
	"https://0x5db8d822/token",
	"https://0135.0270.0330.042/token",
	"https://[2001:db8::1]/token",
	"https://[::ffff:93.184.216.34]/token",
	"https://xn--rg-bja.com/token",
	"https://rég.com/token",
	"https://reg.com./token",
	"http://reg.com/token",
	"http://reg.com:443/token",
	"HTTP://reg.com/token",
	"file:///etc/passwd",
	"gopher://reg.com/token",
	"",
	"/token",
	"token",
	"//evil.tld/token",
	"https:///token",
	"https:evil.tld",
	"https://%65vil.tld/token",
}

// town is the hub https://reg.com with an account, in a network where every other name leads to evil.
type town struct {
	world
	hub, evil *origintest.Origin
	server    *origintest.Server
	ca        string
}

func newTown(t *testing.T) *town {
	ca, err := origintest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	w := &town{hub: origintest.New(), evil: origintest.New(), ca: file(t, "ca.pem", ca.PEM())}
	w.hub.PutImage(repo, "latest", origintest.Spec{})
	w.hub.Account("acme", canary)
	w.hub.Private()
	w.hub.RequireToken(origintest.TokenServer{})
	w.server = origintest.ServeTLS(t, w.hub, origintest.TLS{CA: ca, Names: []string{"reg.com", "auth.corp"}})
	names := []string{"evil.tld", "auth.reg.com", "reg.com.evil.tld", "reg.com", "93.184.216.34", "2001:db8::1"}
	w.world.rest = origintest.ServeTLS(t, w.evil, origintest.TLS{CA: ca, Names: names}).Addr()
	w.world.routes = map[string]string{"reg.com:443": w.server.Addr()}
	return w
}

// names makes the hub name realm as its token server.
func (w *town) names(realm string) {
	w.hub.When(noToken).Status(http.StatusUnauthorized).
		Header("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s",service="reg.com",scope="repository:library/app:pull"`, realm))
}

var noToken = origintest.Where(func(r *origintest.Request) bool { return r.Kind != origintest.Token })

func (w *town) source(t *testing.T, c upstream.Config) *upstream.Hubs {
	c.Endpoints, c.CAFile = []string{"https://reg.com"}, w.ca
	if c.DockerConfig == "" {
		c.Credentials = []upstream.Credential{{Username: "acme", Password: canary}}
	}
	return hubs(t, upstream.Options{Dial: w.Dial}, c)
}

// atHome checks that nobody went anywhere but to the hub.
func (w *town) atHome(t *testing.T) {
	t.Helper()
	if d := w.Dialled(); !slices.Equal(d, []string{"reg.com:443"}) {
		t.Errorf("dialled %v", d)
	}
	if r := w.evil.Requests(); len(r) != 0 {
		t.Errorf("the foreign host was asked: %+v", r)
	}
}

// A pull-through cache that asks whatever realm a registry names for a token hands it the registry's password.
func TestCVE_2026_33540_TokenRealmOnForeignHost(t *testing.T) {
	w := newTown(t)
	for _, realm := range foreignRealms {
		t.Run(realm, func(t *testing.T) {
			w.names(realm)
			defer w.hub.Heal()
			_, err := w.source(t, upstream.Config{}).Resolve(soon(t), tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable, "token server")
			w.atHome(t)
		})
	}
	t.Run("upper case is the same host", func(t *testing.T) {
		w.hub.RequireToken(origintest.TokenServer{Realm: "https://REG.COM/token"})
		mustSlurp(t, w.source(t, upstream.Config{}), tagRef("latest"))
		w.atHome(t)
	})
}

// The rule has to hold on every path on which a token may be needed.
func TestCVE_2026_33990_EveryPathToATokenIsGuarded(t *testing.T) {
	w := newTown(t)
	w.names("https://evil.tld/token")
	for path, err := range everyPath(soon(t), w.source(t, upstream.Config{}), cache.Sum(nil)) {
		t.Run(path, func(t *testing.T) {
			wantErr(t, err, cache.ErrUnavailable, "set realm: evil.tld under upstreams.reg.test")
		})
	}
	w.atHome(t)
}

func TestCVE_2026_48978_RealmRuleDoesNotOverblock(t *testing.T) {
	t.Run("plain http realm of an https hub", func(t *testing.T) {
		w := newTown(t)
		w.names("http://reg.com/token")
		_, err := w.source(t, upstream.Config{}).Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "without TLS", "set realm: http://reg.com")
		w.atHome(t)
	})
	t.Run("same host on a private address", func(t *testing.T) {
		o := origintest.New()
		o.PutImage(repo, "latest", origintest.Spec{})
		o.Account("acme", canary)
		o.Private()
		o.RequireToken(origintest.TokenServer{})
		c := at(origintest.Serve(t, o))
		c.Credentials = []upstream.Credential{{Username: "acme", Password: canary}}
		mustSlurp(t, hubs(t, upstream.Options{}, c), tagRef("latest"))
	})
	for _, realm := range []string{"auth.corp", "auth.corp:8443"} {
		t.Run("configured "+realm, func(t *testing.T) {
			w := newTown(t)
			w.world.rest = w.server.Addr() // every other name is the hub's too
			w.hub.RequireToken(origintest.TokenServer{Realm: "https://" + realm + "/token"})
			mustSlurp(t, w.source(t, upstream.Config{Realms: []string{realm}}), tagRef("latest"))
			_, err := w.source(t, upstream.Config{Realms: []string{"auth.corp:9000"}}).Resolve(t.Context(), tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable, "realm:")
		})
	}
	t.Run("no dial, no check", func(t *testing.T) {
		w := newTown(t)
		w.names("https://evil.tld/token")
		doc := `{"auths": {"reg.com": {"registrytoken": "` + canary + `"}}}`
		h := w.source(t, upstream.Config{DockerConfig: file(t, "config.json", []byte(doc))})
		_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "is refused") // by the hub, which takes no such token: it was shown
		if got := w.hub.Requests()[1].Header.Get("Authorization"); got != "Bearer "+canary {
			t.Errorf("showed %q", got)
		}
		w.atHome(t)
	})
}

// The service that a challenge names is data, and the scope is ours: pull, and this repository.
func TestTokenRequestIsOurOwn(t *testing.T) {
	for _, service := range []string{"a&scope=repository:x:push#", "a b+c%26", `"quoted"`, "x;scope=y"} {
		o := origintest.New()
		o.PutImage(repo, "latest", origintest.Spec{})
		o.RequireToken(origintest.TokenServer{Service: service})
		o.When(noToken).Once().Status(http.StatusUnauthorized).Header("WWW-Authenticate",
			fmt.Sprintf(`Bearer realm="/token",service=%q,scope="repository:other:push,pull registry:catalog:*"`, service))
		s := origintest.Serve(t, o)
		h := hubs(t, upstream.Options{}, at(s))
		_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "token server") // a relative realm
		mustSlurp(t, h, tagRef("latest"))
		for _, r := range o.Requests(origintest.Token) {
			q, err := url.ParseQuery(r.Query)
			if err != nil || len(q["scope"]) != 1 || q.Get("scope") != "repository:library/app:pull" || q.Get("service") != service {
				t.Errorf("service %q was asked for as %q, %v", service, r.Query, err)
			}
		}
	}
}
