package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"time"
)

// Papers are the files of a certificate that is given to a member, in the place of those that members make for themselves
// from the secret. Its first DNS name is the member's.
type Papers struct {
	Cert string // PEM, the member's own first
	Key  string // PEM
	CA   string // PEM, of those whose certificates members have: of nobody else
}

// papers are what Papers hold.
type papers struct {
	text [3][]byte
	leaf *tls.Certificate
	cas  []*x509.Certificate
}

// read reads the files, and refuses what other members would.
func (p Papers) read() (papers, error) {
	var all papers
	for i, file := range []string{p.Cert, p.Key, p.CA} {
		b, err := os.ReadFile(file)
		if err != nil {
			return all, err
		}
		all.text[i] = b
	}
	leaf, err := tls.X509KeyPair(all.text[0], all.text[1])
	if err != nil {
		return all, fmt.Errorf("%s and %s: %w", p.Cert, p.Key, err)
	}
	for rest := all.text[2]; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return all, fmt.Errorf("%s: %w", p.CA, err)
		}
		all.cas = append(all.cas, ca)
	}
	all.leaf = &leaf
	return all, all.check(p)
}

// check sees that other members would believe the certificate, as a server's and as a client's.
func (p papers) check(from Papers) error {
	if len(p.leaf.Leaf.DNSNames) == 0 {
		return fmt.Errorf("%s: it has no DNS name, and the first one is to be the member's", from.Cert)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, ca := range p.cas {
		roots.AddCert(ca)
	}
	for _, der := range p.leaf.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := p.leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			return fmt.Errorf("%s: other members would not believe it by %s: it is to be good for servers and for clients: %w", from.Cert, from.CA, err)
		}
	}
	return CheckName(p.leaf.Leaf.DNSNames[0])
}

// NameIn is the member's name in its given certificate.
func (p Papers) NameIn() (string, error) {
	all, err := p.read()
	if err != nil {
		return "", err
	}
	return all.leaf.Leaf.DNSNames[0], nil
}

// IdentifyBy makes the identity of a member that is given a certificate.
func IdentifyBy(name string, p Papers) (*Identity, error) {
	i := &Identity{name: name}
	all, err := p.read()
	if err == nil {
		err = i.take(p, all)
	}
	return i, err
}

// take has all be what this member shows and believes.
func (i *Identity) take(p Papers, all papers) error {
	if got := all.leaf.Leaf.DNSNames[0]; got != i.name {
		return fmt.Errorf("%s is of %s, and this member is called %s: others would refuse it", p.Cert, got, i.name)
	}
	pool := x509.NewCertPool()
	for _, ca := range all.cas {
		pool.AddCert(ca)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cas, i.pool, i.given, i.text = all.cas, pool, all.leaf, all.text
	return nil
}

// has reports whether it was made from these.
func (i *Identity) has(all papers) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.EqualFunc(i.text[:], all.text[:], bytes.Equal)
}

// FollowPapers reads the files anew until ctx ends, and takes what has changed. What cannot be read, or others would
// refuse, changes nothing; complain hears why, once.
func (i *Identity) FollowPapers(ctx context.Context, p Papers, complain func(error)) {
	tick := time.NewTicker(reread)
	defer tick.Stop()
	for said := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := p.read()
		if err == nil && !i.has(now) {
			err = i.take(p, now)
		}
		if err == nil {
			said = ""
		} else if said != err.Error() {
			said = err.Error()
			complain(err)
		}
	}
}
