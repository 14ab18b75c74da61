package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/tidepool-oci/tidepool/proxy/hubtest"
)

// land is what all rows of the table stand on: an internet of their names, one registry with the content of all, and
// what tidepool finds on its machine.
type land struct {
	t        *testing.T
	dir      string
	content  string // of the registry, as a directory
	net      *hubtest.Internet
	registry *registry
	pool     *tidepool
	env      []string
}

func newLand(t *testing.T) *land {
	t.Helper()
	l := &land{t: t, dir: t.TempDir(), net: hubtest.Serve(t), content: t.TempDir()}
	l.registry = open(t, l.content, false)
	roots := mustWrite(t, filepath.Join(l.dir, "roots.pem"), string(l.net.Roots()))
	l.env = []string{"HTTPS_PROXY=" + l.net.Proxy(), "NO_PROXY=", "SSL_CERT_FILE=" + roots, "AWS_EC2_METADATA_DISABLED=true"}
	return l
}

// secret writes a secret file and returns its name and what is in it.
func (l *land) secret() (name, text string) {
	l.t.Helper()
	text = hubtest.Marker + "-" + rand.Text()
	f, err := os.CreateTemp(l.dir, "secret-*")
	must(l.t, err)
	must(l.t, f.Close())
	return mustWrite(l.t, f.Name(), text+"\n"), text
}

// row begins a row.
func (l *land) row(hub, login, layout, name string) *hubRow {
	r := &hubRow{hub: hub, login: login, layout: layout, name: name, gate: new(hubtest.Gate), front: hubtest.NewHub("http://" + l.registry.addr)}
	r.renew, r.revoke = r.gate.Expire, r.gate.Revoke
	return r
}

// at puts the row's hub at a host, its token server where realm says, and its store at a host of its own.
func (l *land) at(r *hubRow, host, realm, store string, tokens http.Handler) {
	l.t.Helper()
	var front http.Handler = r.front
	if realm != "" {
		u, err := url.Parse(realm)
		must(l.t, err)
		mux := http.NewServeMux()
		mux.Handle(u.Path, tokens)
		if u.Host == host {
			mux.Handle("/", r.front)
			front = mux
		} else {
			l.net.Host(u.Host, mux)
		}
	}
	l.net.Host(host, front)
	if store != "" {
		r.front.CDN = store
		l.net.Host(store, r.front.Store())
	}
}

// account gives the row an account, and tidepool its password in a file.
func (l *land) account(r *hubRow, user string) {
	l.t.Helper()
	file, password := l.secret()
	r.gate.Account(user, password)
	r.config += fmt.Sprintf("credentials: [{username: %q, password_file: %s}]\n", user, file)
}

// bearer is a row with a token server, which asks for a password, or where there is no user, for nothing.
func (l *land) bearer(r *hubRow, host, realm, service, store, user string) *hubRow {
	l.t.Helper()
	r.front.Guard = r.gate.Bearer(realm, service)
	if user != "" {
		l.account(r, user)
	} else {
		r.revoke = nil
	}
	l.at(r, host, realm, store, r.gate.Tokens(user == ""))
	return r
}

// basic is a row whose every request shows a password, which is renewed in its file.
func (l *land) basic(r *hubRow, host, realm, user string) *hubRow {
	l.t.Helper()
	file, password := l.secret()
	r.gate.Account(user, password)
	r.config += fmt.Sprintf("credentials: [{username: %q, password_file: %s}]\n", user, file)
	r.front.Guard = r.gate.Basic(realm)
	r.renew = func() {
		must(l.t, os.WriteFile(file, []byte(hubtest.Marker+"-renewed\n"), 0o600))
		r.gate.Account(user, hubtest.Marker+"-renewed")
	}
	l.at(r, host, "", "", nil)
	return r
}

// ecr is a row at Amazon, with an account of its own that a profile stands for.
func (l *land) ecr(account, region, profile, partition string, keys *strings.Builder) *hubRow {
	host := account + ".dkr.ecr." + region + "." + partition
	r := l.row("Amazon ECR", "aws, profile "+profile, region, host)
	key := hubtest.AWSKey{ID: "AKIA" + strings.ToUpper(profile), Secret: hubtest.Marker + "-" + rand.Text()}
	fmt.Fprintf(keys, "[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", profile, key.ID, key.Secret)
	r.config = "credentials: [{aws: {profile: " + profile + "}}]\n"
	r.front.Guard = r.gate.ECR(host)
	l.net.Host("api.ecr."+region+"."+partition, r.gate.ECRAPI(key, region, false))
	l.at(r, host, "", "prod-"+region+"-starport-layer-bucket.s3."+region+"."+partition, nil)
	return r
}

// loopback serves what a cloud has on the machine itself.
func (l *land) loopback(h http.Handler) string {
	s := httptest.NewServer(h)
	l.t.Cleanup(s.Close)
	return s.URL
}

// ownHtpasswd is Debian's registry with its own htpasswd.
func (l *land) ownHtpasswd(r *hubRow, host string) *hubRow {
	l.t.Helper()
	file, password := l.secret()
	htpasswd := filepath.Join(l.dir, "htpasswd")
	admit := func(password string) {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		must(l.t, err)
		must(l.t, os.WriteFile(htpasswd, []byte("puller:"+string(hash)+"\n"), 0o600))
	}
	admit(password)
	own := l.behind("htpasswd: {realm: sea, path: " + htpasswd + "}")
	r.front, r.config = hubtest.NewHub("http://"+own), fmt.Sprintf("credentials: [{username: puller, password_file: %s}]\n", file)
	r.front.Own = true
	r.renew = func() {
		must(l.t, os.WriteFile(file, []byte(hubtest.Marker+"-renewed\n"), 0o600))
		admit(hubtest.Marker + "-renewed")
	}
	r.revoke = func() { admit("nobody's") }
	l.at(r, host, "", "", nil)
	return r
}

// behind starts another registry over the same content, which asks for logins itself, and returns its address.
func (l *land) behind(auth string) string {
	l.t.Helper()
	addr := address(l.t)
	conf := mustWrite(l.t, filepath.Join(l.t.TempDir(), "registry.yml"), fmt.Sprintf("version: 0.1\nlog: {level: error}\n"+
		"storage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s, secret: x}\nauth: {%s}\n", l.content, addr, auth))
	p := start(l.t, nil, "docker-registry", "serve", conf)
	p.await(l.t, "docker-registry answers", func() bool { return answers("http://" + addr + "/v2/") })
	return addr
}

// ownToken is Debian's registry with its own token login: the token server signs, and the registry verifies.
func (l *land) ownToken(r *hubRow, host, realm string) *hubRow {
	l.t.Helper()
	s := newSigner(l.t)
	bundle := mustWrite(l.t, filepath.Join(l.dir, "signer.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert})))
	own := l.behind(fmt.Sprintf("token: {realm: %q, service: sea, issuer: harbour, rootcertbundle: %s}", realm, bundle))
	file, password := l.secret()
	r.gate.Account("puller", password)
	r.front = hubtest.NewHub("http://" + own)
	r.front.Own = true
	r.config = fmt.Sprintf("credentials: [{username: puller, password_file: %s}]\nrealm: auth.%s\n", file, host)
	mux := http.NewServeMux()
	tokens := r.gate.Tokens(false)
	mux.HandleFunc("/token", func(w http.ResponseWriter, req *http.Request) {
		asked := httptest.NewRecorder()
		if tokens.ServeHTTP(asked, req); asked.Code != http.StatusOK {
			w.WriteHeader(asked.Code)
			return
		}
		repo := strings.TrimSuffix(strings.TrimPrefix(req.URL.Query().Get("scope"), "repository:"), ":pull")
		json.NewEncoder(w).Encode(map[string]any{"token": s.token(l.t, repo), "expires_in": 300})
	})
	r.renew = r.front.Void
	r.revoke = func() {
		r.gate.Revoke()
		r.front.Void()
	}
	l.net.Host("auth."+host, mux)
	l.at(r, host, "", "", nil)
	return r
}

// certificate writes an application's certificate with its key, and returns the file and the key that proves it.
func (l *land) certificate() (file string, public *rsa.PublicKey) {
	l.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(l.t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(l.t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(l.t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
	return mustWrite(l.t, filepath.Join(l.dir, "application.pem"), string(text)), &key.PublicKey
}

// signer signs tokens as the distribution project's "Token Authentication Implementation" has it.
type signer struct {
	key  *ecdsa.PrivateKey
	cert []byte
}

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	return signer{key, cert}
}

func (s signer) token(t *testing.T, repo string) string {
	part := func(v any) string {
		b, err := json.Marshal(v)
		must(t, err)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	now := time.Now()
	text := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.cert)}}) + "." +
		part(map[string]any{"iss": "harbour", "sub": "puller", "aud": "sea", "exp": now.Add(5 * time.Minute).Unix(),
			"nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(), "jti": rand.Text(),
			"access": []any{map[string]any{"type": "repository", "name": repo, "actions": []string{"pull"}}}})
	sum := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	must(t, err)
	signature := make([]byte, 64)
	a.FillBytes(signature[:32])
	b.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}
