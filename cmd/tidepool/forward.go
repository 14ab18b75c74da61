package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/proxy"
	"github.com/tidepool-oci/tidepool/proxy/access"
)

// What clients must trust that take us for their proxy, and its key, in the data directory.
const (
	forwardCert = "forward-ca.crt"
	forwardKey  = "forward-ca.key"
)

// lead has us be the proxy of those who want one, if that is said. The data directory is there, and ours alone.
func (r *running) lead() error {
	if !r.cfg.Door.ForwardProxy {
		return nil
	}
	ca, err := openAuthority(r.cfg.Data)
	if err != nil {
		return fmt.Errorf("the authority of the proxy (--forward-proxy): %w", err)
	}
	r.tunnels = proxy.NewTunnels(ca.Certificate)
	r.log.Info("clients may take this for their HTTPS_PROXY, if they trust its authority",
		zap.String("authority", filepath.Join(r.cfg.Data, forwardCert)), zap.Time("until", ca.Until()))
	return nil
}

// openAuthority reads the authority in a directory, or makes one.
func openAuthority(dir string) (*access.Authority, error) {
	certFile, keyFile := filepath.Join(dir, forwardCert), filepath.Join(dir, forwardKey)
	cert, err := os.ReadFile(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		return makeAuthority(certFile, keyFile) // a key alone is of a start that did not come further: nobody trusts it
	}
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("%w: put it back, or remove %s too to have both made anew, which clients must then trust anew", err, certFile)
	}
	ca, err := access.NewAuthority(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s with the key %s: %w: replace both, or remove both to have them made anew", certFile, keyFile, err)
	}
	return ca, nil
}

func makeAuthority(certFile, keyFile string) (*access.Authority, error) {
	cert, key, err := access.MakeAuthority()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(replaceFile(keyFile, key), replaceFile(certFile, cert)); err != nil {
		return nil, fmt.Errorf("it cannot be kept: %w", err)
	}
	return access.NewAuthority(cert, key)
}

// withoutHTTP2 is for a proxy: Go's clients let one choose HTTP/2, and then ask it for a tunnel by HTTP/1.1 all the same.
// In the tunnels there is HTTP/2.
func withoutHTTP2(by func(*tls.ClientHelloInfo) (*tls.Config, error)) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := by(hello)
		if err != nil {
			return nil, err
		}
		c = c.Clone()
		c.NextProtos = []string{"http/1.1"}
		return c, nil
	}
}

// serveTunnels has the door's own server serve what is in tunnels.
func (r *running) serveTunnels() {
	if r.tunnels == nil {
		return
	}
	l := r.tunnels.Listener()
	r.servers.Go(func() {
		if err := r.door.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.broken <- fmt.Errorf("the server at %s: %w", l.Addr(), err)
		}
	})
}
