package upstream_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// limiting is a registry and how it is asked.
type limiting struct {
	*origintest.Origin
	img  *origintest.Image
	net  *origintest.Net
	conf upstream.Config
}

// limitingIn makes a registry within a bubble.
func limitingIn(t *testing.T) *limiting {
	o, n := origintest.New(), new(origintest.Net)
	img := o.PutImage(repo, "latest", origintest.Spec{})
	return &limiting{o, img, n, at(origintest.ServeIn(t, n, "hub.test:80", o))}
}

// hubs are a new process's, that was left ledger by the last.
func (l *limiting) hubs(t *testing.T, ledger []byte) *upstream.Hubs {
	return hubs(t, upstream.Options{Dial: l.net.DialContext, Ledger: ledger}, l.conf)
}

// refuses checks that h knows, without asking, that a manifest would be refused.
func (l *limiting) refuses(t *testing.T, ctx context.Context, h *upstream.Hubs) *cache.LimitedError {
	t.Helper()
	before := l.Count()
	_, err := h.Open(ctx, tagRef("latest"), cache.Whole)
	var limit *cache.LimitedError
	if !errors.As(err, &limit) || l.Count() != before {
		t.Fatalf("%v, after %d requests", err, l.Count()-before)
	}
	return limit
}

// After a refusal nothing that counts is asked before the time it named, nor by the next process.
func TestPullsWaitForTheTimeNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitingIn(t)
		l.RateLimit(1, 6*time.Hour, "192.0.2.7")
		l.RetryAfter()
		h := l.hubs(t, nil)
		mustSlurp(t, h, tagRef("latest"))
		opens := time.Now().Add(6 * time.Hour)
		_, err := h.Open(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrLimited, "reg.test limits pulls of 192.0.2.7 until", "the pull limit")
		for range 2 {
			for range 10 {
				time.Sleep(time.Minute)
				limit := l.refuses(t, t.Context(), h)
				if limit.Of != "pulls" || limit.Whose != "192.0.2.7" || !limit.Until.Equal(opens) {
					t.Errorf("%+v", limit)
				}
				if _, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole); err != nil {
					t.Errorf("a HEAD does not count: %v", err)
				}
				mustSlurp(t, h, blobRef(l.img.Blobs[0].Digest))
			}
			s := h.Stats()[0]
			if s.LimitedPulls+s.LimitedRequests > 1 || s.Unasked != 10 || !s.Endpoints[0].Accounts[0].Blocked.Equal(opens) {
				t.Errorf("%+v", s)
			}
			h = l.hubs(t, h.Ledger())
		}
		time.Sleep(time.Until(opens))
		mustSlurp(t, h, tagRef("latest"))
	})
}

// A refusal that is a 403 is one all the same, and no verdict on the login.
func TestPullsRefusedBy403(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n origintest.Net
		listener, err := n.Listen("hub.test:80")
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			if _, _, ok := r.BasicAuth(); !ok {
				w.Header().Set("WWW-Authenticate", "Basic")
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.Header().Set("Ratelimit-Limit", "200;w=21600")
			w.Header().Set("Ratelimit-Remaining", "0;w=21600")
			w.Header().Set("Retry-After", "600")
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors":[{"code":"TOOMANYREQUESTS","message":"enough"}]}`))
		})}
		go func() { _ = s.Serve(listener) }()
		defer s.Close()
		h := hubs(t, upstream.Options{Dial: n.DialContext}, upstream.Config{
			Endpoints: []string{"http://hub.test"}, Credentials: []upstream.Credential{{Username: "acme", Password: "secret"}},
		})
		for range 5 {
			_, err := h.Open(t.Context(), tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrLimited, "pulls of acme")
		}
		if s := h.Stats()[0]; asked != 2 || len(s.Refused) != 0 || s.LimitedPulls != 1 {
			t.Errorf("%d requests, %+v", asked, s)
		}
	})
}

// What is left below the reserve is for those who hold nothing that will do, as long as what was said may be true.
func TestReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitingIn(t)
		l.RateLimit(20, 6*time.Hour, "192.0.2.7")
		spare := cache.WithSpare(t.Context())
		h := l.hubs(t, nil)
		for range 18 {
			if _, _, err := slurp(spare, h, tagRef("latest"), cache.Whole); err != nil {
				t.Fatal(err)
			}
		}
		if limit := l.refuses(t, spare, h); !limit.Until.IsZero() || !strings.Contains(limit.Error(), "reserve") {
			t.Errorf("%v", limit)
		}
		if _, err := h.Resolve(spare, tagRef("latest"), cache.Whole); err != nil {
			t.Errorf("a HEAD does not count: %v", err)
		}
		mustSlurp(t, h, tagRef("latest"))
		l.refuses(t, spare, l.hubs(t, h.Ledger()))
		time.Sleep(6 * time.Hour)
		if _, _, err := slurp(spare, h, tagRef("latest"), cache.Whole); err != nil {
			t.Errorf("in another window: %v", err)
		}
	})
}

// The second login is used for what the first has no pulls left only where the configuration says so.
func TestLoginsTogether(t *testing.T) {
	for _, together := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := limitingIn(t)
			l.RequireBasic()
			l.Account("one", "first")
			l.Account("two", "second")
			as := func(name string) origintest.Where {
				return func(r *origintest.Request) bool {
					user, _, _ := (&http.Request{Header: r.Header}).BasicAuth()
					return user == name
				}
			}
			refusal := l.When(origintest.Manifest, origintest.GET, as("one")).Status(429)
			refusal.Header("Ratelimit-Limit", "200;w=21600").Header("Ratelimit-Remaining", "0;w=21600").Header("Retry-After", "3600")
			l.conf.CredentialsTogether = together
			l.conf.Credentials = []upstream.Credential{{Username: "one", Password: "first"}, {Username: "two", Password: "second"}}
			h := l.hubs(t, nil)
			for range 3 {
				_, err := h.Open(t.Context(), tagRef("latest"), cache.Whole)
				if together && err != nil {
					t.Error(err)
				}
				if !together {
					wantErr(t, err, cache.ErrLimited, "pulls of one")
				}
			}
			want := 0
			if together {
				want = 3
			}
			if n := l.Count(as("two")); n != want {
				t.Errorf("together %v: the second login was shown %d times", together, n)
			}
			if n := l.Count(origintest.Manifest, as("one")); n != 1 {
				t.Errorf("together %v: the first login was shown %d times", together, n)
			}
		})
	}
}

// What is no ledger of ours is no reason not to start.
func TestForeignLedger(t *testing.T) {
	for _, ledger := range []string{"", "{", "null", `{"schema":2,"endpoints":[{"registry":"reg.test"}]}`, "\x00\x00",
		`{"schema":1,"endpoints":[{"registry":"reg.test","url":"http://hub.test","quiet":"9999-01-01T00:00:00Z","learnt":-5,
		"sent":[{"at":"9999-01-01T00:00:00Z","n":-1},{"at":"0001-01-01T00:00:00Z","n":999999999999}],
		"accounts":[{"account":"","limit":-1,"remaining":99999999999999,"window":-1,"blocked":"9999-01-01T00:00:00Z","refusals":-1}]}]}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			l := limitingIn(t)
			h := l.hubs(t, []byte(ledger))
			time.Sleep(24*time.Hour + time.Second) // longer than any upstream is believed
			mustSlurp(t, h, tagRef("latest"))
			if len(h.Ledger()) == 0 {
				t.Error("no ledger")
			}
		})
	}
}
