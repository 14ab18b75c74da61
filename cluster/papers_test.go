package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
)

// office issues certificates, as a site's own authority does.
type office struct {
	t   *testing.T
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
}

func newOffice(t *testing.T) *office {
	o := &office{t: t}
	o.ca, o.key = o.make(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	return o
}

func (o *office) make(template, by *x509.Certificate, with *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	o.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	if by == nil {
		by, with = template, key
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), with)
	if err != nil {
		o.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		o.t.Fatal(err)
	}
	return c, key
}

var forBoth = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

// papers writes a certificate for names into a directory.
func (o *office) papers(dir string, uses []x509.ExtKeyUsage, names ...string) cluster.Papers {
	o.t.Helper()
	cert, key := o.make(&x509.Certificate{DNSNames: names, ExtKeyUsage: uses}, o.ca, o.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		o.t.Fatal(err)
	}
	p := cluster.Papers{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	for file, block := range map[string]pem.Block{
		p.Cert: {Type: "CERTIFICATE", Bytes: cert.Raw}, p.Key: {Type: "PRIVATE KEY", Bytes: der}, p.CA: {Type: "CERTIFICATE", Bytes: o.ca.Raw},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(&block), 0o600); err != nil {
			o.t.Fatal(err)
		}
	}
	return p
}

func given(t *testing.T, name string, p cluster.Papers) *cluster.Identity {
	t.Helper()
	id, err := cluster.IdentifyBy(name, p)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestPapers: members with given certificates believe each other, by name, and nobody else.
func TestPapers(t *testing.T) {
	site, elsewhere := newOffice(t), newOffice(t)
	a := given(t, "a", site.papers(t.TempDir(), forBoth, "a", "a.corp.test"))
	b := given(t, "b", site.papers(t.TempDir(), forBoth, "b"))
	seen, _, err := meet(t, a.Server(), b.Client("a"))
	if err != nil {
		t.Fatal(err)
	}
	if name, err := a.Member(&seen); name != "b" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	for name, pair := range map[string][2]*tls.Config{
		"another's certificate": {b.Server(), a.Client("c")},
		"another authority's":   {a.Server(), given(t, "b", elsewhere.papers(t.TempDir(), forBoth, "b")).Client("a")},
		"made from a secret":    {a.Server(), identify(t, "b", "a secret of sixteen bytes").Client("a")},
	} {
		if _, _, err := meet(t, pair[0], pair[1]); err == nil {
			t.Errorf("%s is believed", name)
		}
	}
	for say, p := range map[string]cluster.Papers{
		"this member is called":  site.papers(t.TempDir(), forBoth, "b"),
		"no DNS name":            site.papers(t.TempDir(), forBoth),
		"good for servers":       site.papers(t.TempDir(), forBoth[:1], "a"),
		"no such file":           {Cert: "/nowhere", Key: "/nowhere", CA: "/nowhere"},
		"cannot stand in a cert": site.papers(t.TempDir(), forBoth, "A B"),
	} {
		if _, err := cluster.IdentifyBy("a", p); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%v, want %q", err, say)
		}
	}
}

// TestPapersAnew: certificates that are replaced are taken, and what cannot be one is not.
func TestPapersAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		p := newOffice(t).papers(dir, forBoth, "a")
		id := given(t, "a", p)
		var complaints atomic.Int64
		go id.FollowPapers(t.Context(), p, func(error) { complaints.Add(1) })
		before := id.Client("b").RootCAs
		if err := os.WriteFile(p.Cert, []byte("half of it"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait() // it reads at this very moment, too
		if complaints.Load() != 1 || !id.Client("b").RootCAs.Equal(before) {
			t.Errorf("%d complaints", complaints.Load())
		}
		newOffice(t).papers(dir, forBoth, "a")
		time.Sleep(time.Minute)
		if complaints.Load() != 1 || id.Client("b").RootCAs.Equal(before) {
			t.Error("the new ones are not taken")
		}
	})
}

// TestPapersAnewAtOnce: so are those that are replaced before anybody looks for new ones.
func TestPapersAnewAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		p := newOffice(t).papers(dir, forBoth, "a")
		id := given(t, "a", p)
		before := id.Client("b").RootCAs
		newOffice(t).papers(dir, forBoth, "a")
		go id.FollowPapers(t.Context(), p, func(err error) { t.Error(err) })
		time.Sleep(time.Minute)
		synctest.Wait() // it reads at this very moment, too, and the files go with the test
		if id.Client("b").RootCAs.Equal(before) {
			t.Error("the new ones are not taken")
		}
	})
}
