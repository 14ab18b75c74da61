package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const manifestTypes = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"

// newClient is a client that keeps its connections, as those that pull do.
func newClient(roots *x509.CertPool) *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: 64, ReadBufferSize: 64 << 10, TLSClientConfig: &tls.Config{RootCAs: roots},
	}}
}

// answer is what came of a request.
type answer struct {
	tier  string        // where the member had it from
	first time.Duration // until the first byte of the body
	took  time.Duration // until the last
	size  int64
}

// get asks for a path and proves what comes, unless digest is empty.
func get(ctx context.Context, c *http.Client, url, digest string) (a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return a, err
	}
	req.Header.Set("Accept", manifestTypes)
	began := time.Now()
	res, err := c.Do(req)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return a, fmt.Errorf("%s: %s: %s", url, res.Status, said)
	}
	_, a.tier, _ = strings.Cut(res.Header.Get("Cache-Status"), "detail=")
	a.first = time.Since(began)
	hash := sha256.New()
	to := io.Writer(hash)
	if digest == "" {
		to = io.Discard
	}
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	a.size, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{res.Body}, buf[:])
	a.took = time.Since(began)
	if err != nil {
		return a, fmt.Errorf("%s: %w", url, err)
	}
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); digest != "" && got != digest {
		return a, fmt.Errorf("%s: %d bytes with digest %s", url, a.size, got)
	}
	return a, nil
}

var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// head asks what a name is, as clients do before they pull.
func head(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", manifestTypes)
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("HEAD %s: %s", url, res.Status)
	}
	return nil
}
