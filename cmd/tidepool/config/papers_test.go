package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// papers writes a member's certificate, which is its own authority, and returns where: the certificate, its key, the authority.
func papers(t *testing.T, member string) (cert, key, ca string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{member}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("tls.crt", "CERTIFICATE", der), write("tls.key", "PRIVATE KEY", private), write("ca.crt", "CERTIFICATE", der)
}

// TestClusterPapersPrecedence is TestClusterPrecedence for the files of a certificate, which go together.
func TestClusterPapersPrecedence(t *testing.T) {
	var in config.Inputs
	expect := func(yaml, origin string, want ...string) {
		t.Helper()
		l, err := load(t, yaml, in)
		if err != nil {
			t.Fatal(err)
		}
		for i, key := range []string{"cluster.tls_cert", "cluster.tls_key", "cluster.tls_ca"} {
			if got := value(t, l, key); got.Value != want[i] || !strings.HasPrefix(got.Origin, origin) {
				t.Errorf("%s is %q from %s, want %q from %s", key, got.Value, got.Origin, want[i], origin)
			}
		}
	}
	cert, key, ca := papers(t, "one")
	yaml := fmt.Sprintf("cluster: {bind: ':7946', secret_file: %s, tls_cert: %s, tls_key: %s, tls_ca: %s}", secretFile(t, "secret"), cert, key, ca)
	expect(yaml, "c.yaml:1:", cert, key, ca)
	cert, key, ca = papers(t, "two")
	in.Env = []string{"TIDEPOOL_CLUSTER_TLS_CERT=" + cert, "TIDEPOOL_CLUSTER_TLS_KEY=" + key, "TIDEPOOL_CLUSTER_TLS_CA=" + ca}
	expect(yaml, "$TIDEPOOL_CLUSTER_TLS_", cert, key, ca)
	cert, key, ca = papers(t, "three")
	in.Flags = map[string][]string{"cluster-tls-cert": {cert}, "cluster-tls-key": {key}, "cluster-tls-ca": {ca}}
	expect(yaml, "--cluster-tls-", cert, key, ca)
	in.Env = append(in.Env, "TIDEPOOL_CLUSTER_NAME=four")
	if _, err := load(t, yaml, in); err == nil || !strings.Contains(err.Error(), `is of "three"`) {
		t.Errorf("another member's certificate: %v", err)
	}
}
