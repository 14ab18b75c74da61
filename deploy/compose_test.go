package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// TestCompose holds the files for docker compose against each other and against tidepool's own loader.
func TestCompose(t *testing.T) {
	file := func(name string) string {
		text, err := os.ReadFile(filepath.Join("compose", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	secret := filepath.Join(t.TempDir(), "cluster")
	if err := os.WriteFile(secret, []byte(strings.Repeat("secret", 6)), 0o600); err != nil {
		t.Fatal(err)
	}
	text := file("tidepool.yaml")
	c := load(t, strings.Replace(text, "/run/secrets/cluster", secret, 1)).Config
	var compose struct {
		Services map[string]struct {
			Environment map[string]string
			Volumes     []string
			Grace       string `yaml:"stop_grace_period"`
		}
	}
	if err := yaml.Load([]byte(file("compose.yaml")), &compose); err != nil {
		t.Fatal(err)
	}
	var members []string
	for name, s := range compose.Services {
		if s.Environment["TIDEPOOL_CLUSTER_NAME"] == "" {
			continue
		}
		members = append(members, name)
		grace, err := time.ParseDuration(s.Grace)
		if least := time.Duration(c.ShutdownDelay + c.Drain); err != nil || grace < least+10*time.Second {
			t.Errorf("%s is killed after %s, and may need %v and a moment (%v)", name, s.Grace, least, err)
		}
		if s.Environment["TIDEPOOL_CLUSTER_NAME"] != name || !slices.Contains(s.Volumes, name+":/var/lib/tidepool") {
			t.Errorf("%s is %v, and keeps what it holds in %v", name, s.Environment, s.Volumes)
		}
		for _, path := range []string{"/etc/tidepool/config.yaml", "/run/secrets/cluster"} {
			if !slices.ContainsFunc(s.Volumes, func(v string) bool { return strings.HasSuffix(v, ":"+path+":ro") }) {
				t.Errorf("%s has no %s", name, path)
			}
		}
	}
	slices.Sort(members)
	if want := slices.Sorted(slices.Values(c.Cluster.Join)); len(members) < 3 || !slices.Equal(members, want) {
		t.Errorf("there are %v, and they join %v", members, want)
	}
	var balanced []string
	for _, m := range regexp.MustCompile(`(?m)^ *server (\w+):5000 `).FindAllStringSubmatch(file("members.conf"), -1) {
		balanced = append(balanced, m[1])
	}
	if slices.Sort(balanced); !slices.Equal(balanced, members) {
		t.Errorf("there are %v, and the balancer knows %v", members, balanced)
	}
}
