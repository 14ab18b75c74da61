package proxy_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy"
)

// curious is a store that has nothing, and remembers who asked.
type curious struct {
	err    error
	caller cache.Caller
	login  cache.Login
}

func (c *curious) Stat(ctx context.Context, _ cache.Ref) (cache.Found, error) {
	c.caller, c.login = cache.CallerOf(ctx), cache.LoginOf(ctx)
	return cache.Found{}, c.err
}

func (c *curious) Open(ctx context.Context, ref cache.Ref, _ cache.Want) (*cache.Blob, error) {
	_, err := c.Stat(ctx, ref)
	return nil, err
}

func basic(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }

// Who asks is told apart by all that is shown, for the upstreams that want to know, and for no others.
func TestWhoAsks(t *testing.T) {
	store := &curious{err: cache.ErrNotFound}
	h := &proxy.Handler{Store: store, Names: proxy.Names{Default: "docker.io", Upstreams: map[string]proxy.Upstream{
		"docker.io": {Library: true}, "a.test": {Callers: true}, "b.test": {Callers: true}}}}
	seen := map[cache.Caller]string{}
	for _, c := range []struct {
		path, auth string
		login      cache.Login
		same       bool // as the one before
		status     int
	}{
		{"a.test", "", cache.Login{}, false, 404},
		{"a.test", basic(":"), cache.Login{}, true, 404},
		{"a.test", basic("alice:secret"), cache.Login{Username: "alice", Password: "secret"}, false, 404},
		{"a.test", "basic " + basic("alice:secret")[6:], cache.Login{Username: "alice", Password: "secret"}, true, 404},
		{"a.test", basic("alice:other"), cache.Login{Username: "alice", Password: "other"}, false, 404},
		{"a.test", basic("alic:esecret"), cache.Login{Username: "alic", Password: "esecret"}, false, 404},
		{"a.test", basic("alice:"), cache.Login{Username: "alice"}, false, 404},
		{"a.test", basic("alice:a:b"), cache.Login{Username: "alice", Password: "a:b"}, false, 404},
		{"b.test", basic("alice:secret"), cache.Login{Username: "alice", Password: "secret"}, false, 404},
		{"b.test", "", cache.Login{}, false, 404},
		{"a.test", basic(":secret"), cache.Login{}, false, 401},
		{"a.test", "Bearer abc", cache.Login{}, false, 401},
		{"a.test", "Negotiate abc", cache.Login{}, false, 401},
		{"a.test", "Basic", cache.Login{}, false, 401},
		{"a.test", "Basic !!!", cache.Login{}, false, 401},
		{"docker.io", basic("alice:secret"), cache.Login{}, false, 404},
	} {
		before := store.caller
		store.caller, store.login = "", cache.Login{}
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v2/"+c.path+"/team/a/manifests/1", nil)
		if c.auth != "" {
			r.Header.Set("Authorization", c.auth)
		}
		h.ServeHTTP(w, r)
		what := fmt.Sprintf("%s %q", c.path, c.auth)
		if w.Code != c.status || store.login != c.login {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
		if asked := w.Header().Get("Www-Authenticate") != ""; asked != (w.Code == 401) {
			t.Errorf("%s: %v", what, w.Header())
		}
		switch last, known := seen[store.caller]; {
		case w.Code == 401 || c.path == "docker.io":
			if store.caller != "" {
				t.Errorf("%s: asked as %q", what, store.caller)
			}
		case store.caller == "":
			t.Errorf("%s: nobody in particular", what)
		case c.same != (store.caller == before) || known && !c.same:
			t.Errorf("%s: the same as %q: %v", what, last, known)
		}
		seen[store.caller] = what
		if s := fmt.Sprintf("%v %+v %#v %s", store.login, store.login, store.login, store.caller); strings.Contains(s, "alice") || strings.Contains(s, "secret") {
			t.Errorf("%s", s)
		}
	}
}

// What is said to who may not have something: one thing, whatever the upstream's words were; and to who sends no login,
// how one gets here from his client.
func TestPersonalRefusals(t *testing.T) {
	h := &proxy.Handler{Names: proxy.Names{Default: "a.test", Upstreams: map[string]proxy.Upstream{"a.test": {Callers: true}}}}
	for _, c := range []struct {
		err         error
		agent, auth string
		status      int
		code, says  string
	}{
		{cache.ErrDenied, "", "", 401, "UNAUTHORIZED", "log in to example.com with the account at a.test"},
		{cache.ErrDenied, "containerd/1.6.20", "", 401, "UNAUTHORIZED", "hosts.toml"},
		{cache.ErrDenied, "skopeo/1.9.3", "", 401, "UNAUTHORIZED", "podman login example.com"},
		{cache.ErrDenied, "docker/20.10.24", "", 401, "UNAUTHORIZED", "docker login example.com"},
		{cache.ErrDenied, "", basic("a:b"), 403, "DENIED", "refuses it to this login"},
		{cache.ErrNotFound, "", basic("a:b"), 404, "MANIFEST_UNKNOWN", "or does not show it"},
		{cache.ErrNotFound, "", "", 404, "MANIFEST_UNKNOWN", "or does not show it"},
		{cache.ErrUnavailable, "", basic("a:b"), 502, "UNAVAILABLE", "cannot be asked"},
		{cache.ErrOffline, "", basic("a:b"), 404, "MANIFEST_UNKNOWN", "cannot be asked"},
	} {
		h.Store = &curious{err: fmt.Errorf("the upstream's words: %w", c.err)}
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v2/team/a/manifests/1", nil)
		r.Header.Set("User-Agent", c.agent)
		if c.auth != "" {
			r.Header.Set("Authorization", c.auth)
		}
		h.ServeHTTP(w, r)
		body := w.Body.String()
		if w.Code != c.status || code(body) != c.code || !strings.Contains(body, c.says) || strings.Contains(body, "words") {
			t.Errorf("%v to %q: %d %s", c.err, c.agent, w.Code, body)
		}
	}
}
