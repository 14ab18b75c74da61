package proxy_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// discard is a response that nobody reads.
type discard struct {
	header http.Header
	n      int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { d.n += len(b); return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkHotManifest is the door and the memory tier, without a network.
func BenchmarkHotManifest(b *testing.B) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{Pad: 600})
	hub, err := origintest.Listen(o, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer hub.Close()
	hubs, err := upstream.New([]upstream.Config{{Name: "docker.io", Endpoints: []string{hub.URL}}}, upstream.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer hubs.Close()
	store, err := cache.New(b.Context(), hubs, cache.Options{Dir: b.TempDir(), ScrubRate: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	h := &proxy.Handler{Store: store, Names: names, ID: "pool"}
	for name, path := range map[string]string{
		"digest": manifest("library/app", img.Top.Digest), "tag": "/v2/library/app/manifests/latest",
		"ns": "/v2/library/app/manifests/latest?ns=docker.io",
	} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			b.ReportAllocs()
			for b.Loop() {
				w := &discard{header: make(http.Header, 12)}
				if h.ServeHTTP(w, r); w.n != int(img.Top.Size) {
					b.Fatalf("%d bytes", w.n)
				}
			}
		})
	}
}
