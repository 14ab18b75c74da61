package config_test

import (
	"maps"
	"testing"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// A host stands for an upstream by its name first, and by an endpoint only where that is one upstream's as it is.
func TestForward(t *testing.T) {
	const file = `
well_known: false
hosts: {hub.mirror.corp: docker.io, "local.corp:8443": r.corp}
aliases: [{from: "k8s.gcr.io/**", to: "r.corp/**"}]
upstreams:
  docker.io: {}
  r.corp: {endpoints: ["https://one.corp:443", "https://two.corp:8443", "http://three.corp:80", "http://four.corp:5000", "https://taken.corp"]}
  taken.corp: {endpoints: ["https://r.corp"]}
  port.corp:5000: {endpoints: ["https://shared.corp"]}
  other.corp: {endpoints: ["https://shared.corp/", "https://paths.corp/other"]}
  own: {endpoints: ["https://own.corp"]}
  all: {type: virtual, of: [r.corp, docker.io]}
`
	want := map[string]string{
		"docker.io": "docker.io", "index.docker.io": "docker.io", "registry-1.docker.io": "docker.io", "hub.mirror.corp": "docker.io",
		"r.corp": "r.corp", "one.corp": "r.corp", "two.corp:8443": "r.corp", "three.corp": "r.corp", "four.corp:5000": "r.corp",
		"local.corp:8443": "r.corp", "k8s.gcr.io": "k8s.gcr.io", "taken.corp": "taken.corp", "port.corp:5000": "port.corp:5000",
		"other.corp": "other.corp", "own": "own", "own.corp": "own", "all": "all",
	}
	for on, want := range map[string]map[string]string{"door: {forward_proxy: true}\n": want, "": nil} {
		l, err := load(t, on+file, config.Inputs{})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Forward(); !maps.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%q: %v", on, got)
		}
	}
}
