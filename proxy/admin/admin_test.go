package admin_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/admin"
)

func TestRoutes(t *testing.T) {
	var ready, disk, hub error
	note := ""
	s := httptest.NewServer(admin.Handler{
		Ready: func() error { return ready },
		Health: func() []admin.Check {
			return []admin.Check{{Name: "disk", Err: disk}, {Name: "hub", Err: hub, Mild: true, Note: note}}
		},
		Metrics: http.NotFoundHandler(),
		Build:   admin.Build{Version: "1.2.3", Go: "go1"},
	}.Routes())
	defer s.Close()
	expect := func(method, path string, status int, body string) {
		t.Helper()
		req, err := http.NewRequest(method, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if resp.StatusCode != status || body != "" && string(got) != body || err != nil {
			t.Errorf("%s %s: %d %q, %v; want %d %q", method, path, resp.StatusCode, got, err, status, body)
		}
	}

	expect("GET", "/livez", 200, "ok\n")
	expect("GET", "/readyz", 200, "ok\n")
	expect("GET", "/healthz", 200, "ok\n")
	expect("GET", "/healthz?verbose", 200, "[+] disk: ok\n[+] hub: ok\n")
	expect("GET", "/api/v1/status/buildinfo", 200, `{"schema":1,"version":"1.2.3","go":"go1"}`+"\n")
	expect("HEAD", "/livez", 200, "")
	expect("POST", "/livez", 405, "")
	expect("GET", "/", 404, "")

	hub = errors.New("no answer")
	expect("GET", "/healthz", 200, "[~] hub: no answer\n")
	note = "76 left"
	expect("GET", "/healthz", 200, "[~] hub: no answer\n")
	expect("GET", "/healthz?verbose", 200, "[+] disk: ok\n[~] hub: no answer (76 left)\n")
	disk = errors.New("full")
	expect("GET", "/healthz", 503, "[-] disk: full\n[~] hub: no answer\n")
	expect("GET", "/livez", 200, "ok\n")
	expect("GET", "/readyz", 200, "ok\n")
	ready = errors.New("shutting down")
	expect("GET", "/readyz", 503, "shutting down\n")
	expect("GET", "/livez", 200, "ok\n")
}
