package main

import (
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/proxy"
	"github.com/tidepool-oci/tidepool/proxy/access"
)

// guard reads what the door needs to know of those who come in, and returns what it says of them; nil: nothing.
func (r *running) guard() (proxy.Stead, error) {
	log := r.log.Named("access")
	door, err := openTLS(r.cfg, log)
	if err != nil {
		return nil, err
	}
	r.tls = door
	known := r.cfg.Access()
	if len(known.Rules)+len(known.Issuers) == 0 {
		return nil, nil
	}
	known.Door, known.Log = r.tls, log
	return access.New(known)
}

// openTLS reads the files of TLS at the door; nil: clients come in by plain http.
func openTLS(cfg config.Config, log *zap.Logger) (*access.Door, error) {
	files, ok := cfg.Files()
	if !ok {
		return nil, nil
	}
	door, err := access.Open(files, log)
	if err != nil {
		return nil, fmt.Errorf("TLS at the door (--tls-cert, --tls-key, --client-ca): %w", err)
	}
	return door, nil
}

// dress has a server speak TLS, if clients shall come in by that.
func (r *running) dress(s *http.Server) {
	if r.tls == nil {
		return
	}
	s.TLSConfig = r.tls.Config()
	if r.tunnels != nil {
		s.TLSConfig.GetConfigForClient = withoutHTTP2(s.TLSConfig.GetConfigForClient)
	}
}

// scheme is that of the URLs by which clients come in.
func (r *running) scheme() string { return schemeOf(r.cfg) }

func schemeOf(cfg config.Config) string {
	if _, ok := cfg.Files(); ok {
		return "https"
	}
	return "http"
}
