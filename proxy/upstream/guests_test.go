package upstream_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// visit is ctx for one who shows a login; none for "".
func visit(ctx context.Context, user, password string) context.Context {
	if user == "" {
		return cache.WithCaller(ctx, "nobody")
	}
	return cache.WithLogin(cache.WithCaller(ctx, cache.Caller(user+"'s"+password)), cache.Login{Username: user, Password: password})
}

// visited is a registry with alice, who may have everything, and bob, who may not, and the source that asks it in their
// names.
func visited(t *testing.T, setup func(*origintest.Origin)) (*origintest.Origin, *upstream.Hubs) {
	t.Helper()
	o := origintest.New()
	setup(o)
	o.Private()
	o.Account("alice", canary)
	o.Account("bob", "hunter22", "library/other")
	o.PutImage(repo, "latest", origintest.Spec{})
	n := new(origintest.Net)
	origintest.ServeIn(t, n, "reg.test:80", o)
	return o, hubs(t, upstream.Options{Dial: n.DialContext}, upstream.Config{
		Endpoints: []string{"http://reg.test"}, Guests: 5 * time.Minute})
}

func withTokens(o *origintest.Origin) { o.RequireToken(origintest.TokenServer{Life: time.Hour}) }

// Each is asked for in his own name; a refusal is final, and nobody else's.
func TestGuests(t *testing.T) {
	for name, setup := range map[string]func(*origintest.Origin){"token": withTokens, "basic": (*origintest.Origin).RequireBasic} {
		synctest.Test(t, func(t *testing.T) {
			_, h := visited(t, setup)
			for range 3 {
				for _, c := range []struct{ user, password, says string }{
					{"alice", canary, ""}, {"bob", "hunter22", "reg.test answered"}, {"", "", "no"}, {"alice", "wrong", "the login \"alice\""},
				} {
					_, _, err := slurp(visit(t.Context(), c.user, c.password), h, tagRef("latest"), cache.Whole)
					switch {
					case c.says == "" && err != nil:
						t.Errorf("%s: %s: %v", name, c.user, err)
					case c.says != "":
						wantErr(t, err, cache.ErrDenied, c.says)
					}
				}
			}
			_, _, err := slurp(cache.WithLogin(t.Context(), cache.Login{Username: "alice", Password: canary}), h, tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrDenied) // a login that is nobody's is shown to nobody
			s := h.Stats()[0]
			if !s.Endpoints[0].Up || len(s.Refused) > 0 || s.Failures > 0 {
				t.Errorf("%s: %+v", name, s)
			}
			if all := fmt.Sprintf("%+v %s", s, h.Ledger()); strings.Contains(all, "alice") || strings.Contains(all, canary) {
				t.Errorf("%s: %s", name, all)
			}
		})
	}
}

// A wrong login is shown once in half a minute, whatever is asked for with it.
func TestWrongGuestIsNotShownAgain(t *testing.T) {
	for name, setup := range map[string]func(*origintest.Origin){"token": withTokens, "basic": (*origintest.Origin).RequireBasic} {
		synctest.Test(t, func(t *testing.T) {
			o, h := visited(t, setup)
			wrong := origintest.Where(func(r *origintest.Request) bool {
				return r.Authorized() && r.Status == 401
			})
			ask := func(want int) {
				t.Helper()
				for range 20 {
					for _, ref := range []cache.Ref{tagRef("latest"), tagRef("other"), tagsRef()} {
						_, err := h.Resolve(visit(t.Context(), "alice", "wrong"), ref, cache.Whole)
						wantErr(t, err, cache.ErrDenied)
					}
				}
				if n := o.Count(wrong); n != want {
					t.Errorf("%s: shown %d times, want %d", name, n, want)
				}
			}
			each := map[string]int{"token": 1, "basic": 2}[name] // of a registry's own 401 its base is asked too
			ask(each)
			time.Sleep(31 * time.Second)
			ask(2 * each)
		})
	}
}

// A token that was made for a guest is used for no longer than a yes, however long its server says that it lives.
func TestGuestTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, h := visited(t, withTokens)
		alice := visit(t.Context(), "alice", canary)
		for range 5 {
			if _, err := h.Resolve(alice, tagRef("latest"), cache.Whole); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Second)
		}
		if n := o.Count(origintest.Token); n != 1 {
			t.Errorf("%d tokens", n)
		}
		o.Account("alice", canary, "library/other")
		time.Sleep(time.Minute)
		_, err := h.Resolve(alice, tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrDenied)
	})
}

// A guest's login goes where our own would go, and nowhere else.
func TestGuestsRealm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, h := visited(t, func(o *origintest.Origin) {
			o.RequireToken(origintest.TokenServer{Realm: "http://evil.test/token"})
		})
		_, _, err := slurp(visit(t.Context(), "alice", canary), h, tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "evil.test")
		if strings.Contains(err.Error(), canary) {
			t.Error(err)
		}
		for _, r := range o.Requests() {
			if r.Authorized() {
				t.Errorf("%s %s was shown a login", r.Host, r.Path)
			}
		}
	})
}

// The pull limit of one guest is not another's, and however many there are, few are remembered.
func TestGuestsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, h := visited(t, withTokens)
		o.RateLimit(1, time.Hour, "an account")
		alice, carol := visit(t.Context(), "alice", canary), visit(t.Context(), "carol", "s3cr3t")
		o.Account("carol", "s3cr3t")
		if _, _, err := slurp(alice, h, tagRef("latest"), cache.Whole); err != nil {
			t.Fatal(err)
		}
		_, _, err := slurp(alice, h, tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrLimited)
		o.RateLimit(-1, 0, "")
		_, _, err = slurp(alice, h, tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrLimited)
		if _, _, err := slurp(carol, h, tagRef("latest"), cache.Whole); err != nil {
			t.Errorf("another's limit: %v", err)
		}
		if a := h.Stats()[0].Endpoints[0].Accounts; len(a) > 0 {
			t.Errorf("%+v", a)
		}
	})
}
