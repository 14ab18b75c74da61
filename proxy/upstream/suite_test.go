package upstream_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cache/sourcetest"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// A hub is a good source whatever its manners.
func TestSource(t *testing.T) {
	for name, manner := range map[string]func(t *testing.T, o *origintest.Origin, c *upstream.Config){
		"as it is": func(*testing.T, *origintest.Origin, *upstream.Config) {},
		"awkward": func(_ *testing.T, o *origintest.Origin, _ *upstream.Config) {
			o.Behave(origintest.Manners{PageSize: 2, AbsoluteLinks: true})
			o.When(origintest.Blob, origintest.HEAD).Status(http.StatusNotFound)
			o.When(origintest.GET).NoLength()
		},
		"without ranges": func(_ *testing.T, o *origintest.Origin, _ *upstream.Config) {
			o.When(origintest.Blob).NoRange()
		},
		"TLS, a login, tokens and a CDN": func(t *testing.T, o *origintest.Origin, c *upstream.Config) {
			o.Account("acme", canary)
			o.Private()
			o.RequireToken(origintest.TokenServer{})
			s := origintest.ServeTLS(t, o, origintest.TLS{})
			o.RedirectBlobs(origintest.Serve(t, o).URL, time.Minute)
			c.Endpoints, c.CAFile, c.RedirectHosts = []string{s.URL}, file(t, "ca.pem", s.CA.PEM()), []string{"127.0.0.1"}
			c.Credentials = []upstream.Credential{{Username: "acme", Password: canary}}
		},
		"behind a mirror that has nothing": func(t *testing.T, _ *origintest.Origin, c *upstream.Config) {
			c.Endpoints = append([]string{origintest.Serve(t, origintest.New()).URL}, c.Endpoints...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T, s *sourcetest.Stock) cache.Source {
				o := origintest.New()
				fill(o, s)
				c := at(origintest.Serve(t, o))
				c.Name = s.Registry
				manner(t, o, &c)
				return hubs(t, upstream.Options{}, c)
			})
		})
	}
}

// fill puts the stock into an origin.
func fill(o *origintest.Origin, s *sourcetest.Stock) {
	for _, r := range s.Repos {
		for _, b := range r.Blobs {
			o.PutBlob(r.Name, origintest.Bytes(b.Data).Named(b.Digest))
		}
		for _, m := range r.Manifests {
			o.PutManifest(r.Name, "", m.MediaType, origintest.Bytes(m.Data).Named(m.Digest))
			for _, tag := range m.Tags {
				o.Tag(r.Name, tag, m.Digest)
			}
		}
	}
}
