package access

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Files are what TLS at the door is made of, PEM all of them.
type Files struct {
	Cert, Key string // the door's own
	ClientCA  string // the authorities of clients' certificates; "": clients are not asked for any
}

// Door is TLS for those who come in. Its files are looked at with each handshake.
type Door struct{ files watched[papers] }

// papers are what a handshake needs.
type papers struct {
	config      *tls.Config
	authorities map[[sha256.Size]byte]bool // of clients' certificates, by the hash of their own
}

// Open reads the files.
func Open(f Files, log *zap.Logger) (*Door, error) {
	if log == nil {
		log = zap.NewNop()
	}
	d := &Door{watched[papers]{files: []string{f.Cert, f.Key}, log: zap.NewNop(), heed: func(p papers) { tell(p, log) }}}
	if f.ClientCA != "" {
		d.files.files = append(d.files.files, f.ClientCA)
	}
	d.files.parse = func(texts [][]byte) (papers, error) { return issue(f, texts) }
	if _, err := d.files.now(); err != nil {
		return nil, err
	}
	d.files.log = log // what was wrong until now is the error
	return d, nil
}

// protocols are what the door speaks, in the order of preference (RFC 7301).
var protocols = []string{"h2", "http/1.1"}

// Config is for a server whose every handshake goes by the files as they are then.
func (d *Door) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			p, err := d.files.now()
			return p.config, err
		},
	}
}

// issue makes the papers of what the files say. A certificate is asked for where there are authorities, and verified if
// one comes; nobody has to have one.
func issue(f Files, texts [][]byte) (papers, error) {
	cert, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		return papers{}, fmt.Errorf("%s with the key %s: %w", f.Cert, f.Key, err)
	}
	p := papers{config: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{cert}}}
	if f.ClientCA == "" {
		return p, nil
	}
	all, err := certificates(texts[2])
	if err != nil {
		return papers{}, fmt.Errorf("%s: %w", f.ClientCA, err)
	}
	p.config.ClientAuth, p.config.ClientCAs = tls.VerifyClientCertIfGiven, x509.NewCertPool()
	p.config.SessionTicketsDisabled = true // one would bring a certificate in that was verified by other authorities
	p.authorities = map[[sha256.Size]byte]bool{}
	for _, ca := range all {
		p.config.ClientCAs.AddCert(ca)
		p.authorities[sha256.Sum256(ca.Raw)] = true
	}
	return p, nil
}

// certificates are all that a text has.
func certificates(text []byte) (all []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no certificate in it (PEM)")
	}
	return all, nil
}

// tell says which certificate is shown from now on.
func tell(p papers, log *zap.Logger) {
	leaf := p.config.Certificates[0].Leaf
	fields := []zap.Field{zap.Strings("names", leaf.DNSNames), zap.Stringers("addresses", leaf.IPAddresses),
		zap.Time("until", leaf.NotAfter), zap.Int("client_authorities", len(p.authorities))}
	if time.Now().After(leaf.NotAfter) {
		log.Warn("the door's certificate is over: clients will refuse it; replace the file, it is read at once", fields...)
		return
	}
	log.Info("the door has a certificate", fields...)
}

// names are what a client's certificate says that it is; none where there is none, or it does not hold any more: a
// connection may outlive its certificate, and the authority's place in the file.
func (d *Door) names(c *tls.ConnectionState) []string {
	if d == nil || c == nil || len(c.VerifiedChains) == 0 {
		return nil
	}
	p, err := d.files.now()
	leaf := c.VerifiedChains[0][0]
	if err != nil || time.Now().After(leaf.NotAfter) || !slices.ContainsFunc(c.VerifiedChains, p.vouchesFor) {
		return nil
	}
	all := leaf.DNSNames
	if len(all) == 0 {
		all = []string{leaf.Subject.CommonName}
	}
	var names []string
	for _, name := range all {
		if name = strings.ToLower(name); subjectName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// vouchesFor reports whether the authority that a chain ends with is still one.
func (p papers) vouchesFor(chain []*x509.Certificate) bool {
	return p.authorities[sha256.Sum256(chain[len(chain)-1].Raw)]
}
