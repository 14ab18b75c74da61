package cluster

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// A member issues its certificate itself, so a short life costs nothing; a day on either side is what clocks may be
// apart before members refuse each other.
const (
	leafBefore = 24 * time.Hour
	leafAfter  = 48 * time.Hour
	leafRenew  = 12 * time.Hour
)

// Identity is who this member is to the others: a certificate with its name, issued by itself with a key derived from
// the cluster's secret. Who has a secret can be any member, who has none can be nobody. It is safe for any number of
// goroutines, and follows the secrets without a connection lost.
type Identity struct {
	name string

	mu    sync.Mutex // guards what is below; held while a certificate is made, never over the network
	cas   []*x509.Certificate
	pool  *x509.CertPool
	key   crypto.Signer // the first CA's
	leaf  *tls.Certificate
	since time.Time
	given *tls.Certificate // instead, from files; nil: it makes its own
	text  [3][]byte        // of these files
}

// Identify makes the identity of the member called name. The first secret issues, all are believed. Without a secret
// it is one among members of this process alone, as Join's is.
func Identify(name string, secrets [][]byte) (*Identity, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	i := &Identity{name: name}
	return i, i.Follow(orProcess(secrets))
}

// Follow replaces the secrets, of which there must be one at least. Connections that exist stay: Member says which of
// them are believed no longer.
func (i *Identity) Follow(secrets [][]byte) error {
	if err := checkSecrets(secrets); err != nil {
		return err
	}
	var cas []*x509.Certificate
	var first crypto.Signer
	pool := x509.NewCertPool()
	for _, s := range secrets {
		ca, key, err := authority(s)
		if err != nil {
			return fmt.Errorf("cluster: cannot derive a certificate authority from a secret: %w", err)
		}
		if first == nil {
			first = key
		}
		cas = append(cas, ca)
		pool.AddCert(ca)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cas, i.pool, i.key, i.leaf = cas, pool, first, nil
	return nil
}

// Name is this member's.
func (i *Identity) Name() string { return i.name }

// Server is for the peer listener: TLS 1.3, a member's certificate wanted, nothing resumed (a resumed session would
// outlive the secret it began with). What is set on it before its use, such as NextProtos, holds for each connection.
func (i *Identity) Server() *tls.Config {
	c := i.base()
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.certificate() }
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := c.Clone()
		now.GetConfigForClient, now.ClientCAs = nil, i.roots()
		return now, nil
	}
	return c
}

// Client is for one connection to a member: the server must be that member, by name. It believes the secrets of now,
// so a later connection needs a later Client.
func (i *Identity) Client(member string) *tls.Config {
	c := i.base()
	c.ServerName, c.RootCAs = member, i.roots()
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.certificate() }
	return c
}

func (i *Identity) base() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true}
}

// ErrStranger is what Member says of a connection that no secret of now vouches for.
var ErrStranger = errors.New("cluster: the other end of the connection is no member")

// Member is the name of the other end of a connection that was made by Server or Client, or ErrStranger: also where
// the secret that vouched for it has been taken out since.
func (i *Identity) Member(cs *tls.ConnectionState) (string, error) {
	if cs == nil || len(cs.VerifiedChains) == 0 {
		return "", ErrStranger
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, chain := range cs.VerifiedChains {
		for _, ca := range i.cas {
			if names := chain[0].DNSNames; (len(names) == 1 || i.given != nil && len(names) > 0) && chain[len(chain)-1].Equal(ca) {
				return names[0], nil
			}
		}
	}
	return "", ErrStranger
}

func (i *Identity) roots() *x509.CertPool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.pool
}

// certificate is this member's own, renewed where it is old, or from the future because the clock was set back.
func (i *Identity) certificate() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.given != nil {
		return i.given, nil
	}
	now := time.Now().Round(0) // by the wall clock: that is what the others compare with theirs
	if age := now.Sub(i.since); i.leaf != nil && age >= 0 && age < leafRenew {
		return i.leaf, nil
	}
	leaf, err := issue(i.name, i.cas[0], i.key, now)
	if err != nil {
		return nil, fmt.Errorf("cluster: cannot renew the certificate of %s: %w", i.name, err)
	}
	i.leaf, i.since = leaf, now
	return leaf, nil
}

// authority derives the CA of a secret: the same key and the same certificate at all members and for ever.
func authority(secret []byte) (*x509.Certificate, crypto.Signer, error) {
	seed, err := derive(secret, labelCA)
	if err != nil {
		return nil, nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	id := sha256.Sum256(key.Public().(ed25519.PublicKey))
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "tidepool cluster"},
		SubjectKeyId:          id[:20],
		NotBefore:             time.Unix(0, 0),                                  // no clock is before it
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // "no end", RFC 5280, section 4.1.2.5
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	ca, err := x509.ParseCertificate(der)
	return ca, key, err
}

// issue makes a certificate for name, with a key that exists nowhere else.
func issue(name string, ca *x509.Certificate, by crypto.Signer, now time.Time) (*tls.Certificate, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		NotBefore:    now.Add(-leafBefore),
		NotAfter:     now.Add(leafAfter),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, public, by)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}
