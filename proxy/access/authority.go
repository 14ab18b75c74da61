package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// Clients are told once whom to trust, machine by machine: it lasts as long as machines do.
	authorityLife = 10 * 365 * 24 * time.Hour
	// A connection lasts minutes. Who takes a certificate's key out of our memory has it for a day.
	leafLife = 24 * time.Hour
	// Clients' clocks may be behind ours.
	backdated = time.Hour
)

// Authority signs certificates for hosts in whose stead the door answers. It is asked for hosts of the configuration
// alone, and keeps one certificate for each.
type Authority struct {
	cert *x509.Certificate
	key  any

	mu   sync.Mutex // guards made
	made map[string]*tls.Certificate
}

// MakeAuthority makes an authority that nobody trusts yet, as PEM.
func MakeAuthority() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	ca := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "tidepool " + rand.Text()[:8]}, // several may be trusted side by side
		NotBefore: time.Now().Add(-backdated), NotAfter: time.Now().Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}

// NewAuthority is the authority of a certificate and its key, PEM both.
func NewAuthority(cert, key []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(cert, key)
	switch {
	case err != nil:
		return nil, err
	case !pair.Leaf.IsCA:
		return nil, errors.New("the certificate is no authority's: it may sign no others")
	case time.Now().After(pair.Leaf.NotAfter):
		return nil, fmt.Errorf("the authority ended at %s", pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return &Authority{cert: pair.Leaf, key: pair.PrivateKey, made: map[string]*tls.Certificate{}}, nil
}

// Until is when the authority ends.
func (a *Authority) Until() time.Time { return a.cert.NotAfter }

// Certificate is one for a host, a name or an address, good for half a day at the least.
func (a *Authority) Certificate(host string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.made[host]; c != nil && time.Until(c.Leaf.NotAfter) > leafLife/2 {
		return c, nil
	}
	c, err := a.sign(host)
	if err != nil {
		return nil, fmt.Errorf("a certificate for %s: %w", host, err)
	}
	a.made[host] = c
	return c, nil
}

func (a *Authority) sign(host string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(leafLife)
	if until.After(a.cert.NotAfter) {
		until = a.cert.NotAfter
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "tidepool"}, NotBefore: time.Now().Add(-backdated), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	} else {
		leaf.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}
