package access_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/access"
)

const us = "https://k8s.test"

var (
	ours, theirs = rsaKey(2048), rsaKey(2048)
	curved       = ecKey()
)

func rsaKey(bits int) *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return k
}

func ecKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwks is the document of an issuer that has these keys, by their IDs.
func jwks(keys map[string]crypto.PublicKey) []byte {
	all := []map[string]string{{"kty": "oct", "kid": "secret", "k": "AAAA"}, {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": "AAAA"},
		{"kty": "EC", "kid": "off", "crv": "P-256", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}}
	for id, k := range keys {
		switch k := k.(type) {
		case *rsa.PublicKey:
			all = append(all, map[string]string{"kty": "RSA", "kid": id, "use": "sig", "alg": "RS256",
				"n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())})
		case *ecdsa.PublicKey:
			point, _ := k.Bytes()
			half := len(point) / 2
			all = append(all, map[string]string{"kty": "EC", "kid": id, "crv": "P-256", "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])})
		}
	}
	b, _ := json.Marshal(map[string]any{"keys": all})
	return b
}

func pemOf(k crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// good are the claims of a token that holds, with changes; nil takes a claim out.
func good(changes map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{"iss": us, "aud": []string{"https://kubernetes.default.svc", "tidepool"}, "sub": "system:serviceaccount:prod:puller",
		"exp": time.Now().Add(time.Hour).Unix(), "nbf": time.Now().Add(-time.Minute).Unix(), "iat": time.Now().Add(-time.Minute).Unix()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// sign makes a token; header adds to its header.
func sign(m jwt.SigningMethod, key any, c jwt.MapClaims, header map[string]any) string {
	t := jwt.NewWithClaims(m, c)
	maps.Copy(t.Header, header)
	text, err := t.SignedString(key)
	if err != nil {
		panic(err)
	}
	return text
}

// callers know the service accounts of an issuer with the keys in a file, and one login for those in prod.
func callers(t *testing.T, i access.Issuer) *access.Callers {
	t.Helper()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	i.Issuer, i.Audience = us, "tidepool"
	c, err := access.New(access.Options{Issuers: map[string]access.Issuer{"prod": i}, Rules: map[string][]access.Rule{
		"corp.test": {{Account: "prod:pull*", Issuer: "prod", Username: "robot", PasswordFile: password}}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func file(t *testing.T, text []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func request(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
	r.Header["Authorization"] = authorization
	return r
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// Only a token that the issuer has signed, for us, for now, is one; nothing in it says what it is verified with.
func TestTokens(t *testing.T) {
	list := jwks(map[string]crypto.PublicKey{"one": &ours.PublicKey, "two": &curved.PublicKey})
	c := callers(t, access.Issuer{KeysFile: file(t, list)})
	kid := map[string]any{"kid": "one"}
	rs := func(changes map[string]any) string { return sign(jwt.SigningMethodRS256, ours, good(changes), kid) }
	hs := func(key []byte) string { return sign(jwt.SigningMethodHS256, key, good(nil), kid) }
	der, err := x509.MarshalPKIXPublicKey(&ours.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	attacker := map[string]any{"kid": "one", "jku": "http://127.0.0.1:1/jwks", "x5u": "http://127.0.0.1:1/x5u",
		"jwk": map[string]string{"kty": "RSA", "n": b64(theirs.N.Bytes()), "e": "AQAB"}, "x5c": []string{b64(der)}}
	swapped := strings.Split(rs(nil), ".")
	swapped[1] = strings.Split(rs(map[string]any{"sub": "system:serviceaccount:prod:pull-all"}), ".")[1]
	crit := sign(jwt.SigningMethodRS256, ours, good(nil), map[string]any{"kid": "one", "alg": "none"})
	for _, one := range []struct {
		name, token string
		says        string // "": it holds
	}{
		{"good", rs(nil), ""},
		{"by a curve", sign(jwt.SigningMethodES256, curved, good(nil), map[string]any{"kid": "two"}), ""},
		{"without a key's ID", sign(jwt.SigningMethodRS256, ours, good(nil), nil), ""},
		{"for one audience, as a text", rs(map[string]any{"aud": "tidepool"}), ""},
		{"just over", rs(map[string]any{"exp": time.Now().Add(-10 * time.Second).Unix()}), ""},
		{"expired", rs(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), "has ended"},
		{"without an end", rs(map[string]any{"exp": nil}), "exp claim is required"},
		{"not yet", rs(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), "not valid yet"},
		{"another audience", rs(map[string]any{"aud": []string{"vault"}}), "ask for one for tidepool"},
		{"no audience", rs(map[string]any{"aud": nil}), "aud claim is required"},
		{"another issuer", rs(map[string]any{"iss": "https://evil.test"}), "door.issuers"},
		{"no issuer", rs(map[string]any{"iss": nil}), "door.issuers"},
		{"no service account", rs(map[string]any{"sub": "alice"}), "no service account's"},
		{"no subject", rs(map[string]any{"sub": nil}), "no service account's"},
		{"a subject of three parts", rs(map[string]any{"sub": "system:serviceaccount:prod:puller:x"}), "no service account's"},
		{"alg none", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good(nil), kid), "signing method none is invalid"},
		{"alg none over a signature", crit, "signing method none is invalid"},
		{"HS256 with the public key", hs(pemOf(&ours.PublicKey)), "signing method HS256 is invalid"},
		{"HS256 with its DER", hs(der), "signing method HS256 is invalid"},
		{"HS256 with nothing", hs([]byte{0}), "signing method HS256 is invalid"},
		{"another method than the key's", sign(jwt.SigningMethodRS512, ours, good(nil), kid), "does not have"},
		{"a key of another kind", sign(jwt.SigningMethodES256, curved, good(nil), kid), "does not have"},
		{"a foreign key", sign(jwt.SigningMethodRS256, theirs, good(nil), kid), "does not hold"},
		{"a foreign key in the header", sign(jwt.SigningMethodRS256, theirs, good(nil), attacker), "does not hold"},
		{"an unknown key", sign(jwt.SigningMethodRS256, theirs, good(nil), map[string]any{"kid": "three"}), "does not have"},
		{"the key that is no key", sign(jwt.SigningMethodHS256, make([]byte, 3), good(nil), map[string]any{"kid": "secret"}), "HS256 is invalid"},
		{"another's claims", strings.Join(swapped, "."), "does not hold"},
		{"cut", rs(nil)[:200], "door.issuers"},
		{"empty", "", "door.issuers"},
		{"three dots", "..", "door.issuers"},
		{"text", "abc", "door.issuers"},
	} {
		l, ok, err := c.Login(request("Bearer "+one.token), "corp.test")
		switch {
		case one.says == "" && (err != nil || !ok || l != cache.Login{Username: "robot", Password: "secret"}):
			t.Errorf("%s: %q %v %v", one.name, l.Username, ok, err)
		case one.says != "" && (!errors.Is(err, cache.ErrDenied) || !strings.Contains(err.Error(), one.says) || l != cache.Login{}):
			t.Errorf("%s: %q %v, want %q", one.name, l.Username, err, one.says)
		case err != nil && strings.Contains(err.Error(), "eyJ"):
			t.Errorf("%s: %v", one.name, err)
		}
		// As a password it is the same, and if it says that it is the issuer's it is never somebody's login.
		l, ok, asPassword := c.Login(request(basic("any", one.token)), "corp.test")
		foreign := strings.Contains(one.says, "door.issuers")
		if foreign != !ok || !foreign && (asPassword == nil) != (err == nil) || (l != cache.Login{}) != (one.says == "") {
			t.Errorf("%s, as a password: %q %v %v", one.name, l.Username, ok, asPassword)
		}
	}
}

// What a token stands for is said by registry, and who shows something else is left to others.
func TestWhoseLogin(t *testing.T) {
	c := callers(t, access.Issuer{KeysFile: file(t, pemOf(&curved.PublicKey))})
	of := func(account string) string {
		return "Bearer " + sign(jwt.SigningMethodES256, curved, good(map[string]any{"sub": "system:serviceaccount:" + account}), map[string]any{"kid": "x"})
	}
	for _, one := range []struct {
		registry string
		shows    []string
		ok       bool
		user     string
	}{
		{"corp.test", []string{of("prod:puller")}, true, "robot"},
		{"corp.test", []string{"bearer" + of("prod:puller")[6:]}, true, "robot"},
		{"corp.test", []string{of("prod:admin")}, true, ""},
		{"corp.test", []string{of("prod2:puller")}, true, ""},
		{"other.test", []string{of("prod:puller")}, true, ""},
		{"corp.test", nil, true, ""},
		{"corp.test", []string{"Basic Og=="}, true, ""},
		{"corp.test", []string{basic("alice", "pass")}, false, ""},
		{"corp.test", []string{basic("", "pass")}, false, ""},
		{"corp.test", []string{"Negotiate abc"}, false, ""},
		{"corp.test", []string{of("prod:puller"), of("prod:puller")}, false, ""},
	} {
		l, ok, err := c.Login(request(one.shows...), one.registry)
		if l.Username != one.user || ok != one.ok || err != nil {
			t.Errorf("%+v: %q %v %v", one, l.Username, ok, err)
		}
	}
}

// Two clusters may go by one name: whose key has signed a token is whose it is.
func TestClustersOfOneName(t *testing.T) {
	password := file(t, []byte("x"))
	rule := func(issuer string) access.Rule {
		return access.Rule{Account: "prod:*", Issuer: issuer, Username: issuer, PasswordFile: password}
	}
	c, err := access.New(access.Options{Issuers: map[string]access.Issuer{
		"a": {Issuer: us, Audience: "tidepool", KeysFile: file(t, pemOf(&ours.PublicKey))},
		"b": {Issuer: us, Audience: "tidepool", KeysFile: file(t, pemOf(&curved.PublicKey))},
	}, Rules: map[string][]access.Rule{"corp.test": {rule("a"), rule("b")}, "a.test": {rule("a")}}})
	if err != nil {
		t.Fatal(err)
	}
	a, b := "Bearer "+sign(jwt.SigningMethodRS256, ours, good(nil), nil), "Bearer "+sign(jwt.SigningMethodES256, curved, good(nil), nil)
	for _, one := range []struct{ registry, token, user string }{{"corp.test", a, "a"}, {"corp.test", b, "b"}, {"a.test", a, "a"}, {"a.test", b, ""}} {
		if l, _, err := c.Login(request(one.token), one.registry); l.Username != one.user || err != nil {
			t.Errorf("%s: %q %v", one.registry, l.Username, err)
		}
	}
}

// publisher is an issuer that lists its keys over HTTP.
type publisher struct {
	*httptest.Server
	mu     sync.Mutex
	asked  int
	status int
	body   []byte
	auth   string
}

func publish(t *testing.T) *publisher {
	p := &publisher{status: http.StatusOK}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked++
		p.auth = r.Header.Get("Authorization")
		if p.status == http.StatusFound {
			w.Header().Set("Location", p.URL+"/elsewhere")
		}
		w.WriteHeader(p.status)
		_, _ = w.Write(p.body)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) says(status int, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.body = status, body
}

func (p *publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// An issuer's list is asked for when it is needed, kept, and asked for again for a key that is new, but not for each that
// strangers think of; while it cannot be had, what was listed holds, for a day.
func TestKeysAtURL(t *testing.T) {
	p := publish(t)
	one, both := jwks(map[string]crypto.PublicKey{"one": &ours.PublicKey}), jwks(map[string]crypto.PublicKey{"one": &ours.PublicKey, "two": &curved.PublicKey})
	bearer := file(t, []byte("pod's token\n"))
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		password := file(t, []byte("x"))
		c, err := access.New(access.Options{Issuers: map[string]access.Issuer{"prod": {Issuer: us, Audience: "tidepool", KeysURL: p.URL, TokenFile: bearer}},
			Rules: map[string][]access.Rule{"corp.test": {{Account: "prod:*", Issuer: "prod", Username: "robot", PasswordFile: password}}}, Log: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		first := func() string {
			return "Bearer " + sign(jwt.SigningMethodRS256, ours, good(nil), map[string]any{"kid": "one"})
		}
		second := func() string {
			return "Bearer " + sign(jwt.SigningMethodES256, curved, good(nil), map[string]any{"kid": "two"})
		}
		expect := func(when, token string, kind error, asked int) {
			t.Helper()
			l, _, err := c.Login(request(token), "corp.test")
			if !errors.Is(err, kind) || (err == nil) != (l.Username == "robot") {
				t.Errorf("%s: %q %v, want %v", when, l.Username, err, kind)
			}
			if err != nil && strings.Contains(err.Error(), "127.0.0.1") {
				t.Errorf("%s: strangers are told: %v", when, err)
			}
			if n := p.count(); n != asked {
				t.Errorf("%s: the issuer was asked %d times, want %d", when, n, asked)
			}
		}
		p.says(http.StatusServiceUnavailable, nil)
		expect("down at first", first(), cache.ErrUnavailable, 1)
		expect("down, at once again", first(), cache.ErrUnavailable, 1)
		time.Sleep(failedPause)
		p.says(http.StatusFound, nil)
		expect("redirects", first(), cache.ErrUnavailable, 2)
		time.Sleep(failedPause)
		p.says(http.StatusOK, make([]byte, 2<<20))
		expect("too much", first(), cache.ErrUnavailable, 3)
		time.Sleep(failedPause)
		p.says(http.StatusOK, one)
		expect("there", first(), nil, 4)
		if p.auth != "Bearer pod's token" {
			t.Errorf("asked with %q", p.auth)
		}
		expect("again", first(), nil, 4)
		for range 5 {
			expect("a key that is not listed, at once", second(), cache.ErrDenied, 4)
		}
		time.Sleep(time.Minute)
		p.says(http.StatusOK, both)
		expect("and a minute later", second(), nil, 5)
		expect("the old one too", first(), nil, 5)
		time.Sleep(59 * time.Minute)
		expect("within the hour", first(), nil, 5)
		time.Sleep(2 * time.Minute)
		p.says(http.StatusOK, one)
		expect("after the hour", first(), nil, 6)
		expect("taken back", second(), cache.ErrDenied, 6)
		p.says(http.StatusInternalServerError, nil)
		for i := range 22 {
			time.Sleep(time.Hour + time.Minute)
			expect("while it is down", first(), nil, 7+i)
		}
		time.Sleep(3 * time.Hour)
		expect("down for a day", first(), cache.ErrUnavailable, 29)
		p.says(http.StatusOK, one)
		time.Sleep(failedPause)
		expect("back", first(), nil, 30)
		if n := logs.Len(); n != 2 {
			t.Errorf("%d warnings, want one for each outage: %v", n, logs.All())
		}
	})
}

const failedPause = 10 * time.Second

// New keys in a file hold at once, and a file that is broken leaves the old ones; one that never was good is an outage.
func TestKeysInFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "jwks")
	c := callers(t, access.Issuer{KeysFile: name})
	put := func(text []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(name+".new", text, 0o600), os.Rename(name+".new", name)); err != nil {
			t.Fatal(err)
		}
	}
	first, second := "Bearer "+sign(jwt.SigningMethodRS256, ours, good(nil), nil), "Bearer "+sign(jwt.SigningMethodES256, curved, good(nil), nil)
	expect := func(when, token string, kind error) {
		t.Helper()
		if _, _, err := c.Login(request(token), "corp.test"); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", when, err, kind)
		}
	}
	expect("no file", first, cache.ErrUnavailable)
	t.Setenv("GODEBUG", "rsa1024min=0") // Go would make none
	weak := rsaKey(1024)
	put(pemOf(&weak.PublicKey))
	expect("a weak key alone", "Bearer "+sign(jwt.SigningMethodRS256, weak, good(nil), nil), cache.ErrUnavailable)
	put(pemOf(&ours.PublicKey))
	expect("there", first, nil)
	put([]byte(`{"keys": [`))
	expect("half written", first, nil)
	put(append(pemOf(&ours.PublicKey), pemOf(&curved.PublicKey)...))
	expect("both, the first", first, nil)
	expect("both, the second", second, nil)
	put(jwks(map[string]crypto.PublicKey{"two": &curved.PublicKey}))
	expect("replaced, the first", first, cache.ErrDenied)
	expect("replaced, the second", second, nil)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	expect("removed", second, nil)
}
