package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// TestAccess: whose permission counts, and for how long; and that a login is as private as what it opens.
func TestAccess(t *testing.T) {
	l, err := load(t, `upstreams:
  a.corp: {access: caller}
  b.corp: {access: caller, access_for: 30s}
  c.corp: {access: shared}
`, config.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	for registry, want := range map[string]time.Duration{"a.corp": 5 * time.Minute, "b.corp": 30 * time.Second, "c.corp": 0, "docker.io": 0, "z.corp": 0} {
		if got := l.Callers(registry); got != want || l.Private(registry) != (want > 0) {
			t.Errorf("%s: %v, private: %v", registry, got, l.Private(registry))
		}
	}
	for key, want := range map[string]string{"upstreams.a.corp.access_for": "5m", "upstreams.c.corp.access": "shared", "upstreams.docker.io.access": "shared"} {
		if got := value(t, l, key); got.Value != want {
			t.Errorf("%s is shown as %q, want %q", key, got.Value, want)
		}
	}
}

func TestAccessFaults(t *testing.T) {
	for text, want := range map[string]string{
		"{access: caller, endpoints: ['http://c.corp']}": "the login would cross the network unencrypted",
		"{access_for: 1m}":                                                 "only with access: caller is anybody's permission remembered",
		"{access: shared, access_for: 1m}":                                 "only with access: caller is anybody's permission remembered",
		"{access: caller, access_for: 30d}":                                "want 1s to 1d",
		"{access: caller, access_for: 0s}":                                 "want 1s to 1d",
		"{access: callers}":                                                `"callers" is none of shared, caller`,
		"{access: caller, credentials: [{username: a, password_file: x}]}": "take its credentials",
	} {
		if _, err := load(t, "upstreams:\n  c.corp: "+text+"\n", config.Inputs{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	_, err := load(t, "upstreams: {c.corp: {access: caller}}\n", config.Inputs{Env: []string{"TIDEPOOL_PASSWORD_C_CORP=x", "TIDEPOOL_USERNAME_C_CORP=y"}})
	if err == nil || !strings.Contains(err.Error(), "access: caller") {
		t.Errorf("a login from the environment: %v", err)
	}
}
