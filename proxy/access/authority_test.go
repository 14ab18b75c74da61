package access_test

import (
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/access"
)

// Certificates hold for the one host that they are for, end soon, and are made anew before they do.
func TestAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, key, err := access.MakeAuthority()
		if err != nil {
			t.Fatal(err)
		}
		ca, err := access.NewAuthority(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM(cert)
		verify := func(host, asked string) ([]byte, error) {
			c, err := ca.Certificate(host)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Leaf.Verify(x509.VerifyOptions{DNSName: asked, Roots: trusted, CurrentTime: time.Now()})
			return c.Certificate[0], err
		}
		last := map[string]string{}
		for day := range 40 {
			for _, host := range []string{"ghcr.io", "10.1.2.3", "::1", "registry"} {
				der, err := verify(host, host)
				if err != nil {
					t.Errorf("day %d, %s: %v", day, host, err)
				}
				if again, _ := verify(host, host); string(again) != string(der) || last[host] == string(der) {
					t.Errorf("day %d, %s: made anew at once, or never", day, host)
				}
				last[host] = string(der)
				if _, err := verify(host, "quay.io"); err == nil {
					t.Errorf("%s's holds for another host", host)
				}
			}
			time.Sleep(13 * time.Hour)
		}
		c, _ := ca.Certificate("ghcr.io")
		if c.Leaf.IsCA || time.Until(c.Leaf.NotAfter) > 24*time.Hour {
			t.Errorf("%+v", c.Leaf)
		}
		time.Sleep(11 * 365 * 24 * time.Hour)
		if _, err := access.NewAuthority(cert, key); err == nil {
			t.Error("an authority that has ended is taken")
		}
	})
}

func TestAuthorityOfRubbish(t *testing.T) {
	cert, key, err := access.MakeAuthority()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := access.MakeAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2][]byte{"another's key": {other, key}, "no key": {cert, nil}, "no certificate": {nil, key}, "swapped": {key, cert}} {
		if _, err := access.NewAuthority(pair[0], pair[1]); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
