package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// tokens is a token server for docker-registry (distribution's "Token Authentication Implementation"), with accounts
// each of which may pull some repositories. The password of an account is its name.
type tokens struct {
	*httptest.Server
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert []byte // DER

	mu    sync.Mutex
	may   map[string][]string // repositories by account; "" is nobody
	shown []string            // who came, in order
}

func newTokens(t *testing.T) *tokens {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "token server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	must(t, err)
	s := &tokens{t: t, key: key, cert: der, may: map[string][]string{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// auth is what the registry's configuration says of s.
func (s *tokens) auth() string {
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert})
	return fmt.Sprintf("token: {realm: %q, service: sea, issuer: harbour, rootcertbundle: %q}",
		s.URL+"/token", mustWrite(s.t, filepath.Join(s.t.TempDir(), "bundle.pem"), string(bundle)))
}

// grant has an account, "" being nobody, pull these repositories and no others.
func (s *tokens) grant(user string, repos ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.may[user] = repos
}

// ServeHTTP gives a token for as much of what is asked as the account may have.
func (s *tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, password, _ := r.BasicAuth()
	s.shown = append(s.shown, user)
	repos, known := s.may[user]
	if password != user || !known && user != "" {
		http.Error(w, `{"details": "incorrect username or password"}`, http.StatusUnauthorized)
		return
	}
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	granted := []access{}
	for _, scope := range r.URL.Query()["scope"] {
		parts := strings.Split(scope, ":")
		if len(parts) == 3 && parts[0] == "repository" && slices.Contains(repos, parts[1]) {
			granted = append(granted, access{"repository", parts[1], []string{"pull"}})
		}
	}
	now := time.Now()
	token := s.sign(map[string]any{
		"iss": "harbour", "aud": "sea", "sub": user, "jti": rand.Text(), "access": granted,
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Minute).Unix(),
	})
	must(s.t, json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 60}))
}

// sign makes a JSON web token (RFC 7515, RFC 7518 section 3.4), which brings its certificate along.
func (s *tokens) sign(claims map[string]any) string {
	encode := func(v any) string {
		b, err := json.Marshal(v)
		must(s.t, err)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := encode(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.cert)}}) +
		"." + encode(claims)
	sum := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	must(s.t, err)
	return text + "." + base64.RawURLEncoding.EncodeToString(append(a.FillBytes(make([]byte, 32)), b.FillBytes(make([]byte, 32))...))
}
