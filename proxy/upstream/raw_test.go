package upstream_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// canary is a secret that must turn up nowhere but where it belongs.
const canary = "s3cr3t-c4n4ry-5d41402abc4b2a76"

// raw serves what no registry would answer and returns its address.
func raw(t testing.TB, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}
