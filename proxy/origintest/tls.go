package origintest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// TLS says how to serve over TLS. The zero value is a good server for 127.0.0.1, ::1 and localhost with a CA of its own.
type TLS struct {
	CA       *CA       // who signs; nil: a fresh one
	Names    []string  // host names and addresses in the certificate; empty: those of this machine
	NotAfter time.Time // when the certificate expires; zero: in a day
	HTTP1    bool      // no HTTP/2
	Clients  *CA       // who signs the certificates that clients must have; nil: they need none
	Version  uint16    // the only version spoken, tls.VersionTLS10 to show its age; 0: the current ones
}

// CA is a certificate authority for one test.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a certificate authority.
func NewCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := template("origintest CA", time.Now().Add(30*24*time.Hour)) // tests in virtual time are long
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &CA{cert, key}, err
}

// Pool holds the CA's certificate, for a client to trust.
func (ca *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

// PEM is the CA's certificate as clients read it from a file.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Issue makes a certificate, for a server or a client, for the names and addresses.
func (ca *CA) Issue(notAfter time.Time, names ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := template("origintest", notAfter)
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func template(name string, notAfter time.Time) *x509.Certificate {
	from := notAfter // of one that is over too
	if now := time.Now(); now.Before(from) {
		from = now
	}
	serial := new(big.Int).SetInt64(time.Now().UnixNano())
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: from.Add(-48 * time.Hour), NotAfter: notAfter,
	}
}

// config makes what is missing.
func (t TLS) config() (*CA, *tls.Config, error) {
	if t.CA == nil {
		var err error
		if t.CA, err = NewCA(); err != nil {
			return nil, nil, err
		}
	}
	if len(t.Names) == 0 {
		t.Names = []string{"127.0.0.1", "::1", "localhost"}
	}
	if t.NotAfter.IsZero() {
		t.NotAfter = time.Now().Add(24 * time.Hour)
	}
	cert, err := t.CA.Issue(t.NotAfter, t.Names...)
	c := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: t.Version, MaxVersion: t.Version}
	if t.Clients != nil {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, t.Clients.Pool()
	}
	return t.CA, c, err
}
