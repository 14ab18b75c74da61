package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// gate is what clients need to come in by TLS, in files: each directory is a client's, as certs.d has it.
type gate struct {
	t   *testing.T
	dir string
	ca  *origintest.CA
	key *ecdsa.PrivateKey // of a cluster's tokens
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{t: t, dir: t.TempDir()}
	var err error
	g.ca, err = origintest.NewCA()
	must(t, err)
	g.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	public, err := x509.MarshalPKIXPublicKey(&g.key.PublicKey)
	must(t, err)
	mustWrite(t, g.file("sa.pub"), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})))
	mustWrite(t, g.file("ca.crt"), string(g.ca.PEM()))
	g.client("door", g.ca, "127.0.0.1")
	return g
}

func (g *gate) file(parts ...string) string {
	return filepath.Join(append([]string{g.dir}, parts...)...)
}

// client is the directory of one with a certificate for a name; "": without one.
func (g *gate) client(dir string, by *origintest.CA, name string) string {
	g.t.Helper()
	mustWrite(g.t, g.file(dir, "ca.crt"), string(g.ca.PEM()))
	if name == "" {
		return g.file(dir)
	}
	cert, err := by.Issue(time.Now().Add(time.Hour), name)
	must(g.t, err)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	must(g.t, err)
	mustWrite(g.t, g.file(dir, "client.cert"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	mustWrite(g.t, g.file(dir, "client.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	return g.file(dir)
}

// token is that of a service account.
func (g *gate) token(account string, life time.Duration) string {
	g.t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.RegisteredClaims{Issuer: "https://k8s.test", Audience: []string{"tidepool"},
		Subject: "system:serviceaccount:" + account, ExpiresAt: jwt.NewNumericDate(time.Now().Add(life))}).SignedString(g.key)
	must(g.t, err)
	return text
}

// config is what tidepool's says of access, and of the door.
func (g *gate) config() (access, door string) {
	rule := func(whom, user string) string {
		return fmt.Sprintf("{%s, username: %s, password_file: %q}", whom, user, mustWrite(g.t, g.file("password-"+user), user+"\n"))
	}
	return "access: caller, callers: [" + strings.Join([]string{rule(`certificate: "node-a*.corp"`, "alice"), rule(`certificate: node-b.corp`, "bob"),
			rule(`service_account: "prod:*"`, "carol")}, ", ") + "]",
		fmt.Sprintf("door: {tls_cert: %q, tls_key: %q, client_ca: %q, issuers: {prod: {issuer: 'https://k8s.test', keys_file: %q}}}\n",
			g.file("door", "client.cert"), g.file("door", "client.key"), g.file("ca.crt"), g.file("sa.pub"))
}

// visitor is one who pulls: by a directory of certificates, or with a token.
type visitor struct {
	name, certs, token string
	may                bool
}

// inTLS is one way in which real clients come by TLS.
type inTLS struct {
	name string
	pull func(t *testing.T, v visitor, img *image) error
}

// shows reports whether w can show what v has.
func (w inTLS) shows(v visitor) bool {
	return w.name != "docker login" || !exists(filepath.Join(v.certs, "client.cert"))
}

// dockerLogin is dockerd, which takes 127.0.0.1 for a registry whose certificate need not hold, and shows it none.
func (g *gate) dockerLogin(t *testing.T, at *guests) inTLS {
	t.Helper()
	d := startDockerd(t, at.pool.addr).(docker)
	return inTLS{"docker login", func(t *testing.T, v visitor, img *image) error {
		conf, auths := filepath.Join(t.TempDir(), "docker"), "{}"
		if v.token != "" {
			auths = fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, at.pool.addr, base64.StdEncoding.EncodeToString([]byte("token:"+v.token)))
		}
		mustWrite(t, filepath.Join(conf, "config.json"), auths)
		_, err := try(nil, "docker", "--config", conf, "-H", d.host, "pull", "-q", at.name(img))
		if err == nil {
			run(t, nil, "docker", "-H", d.host, "image", "rm", "-f", at.name(img))
		}
		return err
	}}
}

// inByTLS are the ways in which real clients come: each pulls an image as somebody.
func (g *gate) inByTLS(t *testing.T, at *guests) []inTLS {
	needs(t, "skopeo", "podman")
	dir := t.TempDir()
	p := newPodman(t, at.pool.addr).(podman)
	policy := mustWrite(t, filepath.Join(p.dir, "policy.json"), anySignature)
	c := startContainerd(t, at.pool.addr).(containerd)
	return []inTLS{
		g.dockerLogin(t, at),
		{"skopeo --src-cert-dir, --src-creds", func(t *testing.T, v visitor, img *image) error {
			to := filepath.Join(dir, v.name+img.tag)
			must(t, os.RemoveAll(to))
			args := []string{"--insecure-policy", "copy", "-q", "--src-cert-dir", v.certs}
			if v.token != "" {
				args = append(args, "--src-creds", "token:"+v.token)
			}
			if _, err := try([]string{"TMPDIR=" + dir}, "skopeo", append(args, "docker://"+at.name(img), "dir:"+to)...); err != nil {
				return err
			}
			checkBlobs(t, to, img.blobs()...)
			return nil
		}},
		{"podman --cert-dir, --creds", func(t *testing.T, v visitor, img *image) error {
			args := []string{"pull", "-q", "--cert-dir", v.certs, "--signature-policy", policy}
			if v.token != "" {
				args = append(args, "--creds", "token:"+v.token)
			}
			_, err := try(p.env, "podman", slices.Concat(p.args, args, []string{at.name(img)})...)
			if err == nil {
				p.run(t, "image", "rm", "-f", at.name(img))
			}
			return err
		}},
		{"client and header in hosts.toml", func(t *testing.T, v visitor, img *image) error {
			hosts := t.TempDir()
			mustWrite(t, filepath.Join(hosts, "docker.io", "hosts.toml"), hostsToml(at.pool.addr, v))
			_, err := try(nil, "ctr", "-a", c.socket, "images", "pull", "--hosts-dir", hosts, "--snapshotter", "native", img.ref())
			if err == nil {
				checkBlobs(t, c.blobs, img.parts()...)
				c.forget(t, img)
				run(t, nil, "ctr", "-a", c.socket, "content", "prune", "references")
			}
			return err
		}},
	}
}

// hostsToml leads containerd to addr and nowhere else, as v comes.
func hostsToml(addr string, v visitor) string {
	text := fmt.Sprintf("server = \"https://%s\"\nca = %q\n", addr, filepath.Join(v.certs, "ca.crt"))
	if cert := filepath.Join(v.certs, "client.cert"); exists(cert) {
		text += fmt.Sprintf("client = [[%q, %q]]\n", cert, filepath.Join(v.certs, "client.key"))
	}
	if v.token != "" {
		text += fmt.Sprintf("[header]\n  Authorization = \"Bearer %s\"\n", v.token)
	}
	return text + "[host]\n"
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// Nodes and service accounts at a real registry, by real clients over TLS: what stands in for a login brings what that
// login may have and nothing else, and who shows nothing is told what would help.
func TestNodesOfClients(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	access, door := g.config()
	at := guestsBy(t, access, door)
	foreign, err := origintest.NewCA()
	must(t, err)
	none := g.client("none", nil, "")
	visitors := []visitor{
		{name: "node-b", certs: g.client("b", g.ca, "node-b.corp")},
		{name: "nobody", certs: none},
		{name: "dev", certs: none, token: g.token("dev:puller", time.Hour)},
		{name: "expired", certs: none, token: g.token("prod:puller", -time.Hour)},
		{name: "foreign", certs: g.client("foreign", foreign, "node-a1.corp")},
		{name: "stranger", certs: g.client("stranger", g.ca, "node-a.x.corp")},
		{name: "node-a1", certs: g.client("a1", g.ca, "node-a1.corp"), may: true},
		{name: "node-a2", certs: g.client("a2", g.ca, "node-a2.corp"), may: true},
		{name: "prod", certs: none, token: g.token("prod:puller", time.Hour), may: true},
	}
	for _, w := range g.inByTLS(t, at) {
		t.Run(w.name, func(t *testing.T) {
			for _, img := range at.imgs[:2] {
				for _, v := range append(visitors, visitors[:3]...) { // what is held by then too
					if !w.shows(v) {
						continue
					}
					err := w.pull(t, v, img)
					switch {
					case v.may && err != nil:
						t.Errorf("%s of %s: %v\n%s", img.tag, v.name, err, tail(at.pool.log))
					case !v.may && err == nil:
						t.Errorf("LEAK: %s of %s came", img.tag, v.name)
					}
				}
			}
			for _, v := range []visitor{visitors[0], visitors[1], visitors[6], visitors[8]} {
				if !w.shows(v) {
					continue
				}
				// dockerd asks for nothing without a login where one is wanted.
				if err := w.pull(t, v, at.open); (err != nil) != (v.name == "nobody" && w.name == "docker login") {
					t.Errorf("what everybody may have, %s: %v", v.name, err)
				}
			}
			t.Logf("%-36s who may: pulled; node-b, nobody, others: refused", w.name)
		})
	}
	at.renewed(t, g)
	b, err := os.ReadFile(at.pool.log)
	must(t, err)
	if !strings.Contains(string(b), "clients     https://"+at.pool.addr+"\n") {
		t.Error("the greeting does not say https")
	}
	for _, secret := range []string{"eyJ", "alice:alice", login("alice")} {
		if strings.Contains(string(b), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

// renewed checks that a new certificate is shown as soon as it is there.
func (at *guests) renewed(t *testing.T, g *gate) {
	t.Helper()
	g.client("door", g.ca, "127.0.0.1")
	want, err := tls.LoadX509KeyPair(g.file("door", "client.cert"), g.file("door", "client.key"))
	must(t, err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: g.ca.Pool()}}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+at.pool.addr+"/v2/", nil)
	must(t, err)
	res, err := client.Do(req)
	must(t, err)
	must(t, res.Body.Close())
	if !slices.Equal(res.TLS.PeerCertificates[0].Raw, want.Certificate[0]) {
		t.Error("the old certificate is still shown")
	}
}
