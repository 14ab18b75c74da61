package cluster_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
)

func secrets(s ...string) [][]byte {
	var all [][]byte
	for _, one := range s {
		all = append(all, []byte(one))
	}
	return all
}

func identify(t *testing.T, name string, s ...string) *cluster.Identity {
	t.Helper()
	id, err := cluster.Identify(name, secrets(s...))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// meet connects a client to a server over loopback: a pipe in memory has no buffer, and there two that refuse each
// other at the same time both wait.
func meet(t *testing.T, server, client *tls.Config) (seen, saw tls.ConnectionState, refused error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return meetOver(near, far, server, client)
}

// meetOver exchanges a byte each way, for with TLS 1.3 a client hears that it was refused only when it reads. It says
// what the server saw of the client and what the client saw of the server.
func meetOver(near, far net.Conn, server, client *tls.Config) (seen, saw tls.ConnectionState, refused error) {
	defer near.Close()
	done := make(chan error, 1)
	s := tls.Server(far, server)
	go func() {
		defer far.Close()
		_, err := io.CopyN(s, s, 1)
		done <- err
	}()
	c := tls.Client(near, client)
	_, err := c.Write([]byte("?"))
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	near.Close()
	return s.ConnectionState(), c.ConnectionState(), errors.Join(err, <-done)
}

func TestMembersKnowEachOther(t *testing.T) {
	a, b := identify(t, "a", secretA), identify(t, "b", secretA)
	server := a.Server()
	server.NextProtos = []string{"h2"}
	client := b.Client("a")
	client.NextProtos = []string{"h2"}
	seen, saw, err := meet(t, server, client)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := a.Member(&seen); name != "b" || err != nil {
		t.Errorf("the server takes the client for %q, %v", name, err)
	}
	if name, err := b.Member(&saw); name != "a" || err != nil {
		t.Errorf("the client takes the server for %q, %v", name, err)
	}
	if saw.Version != tls.VersionTLS13 || saw.NegotiatedProtocol != "h2" {
		t.Errorf("version %x, protocol %q", saw.Version, saw.NegotiatedProtocol)
	}
	if _, err := a.Member(nil); !errors.Is(err, cluster.ErrStranger) {
		t.Errorf("without TLS: %v", err)
	}
	if _, err := a.Member(&tls.ConnectionState{PeerCertificates: seen.PeerCertificates}); !errors.Is(err, cluster.ErrStranger) {
		t.Errorf("with a certificate that nobody verified: %v", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	a, b := identify(t, "a", secretA), identify(t, "b", secretA)
	other := identify(t, "b", secretB)
	bare := b.Client("a")
	bare.GetClientCertificate = nil
	own := b.Client("a")
	own.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return selfSigned(t, "b") }
	old := b.Client("a")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for what, pair := range map[string][2]*tls.Config{
		"no certificate":               {a.Server(), bare},
		"a certificate of its own":     {a.Server(), own},
		"another cluster's client":     {a.Server(), func() *tls.Config { c := other.Client("a"); c.RootCAs = bare.RootCAs; return c }()},
		"another cluster's server":     {other.Server(), a.Client("b")},
		"a member under another name":  {b.Server(), a.Client("c")},
		"a member under no name":       {b.Server(), a.Client("")},
		"a member of a name that ends": {b.Server(), a.Client("b.b")},
		"TLS 1.2":                      {a.Server(), old},
	} {
		if _, _, err := meet(t, pair[0], pair[1]); err == nil {
			t.Errorf("%s: not refused", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
}

func TestPlainHTTPIsRefused(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	done := make(chan error, 1)
	go func() {
		defer far.Close()
		done <- tls.Server(far, identify(t, "a", secretA).Server()).Handshake()
	}()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		near.Write([]byte("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"))
	}()
	answer, _ := io.ReadAll(near)
	<-wrote
	if err := <-done; err == nil || bytes.Contains(answer, []byte("HTTP/1.1 200")) {
		t.Errorf("plain http got %q, %v", answer, err)
	}
}

func TestNothingIsResumed(t *testing.T) {
	a, b := identify(t, "a", secretA), identify(t, "b", secretA)
	server, cached := a.Server(), tls.NewLRUClientSessionCache(8)
	for i := range 3 {
		client := b.Client("a")
		client.ClientSessionCache, client.SessionTicketsDisabled = cached, false // a client that would like to
		_, saw, err := meet(t, server, client)
		if err != nil || saw.DidResume {
			t.Errorf("connection %d: resumed %v, %v", i, saw.DidResume, err)
		}
	}
}

// The three steps of a rotation, at one of two members after the other: at no moment are they strangers.
func TestIdentitiesFollowTheSecrets(t *testing.T) {
	a, b := identify(t, "a", secretA), identify(t, "b", secretA)
	server := a.Server() // as at the listener: made once
	first, _, _ := meet(t, server, b.Client("a"))
	for i, step := range [][][]byte{secrets(secretA, secretB), secrets(secretB, secretA), secrets(secretB)} {
		for _, id := range []*cluster.Identity{b, a} {
			if err := id.Follow(step); err != nil {
				t.Fatal(err)
			}
			if _, _, err := meet(t, server, b.Client("a")); err != nil {
				t.Errorf("step %d: %v", i+1, err)
			}
			if _, _, err := meet(t, b.Server(), a.Client("b")); err != nil {
				t.Errorf("step %d, the other way: %v", i+1, err)
			}
		}
	}
	if _, err := a.Member(&first); !errors.Is(err, cluster.ErrStranger) {
		t.Errorf("a connection of before, whose secret is out, is still believed: %v", err)
	}
	removed := identify(t, "c", secretA)
	if _, _, err := meet(t, server, removed.Client("a")); err == nil {
		t.Error("a member that has the old secret alone comes in")
	}
	if err := a.Follow(nil); err == nil {
		t.Error("no secret at all was taken")
	}
	if _, _, err := meet(t, server, b.Client("a")); err != nil {
		t.Errorf("after secrets that were refused: %v", err)
	}
}

func TestCertificatesAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := identify(t, "a", secretA), identify(t, "b", secretA)
		server := a.Server()
		serials := map[string]bool{}
		for range 30 {
			near, far := net.Pipe()
			seen, _, err := meetOver(near, far, server, b.Client("a"))
			if err != nil {
				t.Fatal(err)
			}
			leaf := seen.PeerCertificates[0]
			if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 72*time.Hour {
				t.Fatalf("a certificate lives %v", life)
			}
			serials[leaf.SerialNumber.String()] = true
			time.Sleep(8 * time.Hour)
		}
		if len(serials) != 15 {
			t.Errorf("%d certificates in ten days, want one each 16 hours of those asked for every 8", len(serials))
		}
	})
}

func TestClocksMayBeADayApart(t *testing.T) {
	a, b := identify(t, "a", secretA), identify(t, "b", secretA)
	for _, off := range []time.Duration{-23 * time.Hour, 23 * time.Hour} {
		server, client := a.Server(), b.Client("a")
		server.Time = func() time.Time { return time.Now().Add(off) }
		if _, _, err := meet(t, server, client); err != nil {
			t.Errorf("clocks are %v apart: %v", off, err)
		}
	}
}

func TestTheSameSecretGivesTheSameAuthority(t *testing.T) {
	a, b := identify(t, "a", secretA), identify(t, "b", secretA, secretB)
	if !a.Client("x").RootCAs.Equal(identify(t, "z", secretA).Client("x").RootCAs) {
		t.Error("two members with one secret have two authorities")
	}
	if a.Client("x").RootCAs.Equal(b.Client("x").RootCAs) {
		t.Error("two secrets have one authority")
	}
}

func TestIdentifyRefuses(t *testing.T) {
	if _, err := cluster.Identify("*", secrets(secretA)); err == nil {
		t.Error("a star passes for a name")
	}
	if _, err := cluster.Identify("a", secrets("short")); err == nil {
		t.Error("a short secret passes")
	}
	if _, _, err := meet(t, identify(t, "a").Server(), identify(t, "b").Client("a")); err != nil {
		t.Errorf("without a secret, members of one process: %v", err)
	}
}

// selfSigned is what somebody without the secret can make.
func selfSigned(t *testing.T, name string) (*tls.Certificate, error) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	template.Subject.CommonName = "tidepool cluster"
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
