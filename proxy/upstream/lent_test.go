package upstream_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// gathered has each of these hear what the others tell, until the test ends.
func gathered(t *testing.T, all ...*upstream.Hubs) {
	ctx, end := context.WithCancel(t.Context())
	var telling sync.WaitGroup
	for _, one := range all {
		telling.Go(func() {
			one.TellLimits(ctx, func(_ string, word []byte) {
				for _, other := range all {
					if other == one {
						continue
					}
					if err := other.HearLimit(word); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
	t.Cleanup(func() {
		end()
		telling.Wait()
	})
}

// settle lets a second pass: what is to be told is.
func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

// asked is how many requests that count as pulls came.
func (l *limiting) asked() int { return l.Count(origintest.Manifest, origintest.GET) }

// One meets the limit, and the others ask for nothing that counts until it ends.
func TestOnesLimitIsAllOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitingIn(t)
		l.RateLimit(2, 6*time.Hour, "192.0.2.7")
		l.RetryAfter()
		one, two, three := l.hubs(t, nil), l.hubs(t, nil), l.hubs(t, nil)
		gathered(t, one, two, three)
		opens := time.Now().Add(6 * time.Hour)
		mustSlurp(t, one, tagRef("latest"))
		mustSlurp(t, one, tagRef("latest"))
		settle()
		for _, h := range []*upstream.Hubs{two, three} {
			if a := h.Stats()[0].Endpoints[0].Accounts; len(a) != 1 || a[0].Limit != 2 || a[0].Remaining != 0 || a[0].Source != "192.0.2.7" {
				t.Errorf("before the refusal: %+v", a)
			}
		}
		if _, err := one.Open(t.Context(), tagRef("latest"), cache.Whole); !errors.Is(err, cache.ErrLimited) {
			t.Fatal(err)
		}
		settle()
		before := l.asked()
		for _, h := range []*upstream.Hubs{two, three} {
			for range 20 {
				if limit := l.refuses(t, t.Context(), h); limit.Of != "pulls" || limit.Whose != "192.0.2.7" || !limit.Until.Equal(opens) {
					t.Errorf("%+v", limit)
				}
				time.Sleep(8 * time.Minute)
				if _, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole); err != nil {
					t.Errorf("a HEAD does not count: %v", err)
				}
			}
		}
		if n := l.asked() - before; n > 0 {
			t.Errorf("%d pulls were asked for", n)
		}
		time.Sleep(time.Until(opens))
		mustSlurp(t, two, tagRef("latest"))
	})
}

// A word about another address, or another account, is none about ours.
func TestLimitsOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := limitingIn(t), limitingIn(t)
		here.RateLimit(1, 6*time.Hour, "192.0.2.7")
		here.RetryAfter()
		there.RateLimit(100, 6*time.Hour, "198.51.100.9")
		login := here.hubs(t, nil)
		here.conf.Credentials = []upstream.Credential{{Username: "acme", Password: "secret"}}
		named := here.hubs(t, nil)
		known, unknown := there.hubs(t, nil), there.hubs(t, nil)
		mustSlurp(t, known, tagRef("latest"))
		gathered(t, login, named, known, unknown)
		mustSlurp(t, login, tagRef("latest"))
		if _, err := login.Open(t.Context(), tagRef("latest"), cache.Whole); !errors.Is(err, cache.ErrLimited) {
			t.Fatal(err)
		}
		settle()
		mustSlurp(t, known, tagRef("latest")) // whom its address is counted as is known
		there.refuses(t, t.Context(), unknown)
		if _, err := unknown.Resolve(t.Context(), tagRef("latest"), cache.Whole); err != nil { // which says so
			t.Error(err)
		}
		mustSlurp(t, unknown, tagRef("latest"))
		before := here.asked()
		if _, err := named.Open(t.Context(), tagRef("latest"), cache.Whole); here.asked() == before {
			t.Errorf("another account was held back by nobody's limit: %v", err)
		}
	})
}

// Whoever refuses requests of every kind is left alone by all, for a while.
func TestQuietIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitingIn(t)
		one, two := l.hubs(t, nil), l.hubs(t, nil)
		gathered(t, one, two)
		r := l.When().Status(429).Header("Retry-After", "120")
		if _, err := one.Resolve(t.Context(), tagRef("latest"), cache.Whole); !errors.Is(err, cache.ErrLimited) {
			t.Fatal(err)
		}
		r.End()
		settle()
		limit := l.refuses(t, t.Context(), two)
		if wait := time.Until(limit.Until); limit.Of != "requests" || wait < 110*time.Second || wait > 135*time.Second {
			t.Errorf("%+v, in %v", limit, wait)
		}
		if s := two.Stats()[0].Endpoints[0]; s.Pace != (upstream.Pace{}) || s.Quiet.IsZero() {
			t.Errorf("%+v", s)
		}
		time.Sleep(3 * time.Minute)
		mustSlurp(t, two, tagRef("latest"))
	})
}

// A false word holds back for a bounded time, and what is no word changes nothing.
func TestFalseWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitingIn(t)
		one, two := l.hubs(t, nil), l.hubs(t, nil)
		var words [][]byte
		ctx, end := context.WithCancel(t.Context())
		l.RateLimit(0, 6*time.Hour, "")
		_, _ = one.Open(t.Context(), tagRef("latest"), cache.Whole)
		one.TellLimits(ctx, func(_ string, word []byte) {
			words = append(words, word)
			end()
		})
		l.RateLimit(-1, 0, "")
		if len(words) != 1 || strings.Contains(string(words[0]), "acme") {
			t.Fatalf("%q", words)
		}
		var lie map[string]any
		if err := json.Unmarshal(words[0], &lie); err != nil {
			t.Fatal(err)
		}
		lie["blocked"], lie["said"], lie["remaining"], lie["limit"] = "2999-01-01T00:00:00Z", "2999-01-01T00:00:00Z", -5, 1<<60
		b, _ := json.Marshal(lie)
		for _, word := range [][]byte{nil, []byte("{"), []byte(`{"registry":"other.test"}`), append(b, make([]byte, 800)...), b} {
			_ = two.HearLimit(word)
		}
		if limit := l.refuses(t, t.Context(), two); time.Until(limit.Until) > 6*time.Hour {
			t.Errorf("%+v", limit)
		}
		time.Sleep(6 * time.Hour)
		mustSlurp(t, two, tagRef("latest"))
		quiet := strings.Replace(string(words[0]), `"account"`, `"quiet":"2999-01-01T00:00:00Z","of"`, 1)
		if err := two.HearLimit([]byte(quiet)); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Minute)
		mustSlurp(t, two, tagRef("latest"))
	})
}

// Three that keep one pace together exceed it no more than one would.
func TestPaceIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitingIn(t)
		l.conf.Requests = upstream.Pace{Requests: 100, Window: time.Minute}
		l.Ban(100, time.Minute, time.Minute)
		var all sync.WaitGroup
		for range 3 {
			h := l.hubs(t, nil)
			h.Among(3)
			if p := h.Stats()[0].Endpoints[0].Pace; p.Requests != 33 {
				t.Errorf("%+v", p)
			}
			for range 20 {
				all.Go(func() {
					for range 20 {
						_, _ = h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
						time.Sleep(time.Second)
					}
				})
			}
		}
		all.Wait()
		if l.Bans() > 0 || l.Count() < 99 {
			t.Errorf("%d bans after %d requests", l.Bans(), l.Count())
		}
		h := l.hubs(t, nil)
		h.Among(1000)
		h.Among(1)
		if p := h.Stats()[0].Endpoints[0].Pace; p.Requests != 100 {
			t.Errorf("%+v", p)
		}
	})
}

// FuzzWord: whatever is told, the worst that comes of it is a bounded wait.
func FuzzWord(f *testing.F) {
	f.Add([]byte(`{"registry":"reg.test","url":"http://hub.test","account":"a","limit":1,"window":9,"said":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"registry":"reg.test","url":"http://hub.test","quiet":"2999-01-01T00:00:00Z"}`))
	f.Add([]byte("{}"))
	h, err := upstream.New([]upstream.Config{{Name: "reg.test", Endpoints: []string{"http://hub.test"}}}, upstream.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, word []byte) {
		_ = h.HearLimit(word)
		latest := time.Now().Add(6*time.Hour + time.Minute)
		for _, e := range h.Stats()[0].Endpoints {
			if e.Quiet.After(latest) {
				t.Errorf("quiet until %v", e.Quiet)
			}
			for _, a := range e.Accounts {
				if a.Blocked.After(latest) || a.Remaining < -1 {
					t.Errorf("%+v", a)
				}
			}
		}
	})
}
