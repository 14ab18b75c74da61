package upstream_test

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// Offline, by configuration of all or of one, no way leads to a connection.
func TestOfflineDialsNobody(t *testing.T) {
	for name, c := range map[string]struct{ all, own bool }{"all": {all: true}, "one": {own: true}} {
		t.Run(name, func(t *testing.T) {
			w := &world{rest: "127.0.0.1:1"}
			h := hubs(t, upstream.Options{Dial: w.Dial, Offline: c.all, AnyUpstream: true}, upstream.Config{Offline: c.own})
			for path, err := range everyPath(t.Context(), h, cache.Sum(nil)) {
				wantErr(t, err, cache.ErrOffline, "tidepool is offline")
				wantErr(t, err, cache.ErrUnavailable)
				_ = path
			}
			other := tagRef("latest")
			other.Registry = "other.test"
			if _, err := h.Resolve(t.Context(), other, cache.Whole); c.all {
				wantErr(t, err, cache.ErrOffline)
			}
			for _, addr := range w.Dialled() {
				if c.all || addr != "other.test:443" {
					t.Errorf("%s was dialled", addr)
				}
			}
			if s := h.Stats(); s[len(s)-1].Requests != 0 || s[len(s)-1].Failures != 0 || !s[len(s)-1].Offline {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Switched while a request is under way, it ends where the next connection would be made: to a token server, to
// where a redirect leads, or to the endpoint for another page. It speaks against nobody.
func TestOfflineInTheMiddle(t *testing.T) {
	o, elsewhere := origintest.New(), origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1<<10))
	s, other := origintest.Serve(t, o), origintest.Serve(t, elsewhere)
	w := &world{routes: map[string]string{"hub.test:80": s.Addr(), "cdn.test:80": other.Addr(), "auth.test:80": other.Addr()}}
	h := hubs(t, upstream.Options{Dial: w.Dial}, upstream.Config{
		Endpoints: []string{"http://hub.test"}, RedirectHosts: []string{"cdn.test"}, Realms: []string{"http://auth.test"}})
	for name, rule := range map[string]func() *origintest.Rule{
		"a redirect": func() *origintest.Rule { return o.When().Redirect("http://cdn.test/x") },
		"a token server": func() *origintest.Rule {
			return o.When().Status(401).Header("WWW-Authenticate", `Bearer realm="http://auth.test/token"`)
		},
	} {
		held := o.When().Hang()
		rule()
		done := make(chan error, 1)
		go func() {
			_, _, err := slurp(soon(t), h, blobRef(blob.Digest()), cache.Whole)
			done <- err
		}()
		select {
		case <-held.Reached():
		case err := <-done:
			t.Fatalf("%s: %v", name, err)
		}
		h.SetOffline("", true)
		held.Release()
		if err := <-done; err == nil {
			t.Errorf("%s: no error", name)
		} else {
			wantErr(t, err, cache.ErrOffline)
		}
		h.SetOffline("", false)
		o.Heal()
	}
	if n := elsewhere.Count(); n != 0 || len(w.Dialled()) != 1 {
		t.Errorf("%d requests elsewhere; dialled %v", n, w.Dialled())
	}
	if s := h.Stats()[0]; s.Failures != 0 || !s.Endpoints[0].Up {
		t.Errorf("%+v", s)
	}
	if got := mustSlurp(t, h, blobRef(blob.Digest())); !blob.Digest().Names(got) {
		t.Error("other bytes")
	}
}

// The switch of one leaves the others alone; each change is logged once; what is not configured has no switch.
func TestSetOffline(t *testing.T) {
	core, log := observer.New(zap.InfoLevel)
	h := hubs(t, upstream.Options{Log: zap.New(core)}, upstream.Config{})
	for range 2 {
		if !h.SetOffline("reg.test", true) || !h.SetOffline("", true) {
			t.Error("refused")
		}
	}
	if all, one := h.Offline(); !all || len(one) != 1 || !one["reg.test"] {
		t.Errorf("%v, %v", all, one)
	}
	h.SetOffline("", false)
	if !h.Stats()[0].Offline {
		t.Error("what was said of one went with what was said of all")
	}
	h.SetOffline("reg.test", false)
	if h.Stats()[0].Offline || h.SetOffline("other.test", true) {
		t.Error("still offline, or a registry that nobody has configured has a switch")
	}
	if n := log.FilterMessage("offline mode was switched").Len(); n != 4 {
		t.Errorf("%d lines for 4 changes", n)
	}
}
