package upstream_test

import (
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

func TestLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, c := range map[string]struct {
			spoil func(*origintest.Rule)
			want  cache.LimitedError
		}{
			"seconds":        {func(r *origintest.Rule) { r.Header("Retry-After", "120") }, cache.LimitedError{Until: now.Add(2 * time.Minute)}},
			"a date":         {func(r *origintest.Rule) { r.Header("Retry-After", now.Add(time.Hour).UTC().Format(http.TimeFormat)) }, cache.LimitedError{Until: now.Add(time.Hour)}},
			"a date gone by": {func(r *origintest.Rule) { r.Header("Retry-After", "Fri, 01 Jan 1999 15:04:05 GMT") }, cache.LimitedError{Until: now.Add(time.Minute)}},
			"for ever":       {func(r *origintest.Rule) { r.Header("Retry-After", "99999999") }, cache.LimitedError{Until: now.Add(24 * time.Hour)}},
			"a Unix time":    {func(r *origintest.Rule) { r.Header("RateLimit-Reset", "1790000000") }, cache.LimitedError{Until: now.Add(time.Minute)}},
			"beyond numbers": {func(r *origintest.Rule) { r.Header("Retry-After", "99999999999999999999999") }, cache.LimitedError{Until: now.Add(time.Minute)}},
			"nonsense":       {func(r *origintest.Rule) { r.Header("Retry-After", "-5") }, cache.LimitedError{Until: now.Add(time.Minute)}},
			"nothing":        {func(r *origintest.Rule) {}, cache.LimitedError{Until: now.Add(time.Minute)}},
			"ratelimit":      {func(r *origintest.Rule) { r.Header("RateLimit-Reset", "60") }, cache.LimitedError{Until: now.Add(time.Minute)}},
			"whose":          {func(r *origintest.Rule) { r.Header("Docker-RateLimit-Source", "192.0.2.7") }, cache.LimitedError{Of: "pulls", Whose: "192.0.2.7", Until: now.Add(time.Minute)}},
		} {
			o := origintest.New()
			o.PutImage(repo, "latest", origintest.Spec{})
			r := o.When().Status(429)
			c.spoil(r)
			var n origintest.Net
			h := hubs(t, upstream.Options{Dial: n.DialContext}, at(origintest.ServeIn(t, &n, "hub.test:80", o)))
			_, err := h.Open(t.Context(), tagRef("latest"), cache.Whole)
			var got *cache.LimitedError
			if !errors.As(err, &got) || !errors.Is(err, cache.ErrLimited) {
				t.Fatalf("%s: %v", name, err)
			}
			if c.want.Of == "" {
				c.want.Of = "requests"
			}
			jitter := got.Until.Sub(c.want.Until)
			if got.Registry != "reg.test" || got.Of != c.want.Of || got.Whose != c.want.Whose || jitter < 0 || jitter > 6*time.Second {
				t.Errorf("%s: %+v", name, got)
			}
			if s := h.Stats()[0]; s.LimitedPulls+s.LimitedRequests != 1 || s.Failures != 0 || !s.Endpoints[0].Up {
				t.Errorf("%s: %+v", name, s)
			}
		}
	})
}

// What Docker Hub says of its limit, with and without pulls left.
func TestDockerHubsLimit(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.RateLimit(2, 6*time.Hour, "192.0.2.7")
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	if s := h.Stats()[0].Endpoints[0]; len(s.Accounts) != 0 {
		t.Errorf("before it said anything: %+v", s)
	}
	for range 2 {
		mustSlurp(t, h, tagRef("latest"))
	}
	if s := h.Stats()[0].Endpoints[0]; len(s.Accounts) != 1 || s.Accounts[0].Limit != 2 || s.Accounts[0].Remaining != 0 {
		t.Errorf("%+v", s)
	}
	for range 5 {
		if _, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole); err != nil {
			t.Errorf("a HEAD is no pull: %v", err)
		}
	}
	_, err := h.Open(t.Context(), tagRef("latest"), cache.Whole)
	var limit *cache.LimitedError
	if !errors.As(err, &limit) || limit.Whose != "192.0.2.7" || !strings.Contains(limit.Detail, "TOOMANYREQUESTS") {
		t.Errorf("%+v", err)
	}
}

// What never ends is cut where it is too much, and not gathered.
func TestCVE_2017_11468_EndlessDocuments(t *testing.T) {
	const buffers = 16 << 20 // between the hub and us: it may have written what nobody read
	for name, c := range map[string]struct {
		what  origintest.Kind
		ref   cache.Ref
		limit int64
		kind  error
	}{
		"manifest": {origintest.Manifest, tagRef("latest"), 4 << 20, cache.ErrUnsupported},
		"tags":     {origintest.Tags, tagsRef(), 16 << 20, cache.ErrUnsupported},
		"token":    {origintest.Token, tagRef("latest"), 1 << 20, cache.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			o := origintest.New()
			o.PutImage(repo, "latest", origintest.Spec{})
			o.RequireToken(origintest.TokenServer{})
			o.When(c.what, origintest.GET).Endless()
			h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
			_, err := h.Open(soon(t), c.ref, cache.Whole)
			wantErr(t, err, c.kind)
			if n := int64(h.Stats()[0].Bytes); n < c.limit || n > c.limit+64<<10 {
				t.Errorf("%d bytes were read, of which %d count", n, c.limit)
			}
			if err := o.AwaitIdle(soon(t)); err != nil {
				t.Fatal(err)
			}
			if n := o.Bytes(c.what); n > c.limit+buffers {
				t.Errorf("%d bytes were sent", n)
			}
		})
	}
}
