package upstream_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

func issue(t testing.TB) tls.Certificate {
	pair, err := newCA(t).Issue(time.Now().Add(time.Hour), "tidepool")
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func newCA(t testing.TB) *origintest.CA {
	ca, err := origintest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// A certificate that is not good is refused wherever it turns up: at the registry, its token server, its store; and
// leniency towards the registry's endpoints is not inherited by the others.
func TestCVE_2019_10214_TLSIsVerifiedForEachHost(t *testing.T) {
	good := newCA(t)
	for fault, broken := range map[string]origintest.TLS{
		"unknown CA": {},
		"expired":    {CA: good, NotAfter: time.Now().Add(-time.Hour)},
		"wrong host": {CA: good, Names: []string{"other.corp"}},
		"TLS 1.0":    {CA: good, Names: []string{"reg.com", "auth.com", "cdn.com"}, Version: tls.VersionTLS10},
		"TLS 1.1":    {CA: good, Names: []string{"reg.com", "auth.com", "cdn.com"}, Version: tls.VersionTLS11},
	} {
		for _, where := range []string{"reg.com", "auth.com", "cdn.com"} {
			t.Run(fault+" at "+where, func(t *testing.T) {
				w, o, blob := tlsTown(t, good, where, broken)
				c := upstream.Config{Endpoints: []string{"https://reg.com"}, Realms: []string{"auth.com"}, CAFile: file(t, "ca.pem", good.PEM())}
				_, err := hubs(t, upstream.Options{Dial: w.Dial}, c).Open(soon(t), blobRef(blob), cache.Whole)
				wantErr(t, err, cache.ErrUnavailable, where)
				c.InsecureSkipVerify = true
				_, err = hubs(t, upstream.Options{Dial: w.Dial}, c).Open(soon(t), blobRef(blob), cache.Whole)
				if lenient := where == "reg.com" && !strings.HasPrefix(fault, "TLS"); lenient != (err == nil) {
					t.Errorf("with insecure_skip_verify: %v", err)
				}
				for _, r := range o.Requests() {
					if r.Header.Get("Authorization") != "" && !strings.HasPrefix(r.Host, "reg.com") && r.Kind != origintest.Token {
						t.Errorf("%s was shown a token", r.Host)
					}
				}
			})
		}
	}
	w, _, blob := tlsTown(t, good, "nobody", origintest.TLS{})
	c := upstream.Config{Endpoints: []string{"https://reg.com"}, Realms: []string{"auth.com"}, CAFile: file(t, "ca.pem", good.PEM())}
	mustSlurp(t, hubs(t, upstream.Options{Dial: w.Dial}, c), blobRef(blob))
}

// tlsTown is the hub reg.com with its token server auth.com and its store cdn.com, of which one has a bad certificate.
func tlsTown(t *testing.T, good *origintest.CA, where string, broken origintest.TLS) (*world, *origintest.Origin, cache.Digest) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1000))
	o.RequireToken(origintest.TokenServer{Realm: "https://auth.com/token"})
	o.RedirectBlobs("https://cdn.com", time.Minute)
	w := &world{routes: map[string]string{}}
	for _, host := range []string{"reg.com", "auth.com", "cdn.com"} {
		options := origintest.TLS{CA: good, Names: []string{host}}
		if host == where {
			options = broken
		}
		w.routes[host+":443"] = origintest.ServeTLS(t, o, options).Addr()
	}
	return w, o, blob.Digest()
}

// A failure of TLS is never tried again in the clear.
func TestCVE_2014_5277_NoFallbackToPlainHTTP(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	plain := origintest.Serve(t, o)
	w := &world{rest: plain.Addr()}
	h := hubs(t, upstream.Options{Dial: w.Dial}, upstream.Config{Endpoints: []string{"https://reg.com"}})
	_, err := h.Resolve(soon(t), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable)
	if d := w.Dialled(); len(d) != 1 || d[0] != "reg.com:443" || o.Count() != 0 {
		t.Errorf("dialled %v, %d requests", d, o.Count())
	}
}

func TestClientCertificate(t *testing.T) {
	ca := newCA(t)
	pair, err := ca.Issue(time.Now().Add(time.Hour), "tidepool")
	if err != nil {
		t.Fatal(err)
	}
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	s := origintest.ServeTLS(t, o, origintest.TLS{CA: ca, Clients: ca})
	c := at(s)
	c.CAFile = file(t, "ca.pem", ca.PEM())
	_, err = hubs(t, upstream.Options{}, c).Resolve(t.Context(), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable)

	c.CertFile, c.KeyFile = pemFiles(t, pair)
	h := hubs(t, upstream.Options{}, c)
	mustSlurp(t, h, tagRef("latest"))
	mustSlurp(t, h, blobRef(img.Blobs[0].Digest))
}

// Our certificate says who we are, and is for the registry only.
func TestClientCertificateStaysAtTheEndpoint(t *testing.T) {
	ca := newCA(t)
	pair, err := ca.Issue(time.Now().Add(time.Hour), "tidepool")
	if err != nil {
		t.Fatal(err)
	}
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1000))
	o.RedirectBlobs("https://cdn.com", time.Minute)
	w := &world{routes: map[string]string{
		"reg.com:443": origintest.ServeTLS(t, o, origintest.TLS{CA: ca, Names: []string{"reg.com"}, Clients: ca}).Addr(),
		"cdn.com:443": origintest.ServeTLS(t, o, origintest.TLS{CA: ca, Names: []string{"cdn.com"}, Clients: ca}).Addr(),
	}}
	c := upstream.Config{Endpoints: []string{"https://reg.com"}, CAFile: file(t, "ca.pem", ca.PEM())}
	c.CertFile, c.KeyFile = pemFiles(t, pair)
	_, err = hubs(t, upstream.Options{Dial: w.Dial}, c).Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, "cdn.com", "certificate required")
}

func pemFiles(t testing.TB, pair tls.Certificate) (cert, key string) {
	var certs bytes.Buffer
	for _, der := range pair.Certificate {
		if err := pem.Encode(&certs, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			t.Fatal(err)
		}
	}
	return file(t, "cert.pem", certs.Bytes()), file(t, "key.pem", keyPEM(t, pair))
}

// A hub that refuses HTTP/1.1 is asked for blobs by HTTP/2.
func TestHubWithHTTP2Only(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 100_000))
	s := origintest.ServeTLS(t, o, origintest.TLS{})
	front := http2Only(t, s.Addr())
	c := upstream.Config{Endpoints: []string{"https://" + front.Addr().String()}, CAFile: file(t, "ca.pem", s.CA.PEM())}
	h := hubs(t, upstream.Options{}, c)
	for range 2 {
		if got := mustSlurp(t, h, blobRef(blob.Digest())); !blob.Digest().Names(got) {
			t.Error("other bytes")
		}
	}
	for _, r := range o.Requests() {
		if r.Proto != "HTTP/2.0" {
			t.Errorf("%s over %s", r.Path, r.Proto)
		}
	}
	if n := front.refused.Load(); n != 1 {
		t.Errorf("HTTP/1.1 was tried %d times: once is enough to know", n)
	}
}

func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 loopback: ", err)
	}
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	server := &http.Server{Handler: o}
	done := make(chan struct{})
	go func() { server.Serve(l); close(done) }()
	defer func() { server.Close(); <-done }()
	h := hubs(t, upstream.Options{}, upstream.Config{Endpoints: []string{"http://" + l.Addr().String()}})
	mustSlurp(t, h, tagRef("latest"))
	mustSlurp(t, h, blobRef(img.Blobs[0].Digest))
}

// HTTPS_PROXY: the way goes through it, to hosts that are configured or well known and to no others.
func TestHTTPSProxy(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	s := origintest.ServeTLS(t, o, origintest.TLS{Names: []string{"reg.com", "cdn.corp", "auth.docker.io", "registry-1.docker.io"}})
	p := connectProxy(t, s.Addr())
	c := upstream.Config{Endpoints: []string{"https://reg.com"}, CAFile: file(t, "ca.pem", s.CA.PEM())}
	o.RedirectBlobs("https://cdn.corp", time.Minute)

	h := hubs(t, upstream.Options{Proxy: p.choose}, c)
	mustSlurp(t, h, tagRef("latest"))
	_, err := h.Open(t.Context(), blobRef(img.Blobs[0].Digest), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, "cdn.corp would be asked through a proxy", `add "cdn.corp" to redirect_hosts`)
	if got := slices.Compact(p.asked()); strings.Join(got, " ") != "reg.com:443" {
		t.Errorf("the proxy was asked for %v", got)
	}
	c.RedirectHosts = []string{"cdn.corp"}
	mustSlurp(t, hubs(t, upstream.Options{Proxy: p.choose}, c), blobRef(img.Blobs[0].Digest))

	// of a well-known registry, the hosts are known
	c = upstream.Config{Name: "docker.io", CAFile: c.CAFile}
	o.RequireToken(origintest.TokenServer{Realm: "https://auth.docker.io/token"})
	ref := tagRef("latest")
	ref.Registry = "docker.io"
	mustSlurp(t, hubs(t, upstream.Options{Proxy: p.choose}, c), ref)

	// and what nobody configured is not asked for at all
	ref.Registry = "intranet.corp"
	_, err = hubs(t, upstream.Options{Proxy: p.choose, AnyUpstream: true}, upstream.Config{}).Resolve(t.Context(), ref, cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, "would be asked through a proxy")
}
