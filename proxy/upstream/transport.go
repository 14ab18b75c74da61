package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// roads are the ways to a hub's servers. What an upstream's configuration says of certificates holds for its own
// endpoints; where they redirect to, and their token servers, are met without our certificate and without leniency.
//
// The bodies of blobs come over HTTP/1.1: Go's HTTP/2 client takes in up to a window for every stream whether it is
// read or not, and holds a stream to a window for each round trip.
type roads struct {
	own, foreign lanes
}

type lanes struct {
	plain *http.Transport // HTTP/1.1
	any   *http.Transport // HTTP/2 where the server has it
}

func newRoads(c Config, o Options, g *guard, f *faults) *roads {
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pool, err := certPool(c.CAFile)
		f.add("ca_file", err)
		trust.RootCAs = pool
	}
	own := trust.Clone()
	own.InsecureSkipVerify = c.InsecureSkipVerify
	switch {
	case (c.CertFile == "") != (c.KeyFile == ""):
		f.add("cert_file", errors.New("a certificate needs its key, and a key its certificate"))
	case c.CertFile != "":
		own.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			return &pair, err
		}
		_, err := own.GetClientCertificate(nil)
		f.add("cert_file", err)
	}
	return &roads{own: newLanes(own, o, g), foreign: newLanes(trust, o, g)}
}

func certPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without certificates of its own
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it (want PEM)", file)
	}
	return pool, nil
}

func newLanes(conf *tls.Config, o Options, g *guard) lanes {
	return lanes{plain: newTransport(conf, o, g, false), any: newTransport(conf, o, g, true)}
}

func newTransport(conf *tls.Config, o Options, g *guard, h2 bool) *http.Transport {
	t := &http.Transport{
		Proxy:                  g.choose,
		DialContext:            g.dial,
		TLSClientConfig:        conf.Clone(),
		TLSHandshakeTimeout:    o.Timeouts.TLS,
		ResponseHeaderTimeout:  o.Timeouts.Headers,
		IdleConnTimeout:        time.Minute,
		MaxIdleConnsPerHost:    32, // a burst of layers keeps its connections for the next image
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         32 << 10, // bodies in chunks are read through it
		DisableCompression:     true,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	if h2 {
		t.Protocols.SetHTTP2(true)
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second}
	}
	return t
}

// pick is the transport for a request, and closes nothing.
func (r *roads) pick(own, blob bool) *http.Transport {
	l := r.foreign
	if own {
		l = r.own
	}
	if blob {
		return l.plain
	}
	return l.any
}

func (r *roads) closeIdle() {
	for _, l := range []lanes{r.own, r.foreign} {
		l.plain.CloseIdleConnections()
		l.any.CloseIdleConnections()
	}
}
