package access_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/proxy/access"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// made is a certificate by a, or by itself where a is nil; change may change what it says.
func (a *authority) made(t *testing.T, change func(*x509.Certificate)) (*authority, tls.Certificate) {
	t.Helper()
	key := ecKey()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(c)
	}
	by := a
	if by == nil {
		by = &authority{c, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func root(t *testing.T, name string) *authority {
	t.Helper()
	a, _ := (*authority)(nil).made(t, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: name}
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	return a
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// of names a certificate by DNS.
func of(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = names }
}

// site is a server that says who came in.
type site struct {
	t      *testing.T
	dir    string
	files  access.Files
	door   *access.Door
	ca     *authority
	addr   string
	server *http.Server
	logs   *observer.ObservedLogs
}

func open(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), ca: root(t, "authority")}
	s.files = access.Files{Cert: filepath.Join(s.dir, "tls.crt"), Key: filepath.Join(s.dir, "tls.key"), ClientCA: filepath.Join(s.dir, "ca.pem")}
	s.put(s.files.ClientCA, s.ca.pem())
	s.renew("first")
	core, logs := observer.New(zap.InfoLevel)
	s.logs = logs
	var err error
	if s.door, err = access.Open(s.files, zap.New(core)); err != nil {
		t.Fatal(err)
	}
	password := file(t, []byte("x"))
	rule := func(subject access.Subject) access.Rule {
		return access.Rule{Certificate: subject, Username: string(subject), PasswordFile: password}
	}
	c, err := access.New(access.Options{Door: s.door, Rules: map[string][]access.Rule{
		"corp.test": {rule("node-*.corp"), rule("system:node:**"), rule("**.wide.corp")}}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.server = &http.Server{TLSConfig: s.door.Config(), ErrorLog: zap.NewStdLog(zap.NewNop()), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		login, _, err := c.Login(r, "corp.test")
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
		}
		_, _ = io.WriteString(w, r.Proto+" "+login.Username)
	})}
	served := make(chan error, 1)
	go func() { served <- s.server.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		_ = s.server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return s
}

// put replaces a file.
func (s *site) put(name string, text []byte) {
	s.t.Helper()
	if err := errors.Join(os.WriteFile(name+".new", text, 0o600), os.Rename(name+".new", name)); err != nil {
		s.t.Fatal(err)
	}
}

// renew gives the site another certificate, with a name of its own besides its address.
func (s *site) renew(name string) {
	s.t.Helper()
	_, cert := s.ca.made(s.t, func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{name}, []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(s.files.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	s.put(s.files.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}

// client shows a certificate, whichever the server asks for; none where it is nil.
func (s *site) client(cert *tls.Certificate, change func(*tls.Config)) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.cert)
	conf := &tls.Config{RootCAs: pool}
	if cert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	if change != nil {
		change(conf)
	}
	t := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
	s.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// ask is what the site says, and by which certificate.
func (s *site) ask(c *http.Client) (says string, leaf *x509.Certificate, err error) {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "https://"+s.addr, nil)
	if err != nil {
		return "", nil, err
	}
	res, err := c.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), res.TLS.PeerCertificates[0], err
}

// Who has no certificate may come in; one that comes has to hold; and what it is for is matched part by part.
func TestCertificates(t *testing.T) {
	s := open(t)
	foreign := root(t, "authority") // by the same name
	self, selfSigned := (*authority)(nil).made(t, of("node-1.corp"))
	_ = self
	between, _ := s.ca.made(t, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "between"}
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	_, below := between.made(t, of("node-1.corp"))
	chain := below
	chain.Certificate = append(chain.Certificate, between.cert.Raw)
	notCA, _ := s.ca.made(t, of("node-1.corp"))
	_, byNode := notCA.made(t, of("node-2.corp"))
	byNode.Certificate = append(byNode.Certificate, notCA.cert.Raw)
	for _, one := range []struct {
		name    string
		by      *authority
		change  func(*x509.Certificate)
		cert    *tls.Certificate
		login   string
		refused bool
	}{
		{name: "none", cert: &tls.Certificate{}},
		{name: "a node", by: s.ca, change: of("node-1.corp"), login: "node-*.corp"},
		{name: "in capitals", by: s.ca, change: of("Node-1.CORP"), login: "node-*.corp"},
		{name: "one of several names", by: s.ca, change: of("a.test", "node-1.corp"), login: "node-*.corp"},
		{name: "* crosses no dot", by: s.ca, change: of("node-1.evil.corp")},
		{name: "nor what is before", by: s.ca, change: of("xnode-1.corp")},
		{name: "nor what is behind", by: s.ca, change: of("node-1.corp.evil")},
		{name: "a dot is a dot", by: s.ca, change: of("node-1xcorp")},
		{name: "a wildcard", by: s.ca, change: of("*.corp", "node-*.corp")},
		{name: "** crosses dots", by: s.ca, change: of("a.b.wide.corp"), login: "**.wide.corp"},
		{name: "** is something", by: s.ca, change: of("wide.corp")},
		{name: "a common name", by: s.ca, change: func(c *x509.Certificate) { c.Subject.CommonName = "system:node:ip-10-0-0-1.ec2.internal" }, login: "system:node:**"},
		{name: "a common name besides a DNS name", by: s.ca, change: func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames = "node-1.corp", []string{"other.corp"}
		}},
		{name: "an address alone", by: s.ca, change: func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }},
		{name: "expired", by: s.ca, change: func(c *x509.Certificate) {
			c.DNSNames, c.NotAfter = []string{"node-1.corp"}, time.Now().Add(-time.Minute)
		}, refused: true},
		{name: "not yet", by: s.ca, change: func(c *x509.Certificate) {
			c.DNSNames, c.NotBefore = []string{"node-1.corp"}, time.Now().Add(time.Minute)
		}, refused: true},
		{name: "a server's", by: s.ca, change: func(c *x509.Certificate) {
			c.DNSNames, c.ExtKeyUsage = []string{"node-1.corp"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}, refused: true},
		{name: "foreign", by: foreign, change: of("node-1.corp"), refused: true},
		{name: "self-signed", cert: &selfSigned, refused: true},
		{name: "below an authority that is not shown", cert: &below, refused: true},
		{name: "below one that is", cert: &chain, login: "node-*.corp"},
		{name: "by a node", cert: &byNode, refused: true},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cert := one.cert
			if cert == nil {
				_, c := one.by.made(t, one.change)
				cert = &c
			}
			says, _, err := s.ask(s.client(cert, func(c *tls.Config) { c.MaxVersion = version }))
			switch {
			case one.refused != (err != nil):
				t.Errorf("%s, %s: %q %v", one.name, tls.VersionName(version), says, err)
			case err == nil && says != "HTTP/2.0 "+one.login:
				t.Errorf("%s, %s: %q, want %q", one.name, tls.VersionName(version), says, one.login)
			}
		}
	}
	if _, _, err := s.ask(s.client(nil, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

// An authority that is taken out stands for nobody from then on, over connections that are open already too.
func TestAuthorityTakenOut(t *testing.T) {
	s := open(t)
	_, node := s.ca.made(t, of("node-1.corp"))
	c := s.client(&node, func(c *tls.Config) { c.ClientSessionCache = tls.NewLRUClientSessionCache(4) })
	expect := func(when, login string) {
		t.Helper()
		if says, _, err := s.ask(c); says != "HTTP/2.0 "+login || err != nil {
			t.Errorf("%s: %q %v", when, says, err)
		}
	}
	expect("first", "node-*.corp")
	other := root(t, "other")
	s.put(s.files.ClientCA, append(other.pem(), s.ca.pem()...))
	expect("another besides", "node-*.corp")
	s.put(s.files.ClientCA, other.pem())
	expect("taken out", "")
	c.CloseIdleConnections()
	if says, _, err := s.ask(c); err == nil {
		t.Errorf("a new connection: %q", says)
	}
	s.put(s.files.ClientCA, []byte("nothing"))
	if says, _, err := s.ask(c); err == nil {
		t.Errorf("a broken file brings the old authority back: %q", says)
	}
	s.put(s.files.ClientCA, s.ca.pem())
	expect("back", "node-*.corp")
}

// Certificates are replaced while many come in: nobody is refused, everybody is shown one of those that there were, and
// the last one in the end, in whatever order the two files come, and with whatever rubbish between them.
func TestRenewedUnderLoad(t *testing.T) {
	s := open(t)
	_, node := s.ca.made(t, of("node-1.corp"))
	ctx, stop := context.WithCancel(t.Context())
	came := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				c := s.client(&node, nil)
				says, leaf, err := s.ask(c)
				if err != nil || says != "HTTP/2.0 node-*.corp" || !strings.HasPrefix(leaf.DNSNames[0], "first") && !strings.HasPrefix(leaf.DNSNames[0], "next") {
					t.Errorf("%q %v", says, err)
				}
				c.CloseIdleConnections()
				select {
				case came <- struct{}{}:
				case <-ctx.Done():
				}
			}
		})
	}
	for i := range 20 {
		for range 8 {
			<-came
		}
		switch i % 4 {
		case 1:
			s.put(s.files.Cert, []byte("rubbish"))
		case 3:
			if err := os.Remove(s.files.Key); err != nil {
				t.Fatal(err)
			}
		default:
			s.renew("next")
		}
	}
	s.renew("next.last")
	_, leaf, err := s.ask(s.client(nil, nil))
	stop()
	all.Wait()
	if err != nil || leaf.DNSNames[0] != "next.last" {
		t.Errorf("the last one is not shown: %v", err)
	}
	if warnings := s.logs.FilterMessageSnippet("still holds").Len(); warnings == 0 {
		t.Error("the log says nothing of files that cannot be used")
	}
}

// Kubernetes replaces all files at once, by a link to another directory.
func TestLinkedDirectory(t *testing.T) {
	s := open(t)
	for _, name := range []string{"one", "two"} {
		s.renew(name)
		real := filepath.Join(s.dir, "..data."+name)
		if err := os.Mkdir(real, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"tls.crt", "tls.key", "ca.pem"} {
			text, err := os.ReadFile(filepath.Join(s.dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(real, f), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	data := filepath.Join(s.dir, "..data")
	link := func(name string) {
		t.Helper()
		if err := errors.Join(os.Symlink("..data."+name, data+".new"), os.Rename(data+".new", data)); err != nil {
			t.Fatal(err)
		}
	}
	link("one")
	door, err := access.Open(access.Files{Cert: data + "/tls.crt", Key: data + "/tls.key", ClientCA: data + "/ca.pem"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two", "one"} {
		link(name)
		conf, err := door.Config().GetConfigForClient(nil)
		if err != nil || conf.Certificates[0].Leaf.DNSNames[0] != name {
			t.Errorf("%s is not shown: %v", name, err)
		}
	}
}

// What cannot serve is said at the start.
func TestFilesThatCannotServe(t *testing.T) {
	s := open(t)
	other := open(t)
	for says, f := range map[string]access.Files{
		"no such file":      {Cert: s.dir + "/none", Key: s.files.Key},
		"private key":       {Cert: s.files.Cert, Key: other.files.Key},
		"no certificate in": {Cert: s.files.Cert, Key: s.files.Key, ClientCA: s.files.Key},
	} {
		if _, err := access.Open(f, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", f, err, says)
		}
	}
}
