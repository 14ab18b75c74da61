package upstream_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

var blobBytes = []byte("the bytes of a blob")

// seen are the requests that some hosts got.
type seen struct {
	mu  sync.Mutex
	all []*http.Request
}

func (s *seen) note(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, r)
}

func (s *seen) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// Secrets stay with the origin that they are for, whatever it redirects to and with whichever status.
func TestCVE_2026_50151_AuthorizationAcrossRedirects(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		for name, path := range map[string][]string{
			"other host":        {"http://cdn.test/x"},
			"other port":        {"http://reg.com:8080/x"},
			"sub-domain":        {"http://cdn.reg.com/x"},
			"there and back":    {"http://cdn.test/x", "http://reg.com/back"},
			"a chain":           {"http://cdn.test/x", "http://b.test/x", "http://c.test/x", "http://d.test/x", "http://e.test/x"},
			"login in the URL":  nil,
			"scheme-relative":   {"//cdn.test/x"},
			"with a fragment":   {"http://cdn.test/x#Authorization"},
			"to another realm":  {"http://cdn.test/401"},
			"itself, elsewhere": {"/moved"},
		} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				var log seen
				hops := path
				if path == nil {
					hops = []string{"http://user:" + canary + "@cdn.test/x"}
				}
				s := raw(t, func(w http.ResponseWriter, r *http.Request) {
					log.note(r)
					http.SetCookie(w, &http.Cookie{Name: "session", Value: canary})
					n := len(log.requests())
					switch {
					case r.URL.Path == "/401":
						w.Header().Set("WWW-Authenticate", `Basic realm="cdn"`)
						w.WriteHeader(http.StatusUnauthorized)
					case n == 1:
						w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
						w.WriteHeader(http.StatusUnauthorized)
					case n-2 < len(hops):
						w.Header().Set("Location", hops[n-2])
						w.WriteHeader(status)
					default:
						w.Write(blobBytes)
					}
				})
				w := &world{rest: strings.TrimPrefix(s, "http://")}
				h := hubs(t, upstream.Options{Dial: w.Dial}, upstream.Config{
					Endpoints:   []string{"http://reg.com"},
					Credentials: []upstream.Credential{{Username: "acme", Password: canary}},
				})
				_, b, err := slurp(soon(t), h, blobRef(cache.Sum(blobBytes)), cache.Whole)
				switch name {
				case "to another realm":
					wantErr(t, err, cache.ErrUnavailable, "cdn.test answered 401")
				case "login in the URL":
					wantErr(t, err, cache.ErrUnavailable, "must not hold a login")
				default:
					if err != nil || string(b) != string(blobBytes) {
						t.Errorf("%q, %v", b, err)
					}
				}
				for i, r := range log.requests() {
					own := r.Host == "reg.com" && (i < 2 || name == "itself, elsewhere")
					if r.Header.Get("Authorization") != "" && !own {
						t.Errorf("request %d to %s carries %q", i, r.Host, r.Header.Get("Authorization"))
					}
					if r.Header.Get("Cookie") != "" || r.Header.Get("Proxy-Authorization") != "" {
						t.Errorf("request %d to %s: %v", i, r.Host, r.Header)
					}
				}
			})
		}
	}
}

func TestRedirectsEnd(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1000))
	c := at(origintest.Serve(t, o))
	c.RedirectHosts = []string{"127.0.0.1"}
	h := hubs(t, upstream.Options{}, c)
	for to, says := range map[string]string{
		"":                       "more than 5",
		origintest.Dead(t) + "/": "cannot connect",
		"ftp://reg.test/":        "https://",
		"http:///x":              "no host",
		"http://a b/":            "nowhere",
	} {
		o.Forget()
		r := o.When(origintest.Blob).Redirect(to)
		_, err := h.Open(soon(t), blobRef(blob.Digest()), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, says)
		if n := o.Count(); to == "" && n != 6 {
			t.Errorf("%d requests in a loop", n)
		}
		r.End()
	}
	mustSlurp(t, h, blobRef(blob.Digest()))
}

// From TLS to plain http is refused, unless the operator names the host.
func TestRedirectToPlainHTTP(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1000))
	s, plain := origintest.ServeTLS(t, o, origintest.TLS{Names: []string{"reg.com"}}), origintest.Serve(t, o)
	w := &world{routes: map[string]string{"reg.com:443": s.Addr()}, rest: plain.Addr()}
	o.RedirectBlobs("http://cdn.corp", time.Minute)
	c := upstream.Config{Endpoints: []string{"https://reg.com"}, CAFile: file(t, "ca.pem", s.CA.PEM())}
	_, err := hubs(t, upstream.Options{Dial: w.Dial}, c).Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, "plain http at cdn.corp", "redirect_hosts under upstreams.reg.test")
	for _, host := range []string{"cdn.corp", "cdn.corp:80", "*.corp"} {
		c.RedirectHosts = []string{host}
		mustSlurp(t, hubs(t, upstream.Options{Dial: w.Dial}, c), blobRef(blob.Digest()))
	}
}

// A signed address is good for one download: each begins at the registry again.
func TestSignedURLsAreNotKept(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1<<20))
	s, cdn := origintest.Serve(t, o), origintest.Serve(t, o)
	o.Account("acme", canary)
	o.RequireBasic()
	o.RedirectBlobs(cdn.URL, time.Minute)
	c := at(s)
	c.Credentials = []upstream.Credential{{Username: "acme", Password: canary}}
	c.RedirectHosts = []string{"127.0.0.0/8"}
	h := hubs(t, upstream.Options{}, c)

	o.When(origintest.CDN).Once().CutAt(1000)
	_, b, err := slurp(t.Context(), h, blobRef(blob.Digest()), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable)
	o.When(origintest.CDN).Once().Status(http.StatusForbidden) // expired in between
	_, err = h.Open(t.Context(), blobRef(blob.Digest()), cache.Want{Off: int64(len(b)), N: -1})
	wantErr(t, err, cache.ErrUnavailable, "answered 403") // no word on the repository
	a, err := h.Open(t.Context(), blobRef(blob.Digest()), cache.Want{Off: int64(len(b)), N: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if err := blob.Compare(a.Body, int64(len(b)), -1); err != nil {
		t.Error(err)
	}
	if first, then := o.Count(origintest.Blob), o.Count(origintest.CDN); first != 4 || then != 3 { // one more for the 401
		t.Errorf("%d requests at the registry, %d where it redirects", first, then)
	}
	for _, r := range o.Requests(origintest.CDN) {
		if r.Authorized() {
			t.Errorf("%+v", r)
		}
	}
}

// What stands behind a redirect is missing, or missing there only: its 404 is the registry's answer.
func TestMissingBehindARedirect(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1000))
	s := origintest.Serve(t, o)
	o.RedirectBlobs(origintest.Serve(t, o).URL, time.Minute)
	o.When(origintest.CDN).Status(http.StatusNotFound)
	c := at(s)
	c.RedirectHosts = []string{"127.0.0.1"}
	_, err := hubs(t, upstream.Options{}, c).Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
	wantErr(t, err, cache.ErrNotFound)
}
