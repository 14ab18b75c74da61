package cluster

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// TestWire: what one member writes, the other reads.
func TestWire(t *testing.T) {
	d := cache.Sum([]byte("x"))
	for _, q := range []question{
		{ref: cache.Ref{Registry: "docker.io", Repo: "library/a", Kind: cache.KindBlob, Digest: d}, want: cache.Want{Off: 7, N: 9}},
		{ref: cache.Ref{Registry: "r.corp:5000", Repo: "a", Kind: cache.KindManifest, Tag: "v1"}, want: cache.Want{N: -1, Known: d}, resolve: true},
		{ref: cache.Ref{Registry: "docker.io", Repo: "a/b", Kind: cache.KindTags}, want: cache.Whole, urgency: cache.Warming, doubts: 3},
		{ref: cache.Ref{Registry: "docker.io", Repo: "a/b", Kind: cache.KindReferrers, Digest: d}, want: cache.Want{N: -1, HeldOnly: true}},
	} {
		got, err := readQuestion(httptest.NewRequest("GET", q.path(), nil))
		if err != nil || got != q {
			t.Errorf("%+v is read as %+v, %v", q, got, err)
		}
	}
	for _, a := range []cache.Answer{
		{Desc: cache.Desc{Digest: d, Size: 1, MediaType: "application/x"}, Off: 5, AsOf: time.Unix(7, 8), Stale: true}, {Desc: cache.Desc{Size: -1}},
	} {
		h := http.Header{}
		head(h, a)
		if got, err := readHead(h); err != nil || got.Desc != a.Desc || got.Off != a.Off || !got.AsOf.Equal(a.AsOf) || got.Stale != a.Stale {
			t.Errorf("%+v is read as %+v, %v", a, got, err)
		}
	}
	for _, k := range kinds {
		b := []byte(`{"kind":"` + k.name + `","message":"why\u001b[2J"}`)
		if err := readFailure(b); !errors.Is(err, k.err) || errors.Is(err, errMember) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s is read as %v", k.name, err)
		}
		if f := failureOf(k.err); f.Kind != k.name {
			t.Errorf("%v is written as %s", k.err, f.Kind)
		}
	}
	limit := &cache.LimitedError{Registry: "docker.io", Of: cache.LimitOnPulls, Whose: "acme", Until: time.Unix(9, 0).UTC(), Detail: "no"}
	f := failureOf(limit)
	got := &cache.LimitedError{}
	if f.Kind != "limited" || !errors.As(readFailure([]byte(`{"kind":"limited","registry":"docker.io","of":"pulls","whose":"acme","until":"1970-01-01T00:00:09Z","detail":"no"}`)), &got) || *got != *limit {
		t.Errorf("%+v, %+v", f, got)
	}
}

// TestGarbage: what no member asks changes nothing, and what no member answers is no answer.
func TestGarbage(t *testing.T) {
	secrets := [][]byte{[]byte("a secret of sixteen bytes and more")}
	id, err := Identify("m1", secrets)
	if err != nil {
		t.Fatal(err)
	}
	peer := &Peer{Store: nobody{t}, Identity: id}
	w := httptest.NewRecorder()
	peer.ServeHTTP(w, httptest.NewRequest("GET", "/v1/open?registry=docker.io&repo=a&kind=tags", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("without a certificate: %d", w.Code)
	}
	for _, path := range []string{
		"/", "/v2/", "/v1/open", "/v1/open?kind=blob", "/v1/open?registry=docker.io&repo=../../etc&kind=blob&digest=" + cache.Sum(nil).String(),
		"/v1/open?registry=docker.io&repo=a&kind=manifest&tag=" + strings.Repeat("a", 4000), "/v1/open?registry=a/b&repo=a&kind=tags",
		"/v1/open?registry=docker.io&repo=a&kind=blob&digest=sha256:00", "/v1/open?registry=docker.io&repo=a&kind=tags&off=-1",
		"/v1/open?registry=docker.io&repo=a&kind=tags&n=99999999999999999999", "/v1/open?%zz", "/v1/erase?registry=docker.io&repo=a&kind=tags",
	} {
		if _, err := readQuestion(httptest.NewRequest("GET", path, nil)); err == nil {
			t.Errorf("%s is a question", path)
		}
	}
	if _, err := readQuestion(httptest.NewRequest("POST", "/v1/open?registry=docker.io&repo=a&kind=tags", nil)); err == nil {
		t.Error("a POST is a question")
	}
	for _, b := range []string{"", "{", "[]", `{"kind":"never"}`, `{"kind":7}`} {
		if err := readFailure([]byte(b)); !errors.Is(err, errMember) {
			t.Errorf("%q: %v", b, err)
		}
	}
}

// nobody is a store that must not be asked.
type nobody struct{ t *testing.T }

func (n nobody) Open(_ context.Context, ref cache.Ref, _ cache.Want) (*cache.Blob, error) {
	n.t.Errorf("%s was opened", ref)
	return nil, cache.ErrNotFound
}

func (n nobody) Stat(_ context.Context, ref cache.Ref) (cache.Found, error) {
	n.t.Errorf("%s was asked for", ref)
	return cache.Found{}, cache.ErrNotFound
}

// FuzzQuestion: whatever is asked is a question or is refused, and a question is the same when it is asked again.
func FuzzQuestion(f *testing.F) {
	f.Add("/v1/open", "registry=docker.io&repo=a&kind=tags")
	f.Add("/v1/resolve", "registry=docker.io&repo=a&kind=manifest&tag=1&known="+cache.Sum(nil).String())
	f.Fuzz(func(t *testing.T, path, query string) {
		q, err := readQuestion(&http.Request{Method: "GET", URL: &url.URL{Path: path, RawQuery: query}})
		if err != nil {
			return
		}
		u, err := url.Parse(q.path())
		if err != nil {
			t.Fatal(err)
		}
		again, err := readQuestion(&http.Request{Method: "GET", URL: u})
		if err != nil || again != q {
			t.Errorf("%+v becomes %+v, %v", q, again, err)
		}
	})
}

// FuzzAnswer: whatever a member answers is read or refused.
func FuzzAnswer(f *testing.F) {
	f.Add("1", "", "5", "7", []byte(`{"kind":"limited"}`))
	f.Fuzz(func(t *testing.T, size, digest, off, asOf string, failure []byte) {
		h := http.Header{headSize: {size}, headDigest: {digest}, headOff: {off}, headAsOf: {asOf}}
		if a, err := readHead(h); err == nil && (a.Size < -1 || a.Off < 0) {
			t.Errorf("%+v", a)
		}
		if readFailure(failure) == nil {
			t.Error("a failure that is none")
		}
	})
}
