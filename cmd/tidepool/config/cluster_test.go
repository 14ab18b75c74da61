package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

func secretFile(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestClusterPrecedence is TestPrecedence for the cluster's settings, which want each other.
func TestClusterPrecedence(t *testing.T) {
	one, two, three := secretFile(t, "one"), secretFile(t, "two"), secretFile(t, "three")
	for _, c := range []struct{ flag, key, yaml, env, given string }{
		{"cluster-bind", "cluster.bind", "127.0.0.1:1", "127.0.0.1:2", ":3"},
		{"cluster-advertise", "cluster.advertise", "10.0.0.1", "10.0.0.2", "10.0.0.3"},
		{"cluster-secret-file", "cluster.secret_file", one, two, three},
		{"join", "cluster.join[0]", "10.0.0.1", "10.0.0.2", "10.0.0.3"},
		{"peer-listen", "cluster.peer_listen", "127.0.0.1:1", "127.0.0.1:2", ":3"},
		{"replicas", "cluster.replicas", "2", "3", "4"},
		{"cluster-name", "cluster.name", "one", "two", "three"},
		{"cluster-zone", "cluster.zone", "north", "east", "south"},
	} {
		t.Run(c.flag, func(t *testing.T) {
			key := strings.TrimSuffix(strings.TrimPrefix(c.key, "cluster."), "[0]")
			base := map[string]string{"bind": "127.0.0.1:7946", "secret_file": one, key: c.yaml}
			yaml := "cluster: {"
			for k, v := range base {
				yaml += fmt.Sprintf("%s: %q, ", k, v)
			}
			yaml += "}"
			setting := config.Settings[slices.IndexFunc(config.Settings, func(s config.Setting) bool { return s.Flag == c.flag })]
			var in config.Inputs
			expect := func(want, origin string) {
				t.Helper()
				l, err := load(t, yaml, in)
				if err != nil {
					t.Fatal(err)
				}
				if got := value(t, l, c.key); got.Value != want || !strings.HasPrefix(got.Origin, origin) {
					t.Errorf("%s is %q from %s, want %q from %s", c.key, got.Value, got.Origin, want, origin)
				}
			}
			expect(c.yaml, "c.yaml:1:")
			in.Env = []string{setting.Variable() + "=" + c.env}
			expect(c.env, "$"+setting.Variable())
			in.Flags = map[string][]string{c.flag: {c.given}}
			expect(c.given, "--"+c.flag)
		})
	}
	l, err := load(t, "", config.Inputs{
		Flags: map[string][]string{"join": {"a:1,b", "c"}, "cluster-bind": {"127.0.0.1:1"}, "cluster-secret-file": {one}},
	})
	if err != nil || strings.Join(l.Cluster.Join, " ") != "a:1 b c" {
		t.Errorf("%v, %v", l.Cluster.Join, err)
	}
}

func TestClusterFaults(t *testing.T) {
	secret := secretFile(t, "secret")
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for yaml, say := range map[string]string{
		"cluster: {replicas: 2}":                                                      "no cluster without a place to gossip",
		"cluster: {zone: r1, bind: 'off'}":                                            "no cluster without a place to gossip",
		"cluster: {tls_key: /nowhere}":                                                "no cluster without a place to gossip",
		"cluster: {tls_ca: /nowhere}":                                                 "no cluster without a place to gossip",
		"cluster: {name: m1}":                                                         "no cluster without a place to gossip",
		"cluster: {join: [a]}":                                                        "no cluster without a place to gossip",
		"cluster: {bind: '0.0.0.0:7946'}":                                             "members need a secret",
		"cluster: {bind: '0.0.0.0:7946', secret_file: /nowhere}":                      "/nowhere",
		"cluster: {bind: '0.0.0.0:7946', secret_file: " + short + "}":                 "at least 16",
		"cluster: {bind: ':7946', secret_file: " + secret + ", join: ['http://a/b']}": "no address",
		"cluster: {bind: ':7946', secret_file: " + secret + ", peer_listen: off}":     "must listen",
		"cluster: {bind: ':7946', secret_file: " + secret + ", weight: 100000}":       "want 1 to",
		"cluster: {bind: ':7946', secret_file: " + secret + ", name: 'a b'}":          "name",
		"cluster: {bind: ':7946', secret_file: " + secret + ", replicas: 0}":          "want 1 to",
		"cluster: {bind: ':7946', secret_file: " + secret + ", advertise: foo}":       "address as a number",
		"cluster: {bind: ':7946', secret_file: " + secret + ", join: ['foo:bar']}":    "no address",
	} {
		if _, err := load(t, yaml, config.Inputs{}); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v, want %q", yaml, err, say)
		}
	}
}
