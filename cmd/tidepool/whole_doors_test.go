package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// doors are a tidepool's certificate, an authority of nodes, and a cluster's key for the tokens of its service accounts.
type doors struct {
	t     *testing.T
	dir   string
	ca    *origintest.CA
	key   *ecdsa.PrivateKey
	trust *tls.Config // of a client without a certificate
}

func newDoors(t *testing.T) *doors {
	t.Helper()
	d := &doors{t: t, dir: t.TempDir()}
	var err error
	if d.ca, err = origintest.NewCA(); err == nil {
		d.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&d.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	d.trust = &tls.Config{RootCAs: d.ca.Pool()}
	d.write("ca.pem", d.ca.PEM())
	d.write("sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	d.renew(time.Now().Add(20*24*time.Hour), "127.0.0.1")
	for _, user := range []string{"alice", "bob", "carol"} {
		d.write(user, []byte("pass of "+user+"\n"))
	}
	return d
}

// write puts a file in the place of what was there.
func (d *doors) write(name string, text []byte) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// renew gives the door another certificate: the key first, as if its writer were slow.
func (d *doors) renew(until time.Time, names ...string) {
	d.t.Helper()
	cert := d.issue(d.ca, until, names...)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		d.t.Fatal(err)
	}
	d.write("tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	d.write("tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
}

func (d *doors) issue(by *origintest.CA, until time.Time, names ...string) tls.Certificate {
	d.t.Helper()
	cert, err := by.Issue(until, names...)
	if err != nil {
		d.t.Fatal(err)
	}
	return cert
}

// token is that of a service account, for an hour.
func (d *doors) token(account string) string {
	d.t.Helper()
	t := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.RegisteredClaims{Issuer: "https://k8s.test", Audience: []string{"tidepool"},
		Subject: "system:serviceaccount:" + account, ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour))})
	text, err := t.SignedString(d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	return text
}

// open has corp.test's clients come in by these doors.
func (d *doors) open(p *plan) {
	file := func(name string) string { return filepath.Join(d.dir, name) }
	p.trust = d.trust
	p.file = strings.Replace(p.file, "access: caller}", fmt.Sprintf(`access: caller, callers: [
    {certificate: "node-a*.corp", username: alice, password_file: %q},
    {certificate: node-b.corp, username: bob, password_file: %q},
    {service_account: "prod:pull*", username: carol, password_file: %q}]}`, file("alice"), file("bob"), file("carol")), 1) +
		fmt.Sprintf("\ndoor: {tls_cert: %q, tls_key: %q, client_ca: %q, issuers: {prod: {issuer: 'https://k8s.test', keys_file: %q}}}\n",
			file("tls.crt"), file("tls.key"), file("ca.pem"), file("sa.pub"))
}

// disguise has the requests of some come by other ways than their logins: by a connection with a certificate, or with a
// token.
type disguise struct {
	http.RoundTripper
	certificates map[string]*http.Transport // by the Authorization that is left out
	tokens       map[string]func() string   // by the Authorization that is replaced
}

func (d disguise) RoundTrip(r *http.Request) (*http.Response, error) {
	all := r.Header["Authorization"]
	if len(all) != 1 {
		return d.RoundTripper.RoundTrip(r)
	}
	if by := d.certificates[all[0]]; by != nil {
		r = r.Clone(r.Context())
		delete(r.Header, "Authorization")
		return by.RoundTrip(r)
	}
	if token := d.tokens[all[0]]; token != nil {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", token())
	}
	return d.RoundTripper.RoundTrip(r)
}

func (d disguise) CloseIdleConnections() {
	for _, t := range d.certificates {
		t.CloseIdleConnections()
	}
	d.RoundTripper.(*http.Transport).CloseIdleConnections()
}

// with is a transport that shows a certificate, by HTTP/2 or not.
func (d *doors) with(w *pool, h2 bool, cert tls.Certificate) *http.Transport {
	t := w.newClient().Transport.(*http.Transport)
	t.TLSClientConfig = d.trust.Clone()
	t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	t.ForceAttemptHTTP2 = h2
	return t
}

// disguise has alice and bob come as nodes, and carol as a service account.
func (d *doors) disguise(p *plan) {
	d.open(p)
	until := time.Now().Add(20 * 24 * time.Hour)
	p.wrap = func(w *pool, plain *http.Transport) http.RoundTripper {
		return disguise{plain, map[string]*http.Transport{
			as("alice")[1]:  d.with(w, true, d.issue(d.ca, until, "node-a1.corp")),
			as("bob")[1]:    d.with(w, false, d.issue(d.ca, until, "node-b.corp")),
			"Test stranger": d.with(w, true, d.issue(d.ca, until, "node-a.x.corp", "*.corp", "xnode-a.corp", "node-b.corp.evil")),
		}, map[string]func() string{
			as("carol")[1]: func() string { return "Bearer " + d.token("prod:puller") },
			"Test account": func() string { return "Bearer " + d.token("dev:puller") },
			"Test forged": func() string {
				text := d.token("prod:puller")
				return "Bearer " + text[:len(text)-8] + "AAAAAAAA"
			},
		}}
	}
}

// What stands in for logins keeps callers apart as logins do, by every way in: what node a may have, node b gets nothing
// of, nor who has a certificate or a token that nothing stands for.
func TestStandInsAreKeptApart(t *testing.T) {
	t.Parallel()
	for name, hides := range map[string]bool{"says so": false, "hides": true} {
		bubble(t, name, func(t *testing.T) {
			d := newDoors(t)
			h := callers(t, hides, d.disguise)
			for _, who := range []string{"stranger", "account", "forged"} {
				h.outsiders[who] = []string{"Authorization", "Test " + who}
			}
			h.areKeptApart(hides)
		})
	}
}

// What stands in for logins holds over random sequences too.
func TestStandInsWalk(t *testing.T) {
	t.Parallel()
	for seed := range walks() / 2 {
		bubble(t, fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			d := newDoors(t)
			newWalk(t, seed, d.disguise).run()
		})
	}
}

// node is how one with a certificate of that name asks.
func (d *doors) node(h *house, name string) func(path string, headers ...string) answered {
	plain, own := h.client, &http.Client{Transport: d.with(h.pool, true, d.issue(d.ca, time.Now().Add(20*time.Hour), name))}
	h.t.Cleanup(own.CloseIdleConnections)
	return func(path string, headers ...string) answered {
		h.t.Helper()
		h.client = own
		defer func() { h.client = plain }()
		return h.get(path, headers...)
	}
}

// Nodes for which one login stands in are one caller to the hub, and the one who sends that login himself is too; who has
// another password from now on is another caller, at once.
func TestCallersBehindNodes(t *testing.T) {
	bubble(t, "nodes", func(t *testing.T) {
		d := newDoors(t)
		h := callers(t, false, d.open)
		tag, blob := "/v2/corp.test/"+secretRepo+"/manifests/latest", "/v2/corp.test/"+secretRepo+"/blobs/"+h.img.Blobs[0].Digest.String()
		one, two, other := d.node(h, "node-a1.corp"), d.node(h, "node-a2.corp"), d.node(h, "node-b.corp")
		one(tag).brings(t, h.img.Top.Content)
		one(blob).brings(t, h.img.Blobs[0].Content)
		h.settled()
		h.hub.Forget()
		two(blob).brings(t, h.img.Blobs[0].Content)
		h.get(blob, as("alice")...).brings(t, h.img.Blobs[0].Content)
		if n := h.hub.Count(); n != 0 {
			t.Errorf("the second node, and who sends the login himself, cost %d requests", n)
		}
		other(blob).refuses(t, http.StatusForbidden, "DENIED")
		other(blob, as("alice")...).brings(t, h.img.Blobs[0].Content) // his own login goes before
		one(blob, as("bob")...).refuses(t, http.StatusForbidden, "DENIED")
		one(blob, "Authorization", "Bearer "+d.token("prod:puller")).brings(t, h.img.Blobs[0].Content)

		d.write("alice", []byte("another"))
		one(blob).refuses(t, http.StatusForbidden, "DENIED")
		d.write("alice", nil)
		one(blob).refuses(t, http.StatusBadGateway, "UNAVAILABLE")
		d.write("alice", []byte("pass of alice"))
		h.hub.Forget()
		one(blob).brings(t, h.img.Blobs[0].Content)
		if n := h.hub.Count(); n != 0 {
			t.Errorf("who is himself again cost %d requests", n)
		}
	})
}

// A connection that was opened with a certificate is nobody's in particular when that has ended.
func TestCertificateEndsWithinConnection(t *testing.T) {
	bubble(t, "ends", func(t *testing.T) {
		d := newDoors(t)
		h := callers(t, false, d.open)
		tag := "/v2/corp.test/" + secretRepo + "/manifests/latest"
		h.client = &http.Client{Transport: d.with(h.pool, true, d.issue(d.ca, time.Now().Add(90*time.Second), "node-a1.corp"))}
		for range 3 {
			h.get(tag).brings(t, h.img.Top.Content)
			time.Sleep(29 * time.Second) // less than a connection is kept for
		}
		time.Sleep(4 * time.Second)
		h.get(tag).refuses(t, http.StatusUnauthorized, "UNAUTHORIZED")
	})
}

// Who is refused as nobody is told what would help him here: by his client, and by what he shows already.
func TestAdviceOnStandIns(t *testing.T) {
	bubble(t, "advice", func(t *testing.T) {
		d := newDoors(t)
		h := callers(t, false, d.open)
		tag := "/v2/corp.test/" + secretRepo + "/manifests/latest"
		stranger := d.node(h, "node-c.corp")
		plain := func(path string, headers ...string) answered { t.Helper(); return h.get(path, headers...) }
		for _, c := range []struct {
			ask           func(string, ...string) answered
			agent, shows  string
			says, saysNot []string
		}{
			{plain, "containerd/1.7.2", "", []string{"client = [[", "for the audience tidepool", `[host.\"https://127.0.0.1:5000\".header]`}, nil},
			{plain, "skopeo/1.9.3", "", []string{"/etc/containers/certs.d/127.0.0.1:5000", "podman login"}, nil},
			{plain, "docker/20.10.24", "", []string{"/etc/docker/certs.d/127.0.0.1:5000", "docker login"}, nil},
			{plain, "", "", []string{"give the client one", "log in to"}, nil},
			{plain, "", "Bearer " + d.token("dev:puller"), []string{"service account dev:puller's, which none of upstreams.corp.test.callers"}, []string{"audience"}},
			{stranger, "", "", []string{"is for node-c.corp, which none of upstreams.corp.test.callers"}, []string{"a client certificate stands in"}},
		} {
			headers := []string{"User-Agent", c.agent}
			if c.shows != "" {
				headers = append(headers, "Authorization", c.shows)
			}
			a := c.ask(tag, headers...)
			a.refuses(t, http.StatusUnauthorized, "UNAUTHORIZED")
			for _, text := range c.says {
				if !strings.Contains(string(a.body), text) {
					t.Errorf("%q is not told %q: %s", c.agent, text, a.body)
				}
			}
			for _, text := range append(c.saysNot, "pass of", d.dir) {
				if strings.Contains(string(a.body), text) {
					t.Errorf("%q is told %q: %s", c.agent, text, a.body)
				}
			}
		}
		h.get("/v2/", "User-Agent", "docker/20.10.24", "Host", "corp.mirror").refuses(t, http.StatusUnauthorized, "UNAUTHORIZED")
		d.node(h, "node-a7.corp")("/v2/", "User-Agent", "docker/20.10.24", "Host", "corp.mirror").is(t, http.StatusOK)
		stranger("/v2/", "User-Agent", "docker/20.10.24", "Host", "corp.mirror").refuses(t, http.StatusUnauthorized, "UNAUTHORIZED")
	})
}
