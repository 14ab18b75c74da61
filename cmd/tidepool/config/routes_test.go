package config_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

const routed = `upstreams:
  local: {endpoints: [http://127.0.0.1:1]}
  r.corp: {endpoints: [http://127.0.0.1:2]}
  all: {type: virtual, of: [local, r.corp, quay.io, docker.io], inside: ["internal/**", tool, "team-*/app"], inside_of: [local, r.corp]}
aliases:
  - {from: "docker.io/bitnami/**", to: "docker.io/bitnamilegacy/**", when: missing}
  - {from: "k8s.gcr.io/**", to: "registry.k8s.io/**"}
  - {from: "old.corp/*/app-*", to: "r.corp/team/*/new-*"}
  - {from: "hub.corp/internal/**", to: "all/internal/**"}
  - {from: "short.corp/**", to: "docker.io/**"}
  - {from: "quay.io/moved/**", to: "docker.io/bitnami/**", when: missing}
  - {from: "docker.io/internal/mine/**", to: "all/internal/mine/**"}
  - {from: "quay.io/internal/**", to: "docker.io/acme/**"}
  - {from: "evil.corp/**", to: "docker.io/internal/**"}
`

// TestCandidates: where names lead, in order; and nowhere.
func TestCandidates(t *testing.T) {
	l, err := load(t, routed, config.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	candidates := l.Candidates()
	for name, want := range map[string]string{
		"ghcr.io/org/app":             "",
		"docker.io/library/alpine":    "docker.io/library/alpine",
		"docker.io/bitnami/redis":     "docker.io/bitnami/redis docker.io/bitnamilegacy/redis",
		"docker.io/bitnami/a/b/c":     "docker.io/bitnami/a/b/c docker.io/bitnamilegacy/a/b/c",
		"docker.io/bitnamis/redis":    "docker.io/bitnamis/redis",
		"k8s.gcr.io/pause":            "registry.k8s.io/pause",
		"k8s.gcr.io/coredns/coredns":  "registry.k8s.io/coredns/coredns",
		"old.corp/x/app-y":            "r.corp/team/x/new-y",
		"short.corp/alpine":           "docker.io/library/alpine",
		"short.corp/bitnami/redis":    "docker.io/bitnami/redis docker.io/bitnamilegacy/redis",
		"all/org/app":                 "local/org/app r.corp/org/app quay.io/org/app docker.io/org/app",
		"all/alpine":                  "local/alpine r.corp/alpine quay.io/alpine docker.io/library/alpine",
		"all/moved/redis":             "local/moved/redis r.corp/moved/redis quay.io/moved/redis docker.io/bitnami/redis docker.io/bitnamilegacy/redis docker.io/moved/redis",
		"all/internal/app":            "local/internal/app r.corp/internal/app",
		"all/internal/deep/er/app":    "local/internal/deep/er/app r.corp/internal/deep/er/app",
		"all/tool":                    "local/tool r.corp/tool",
		"all/library/tool":            "local/library/tool r.corp/library/tool",
		"all/team-x/app":              "local/team-x/app r.corp/team-x/app",
		"quay.io/internal/app":        "docker.io/acme/app",
		"hub.corp/internal/app":       "local/internal/app r.corp/internal/app",
		"docker.io/internal/mine/app": "local/internal/mine/app r.corp/internal/mine/app",
		"r.corp/internal/app":         "",
		"docker.io/internal/app":      "! a name of the inside (upstreams.all.inside), which docker.io is never asked for: ask for all/internal/app",
		"docker.io/library/tool":      "! a name of the inside",
		"quay.io/tool":                "! a name of the inside",
		"short.corp/internal/x":       "! a name of the inside",
		"evil.corp/x":                 "! a name of the inside",
		"old.corp/x/y":                `! "old.corp" is not an upstream of this tidepool, and no alias leads from old.corp/x/y`,
		"docker.io/library/team-x":    "docker.io/library/team-x",
		"docker.io/internals/app":     "docker.io/internals/app",
		"docker.io/my/internal/thing": "docker.io/my/internal/thing",
	} {
		registry, repo, _ := strings.Cut(name, "/")
		asked := cache.Ref{Registry: registry, Repo: repo, Kind: cache.KindManifest, Tag: "3"}
		found, err := candidates(asked)
		var got []string
		for _, ref := range found {
			if ref.Kind != asked.Kind || ref.Tag != asked.Tag {
				t.Errorf("%s: %v is something else", name, ref)
			}
			got = append(got, ref.Registry+"/"+ref.Repo)
		}
		if why, no := strings.CutPrefix(want, "! "); no {
			if err == nil || !strings.Contains(err.Error(), why) || got != nil {
				t.Errorf("%s: %v, %v, want an error with %q", name, got, err, why)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v, want %s", name, got, err, want)
		}
	}
	if got := l.Aliased(); !slices.Equal(got, []string{"k8s.gcr.io", "old.corp", "hub.corp", "short.corp", "evil.corp"}) {
		t.Errorf("aliased: %v", got)
	}
	for _, hub := range l.Hubs() {
		if hub.Name == "all" {
			t.Error("a virtual upstream has a client")
		}
	}
	if l, err := load(t, "listen: :1\n", config.Inputs{}); err != nil || l.Candidates() != nil {
		t.Errorf("names that stand for themselves are looked up (%v)", err)
	}
}

// TestRouteFaults: what can match nothing, lead nowhere or go round is said where it stands.
func TestRouteFaults(t *testing.T) {
	for text, want := range map[string]string{
		`{from: "docker.io/a/**", to: "nowhere.corp/**"}`:                                  `c.yaml:2:40: aliases[0].to: the upstream "nowhere.corp" is not configured`,
		`{from: "docker.io/a/**", to: "docker.io/a/**"}`:                                   `aliases[0].to: "docker.io/a/**" leads to itself`,
		`{from: "docker.io/a/**", to: "docker.io/b/*"}`:                                    `aliases[0].to: "docker.io/b/*" has other wildcards than "docker.io/a/**": it needs **, in this order`,
		`{from: "docker.io/a/*/**", to: "docker.io/b/**/*"}`:                               `it needs * and **, in this order`,
		`{from: "docker.io/a/b", to: "docker.io/b/*"}`:                                     `it needs none, in this order`,
		`{from: "docker.io/a/**", to: "docker.io/a/b/**"}`:                                 `a name could go round for ever: what "docker.io/a/b/**" leads to is matched again by "docker.io/a/**"`,
		`{from: "quay.io/a/**", to: "all/**"}`:                                             `a name could go round for ever`,
		`{from: "docker.io/a/**", to: "x.y/**"}`:                                           `the upstream "x.y" is not configured`,
		`{from: "x.y/**", to: "quay.io/**", when: missing}`:                                `"x.y" is not configured and so cannot be asked first`,
		`{from: "x.y/**", to: "quay.io/**", when: sometimes}`:                              `"sometimes" is none of always, missing`,
		`{from: "docker.io/alpine", to: "docker.io/library/busybox"}`:                      `"docker.io/alpine" can match no name: write docker.io/library/alpine`,
		`{from: "docker.io/*", to: "quay.io/*"}`:                                           `"docker.io/*" can match no name: write docker.io/library/*`,
		`{from: "bitnami/**", to: "quay.io/**"}`:                                           `"bitnami/**" names no registry: write docker.io/bitnami/**`,
		`{from: "*/**", to: "*/**"}`:                                                       `names no registry`,
		`{from: "*.corp/**", to: "docker.io/x/**"}`:                                        `must name its registry`,
		`{from: "index.docker.io/a/**", to: "quay.io/**"}`:                                 `has another name of docker.io`,
		`{from: "quay.io/a/**"}`:                                                           `aliases[0]: an alias leads from names to names: say both`,
		`{from: "quay.io/a:3", to: "quay.io/b"}`:                                           `leave the tag or digest out`,
		`{from: "quay.io/a@sha256", to: "quay.io/b"}`:                                      `leave the tag or digest out`,
		`{from: "quay.io/A", to: "quay.io/b"}`:                                             `written in lower case`,
		`{from: "quay.io/a[b]", to: "quay.io/b"}`:                                          `it may have * and ** only`,
		`{from: "quay.io//a", to: "quay.io/b"}`:                                            `no name has an empty part`,
		`{from: "quay.io/a**", to: "quay.io/b/**"}`:                                        `** stands for whole parts`,
		`{from: "quay.io/**", to: "ghcr.io/**"}, {from: "quay.io/a/*", to: "ghcr.io/b/*"}`: `aliases[1].from: no name comes this far: alias 1 has all of them`,
		`{from: "quay.io/*/b", to: "ghcr.io/*/b"}, {from: "quay.io/a/b", to: "ghcr.io/c"}`: `aliases[1].from: no name comes this far: alias 1 has all of them`,
		`{from: "quay.io/a/**", to: "ghcr.io/**"}, {from: "ghcr.io/**", to: "gcr.io/**"}, {from: "gcr.io/**", to: "quay.io/**"}`: `aliases[0].to: a name could go round for ever: ` +
			`what "ghcr.io/**" leads to is matched again by "ghcr.io/**", then by "gcr.io/**", then by "quay.io/a/**"`,
	} {
		_, err := load(t, "upstreams: {all: {type: virtual, of: [quay.io, docker.io]}}\naliases: ["+text+"]\n", config.Inputs{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
	for _, text := range []string{
		`{from: "quay.io/a/*", to: "ghcr.io/b/*"}, {from: "quay.io/**", to: "ghcr.io/**"}`,
		`{from: "quay.io/*", to: "ghcr.io/*"}, {from: "quay.io/**", to: "ghcr.io/x/**"}`,
		`{from: "docker.io/bitnami/**", to: "docker.io/bitnamilegacy/**"}, {from: "docker.io/bitnamilegacy/**", to: "ghcr.io/**"}`,
		`{from: "localhost:5000/**", to: "all/**"}`,
		`{from: "all/old/**", to: "all/new/**"}`,
		`{from: "docker.io/internal/**", to: "all/internal/**"}`,
	} {
		if _, err := load(t, "upstreams: {all: {type: virtual, of: [quay.io, docker.io], inside: ['internal/**'], inside_of: [quay.io]}}\naliases: ["+text+"]\n", config.Inputs{}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestVirtualFaults(t *testing.T) {
	for text, want := range map[string]string{
		`{type: virtual}`:                                                                           `c.yaml:1:13: upstreams.all: a virtual upstream stands for others: say which`,
		`{type: virtual, of: [nobody.corp]}`:                                                        `upstreams.all.of[0]: the upstream "nobody.corp" is not configured`,
		`{type: virtual, of: [all]}`:                                                                `upstreams.all.of[0]: "all" is virtual itself`,
		`{type: virtual, of: [quay.io, quay.io]}`:                                                   `upstreams.all.of[1]: "quay.io" is there twice`,
		`{type: virtual, of: [quay.io], fetches: 3}`:                                                `upstreams.all.fetches: a virtual upstream is never asked itself`,
		`{type: virtual, of: [quay.io], endpoints: ["http://x"]}`:                                   `upstreams.all.endpoints: a virtual upstream is never asked itself`,
		`{type: virtual, of: [quay.io, ghcr.io], inside: ["a/**"]}`:                                 `upstreams.all.inside: say which members may be asked`,
		`{type: virtual, of: [quay.io, ghcr.io], inside_of: [quay.io]}`:                             `upstreams.all.inside_of: say which names`,
		`{type: virtual, of: [quay.io, ghcr.io], inside: ["a/**"], inside_of: [gcr.io]}`:            `upstreams.all.inside_of[0]: "gcr.io" is none of the members`,
		`{type: virtual, of: [quay.io, ghcr.io], inside: ["a/**"], inside_of: [quay.io, ghcr.io]}`:  `all members are inside`,
		`{type: virtual, of: [quay.io, ghcr.io], inside: ["quay.io/a/**"], inside_of: [quay.io]}`:   `"quay.io/a/**" begins with a registry`,
		`{type: virtual, of: [quay.io, ghcr.io], inside: ["quay.io:1/a/**"], inside_of: [quay.io]}`: `"quay.io:1/a/**" begins with a registry`,
		`{endpoints: ["http://127.0.0.1:1"], of: [quay.io]}`:                                        `upstreams.all.of: only a virtual upstream has members`,
		`{type: hostile, of: [quay.io]}`:                                                            `"hostile" is none of registry, virtual`,
	} {
		_, err := load(t, "upstreams: {all: "+text+"}\n", config.Inputs{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
	_, err := load(t, "upstreams: {all: {type: virtual, of: [quay.io]}}\n", config.Inputs{Env: []string{"TIDEPOOL_PASSWORD_ALL=x"}})
	if err == nil || !strings.Contains(err.Error(), "$TIDEPOOL_PASSWORD_ALL: ") {
		t.Errorf("a login of a virtual upstream: %v", err)
	}
	_, err = load(t, "upstreams: {all: {type: virtual, of: [quay.io]}}\ntags: [{match: 'all/**', fresh: 1h}]\n", config.Inputs{})
	if err == nil || !strings.Contains(err.Error(), `tags age as at the upstream that answers`) {
		t.Errorf("a rule for the tags of a virtual upstream: %v", err)
	}
	if _, err := load(t, "default_upstream: all\nupstreams: {all: {type: virtual, of: [quay.io, docker.io]}}\nhosts: {a.corp: all}\n", config.Inputs{}); err != nil {
		t.Errorf("as the default: %v", err)
	}
}

// TestListsAge: a rule may say for lists what it does not say for tags.
func TestListsAge(t *testing.T) {
	l, err := load(t, "tags: [{match: 'ghcr.io/**', fresh: forever, lists: 10m}, {match: 'quay.io/**', fresh: 1h, lists: 0s}]\n", config.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[cache.Ref]string{
		{Registry: "ghcr.io", Repo: "a", Kind: cache.KindManifest, Tag: "1"}:     "forever",
		{Registry: "ghcr.io", Repo: "a", Kind: cache.KindTags}:                   "10m",
		{Registry: "ghcr.io", Repo: "a", Kind: cache.KindReferrers}:              "10m",
		{Registry: "quay.io", Repo: "a", Kind: cache.KindTags}:                   "1ns",
		{Registry: "docker.io", Repo: "a/b", Kind: cache.KindTags}:               "5m",
		{Registry: "docker.io", Repo: "a/b", Kind: cache.KindManifest, Tag: "1"}: "5m",
	} {
		if got := config.Duration(l.Aging(ref).Fresh).String(); got != want {
			t.Errorf("%v is fresh for %s, want %s", ref, got, want)
		}
	}
}

// FuzzGlobs: what one pattern covers or meets is what names say of it.
func FuzzGlobs(f *testing.F) {
	f.Add("docker.io/a/**", "docker.io/a/b*/c", "docker.io/a/bx/c")
	f.Add("x.y/*-*/**", "x.y/**/z", "x.y/a-b/c/z")
	f.Fuzz(func(t *testing.T, from, other, name string) {
		var a, b, n config.Glob
		if len(from)+len(other) > 60 || a.UnmarshalText([]byte(from)) != nil || b.UnmarshalText([]byte(other)) != nil ||
			n.UnmarshalText([]byte(name)) != nil || strings.Contains(name, "*") {
			t.Skip()
		}
		one, two := config.Matches(a, name), config.Matches(b, name)
		if one && two && !config.Meets(a, b) {
			t.Errorf("%s is matched by %s and %s, which do not meet", name, a, b)
		}
		if two && !one && config.Covers(a, b) {
			t.Errorf("%s is matched by %s and not by %s, which covers it", name, b, a)
		}
	})
}
