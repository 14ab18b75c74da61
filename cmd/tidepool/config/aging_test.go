package config_test

import (
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// TestAging: the first rule that matches says how a name ages, lists as tags without text.
func TestAging(t *testing.T) {
	l, err := load(t, `tags:
- {match: "**/*:v*.*.*", fresh: forever}
- {match: "docker.io/library/*:*", fresh: 1h, grace: 6h}
- {match: "ghcr.io/org/**", fresh: never, stale_if_error: 7d, on_delete: keep}
- {match: "quay.io/**", fresh: 1m, stale_if_error: 0s}
`, config.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	tag := func(registry, repo, tag string) cache.Ref {
		return cache.Ref{Registry: registry, Repo: repo, Kind: cache.KindManifest, Tag: tag}
	}
	for ref, want := range map[cache.Ref]cache.Aging{
		tag("ghcr.io", "org/app", "v1.2.3"):                              {Fresh: cache.Forever, Stale: cache.Forever},
		tag("docker.io", "library/alpine", "3"):                          {Fresh: time.Hour, Grace: 6 * time.Hour, Stale: cache.Forever},
		tag("docker.io", "library/sub/alpine", "3"):                      {Fresh: 5 * time.Minute, Stale: cache.Forever},
		tag("ghcr.io", "org/sub/app", "main"):                            {Stale: 7 * 24 * time.Hour, Keep: true},
		tag("quay.io", "org/app", "main"):                                {Fresh: time.Minute, Stale: 1},
		{Registry: "quay.io", Repo: "org/app", Kind: cache.KindTags}:     {Fresh: time.Minute, Stale: 1},
		{Registry: "mcr.microsoft.com", Repo: "a", Kind: cache.KindTags}: {Fresh: 5 * time.Minute, Stale: cache.Forever},
	} {
		if got := l.Aging(ref); got != want {
			t.Errorf("%v ages as %+v, want %+v", ref, got, want)
		}
	}
	for key, want := range map[string]string{"tags[2].stale_if_error": "7d", "tags[3].stale_if_error": "0s",
		"tags[0].on_delete": "follow", "missing": "30s"} {
		if got := value(t, l, key); got.Value != want {
			t.Errorf("%s is shown as %q, want %q", key, got.Value, want)
		}
	}
}

// TestUplink: the first window that fits says what may come, also over midnight.
func TestUplink(t *testing.T) {
	l, err := load(t, `uplink:
  limit: 50MB/s
  windows: [{from: "22:00", to: 06:00, limit: off}, {from: "12:00", to: "13:00", limit: 5MB/s}]
`, config.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	for clock, want := range map[string]int64{"21:59": 50e6, "22:00": 0, "23:59": 0, "00:00": 0, "05:59": 0, "06:00": 50e6,
		"12:00": 5e6, "12:59": 5e6, "13:00": 50e6} {
		at, err := time.Parse("15:04", clock)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Uplink.At(at); got != want {
			t.Errorf("at %s: %d, want %d", clock, got, want)
		}
	}
	if _, err := load(t, "uplink: {windows: [{from: '25:00', to: noon, limit: 5}]}\n", config.Inputs{}); err == nil {
		t.Error("anything is a time of the day")
	}
}
