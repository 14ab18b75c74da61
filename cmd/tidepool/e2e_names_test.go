package main_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestNamesByRealClients has clients pull an image by the name that it had, and list and pull what is inside, with Debian's
// registry as what is inside and as what is outside, whose access logs tell what reached them.
func TestNamesByRealClients(t *testing.T) {
	t.Parallel()
	needs(t, "docker-registry", "skopeo", "podman")
	inside, outside := open(t, t.TempDir(), false), open(t, t.TempDir(), false)
	pool := serve(t, "--config", mustWrite(t, filepath.Join(t.TempDir(), "config.yaml"), fmt.Sprintf(`
default_upstream: all
upstreams:
  docker.io: {endpoints: ["http://%s"]}
  local: {endpoints: ["http://%s"]}
  all: {type: virtual, of: [local, docker.io], inside: ["internal/**"], inside_of: [local]}
aliases: [{from: "docker.io/bitnami/**", to: "docker.io/bitnamilegacy/**", when: missing}]
tags: [{match: "**", fresh: never}]
`, outside.addr, inside.addr)))

	k := &kitchen{t: t, repo: "bitnamilegacy/redis", seed: 7 << 40}
	mine := k.oci(own(), types.OCILayer, 2, 1<<20)
	moved := k.tag("docker.io", "7", k.index(types.OCIImageIndex, mine, k.oci(other(), types.OCILayer, 1, 1<<10)), mine)
	push(t, outside.addr, moved)
	secret := &kitchen{t: t, repo: "internal/app", seed: 8 << 40}
	for _, tag := range []string{"v1", "v2", "latest"} {
		img := secret.oci(own(), types.OCILayer, 1, 1<<10)
		push(t, inside.addr, secret.tag("docker.io", tag, img, img))
	}
	fake := secret.oci(own(), types.OCILayer, 1, 1<<10)
	push(t, outside.addr, secret.tag("docker.io", "v3", fake, fake))
	outside.reached()

	old := *moved
	old.repo = "bitnami/redis"
	newPodman(t, pool.addr).pull(t, &old)
	newSkopeo(t, pool.addr).pull(t, &old)
	newCrane(t, pool.addr).pull(t, &old)
	got := map[string]int{}
	for _, r := range outside.reached() {
		if r.blob() || r.manifest() && r.status == http.StatusOK {
			got[filepath.Base(r.path)]++
		}
		if strings.Contains(r.path, "/bitnami/") && r.blob() {
			t.Errorf("a blob was looked for by the old name: %v", r)
		}
	}
	for _, what := range append(moved.blobs(), "7", moved.manifest) {
		if got[what] != 1 {
			t.Errorf("%s left the registry %d times", what, got[what])
		}
	}

	ref := "docker://" + pool.addr + "/internal/app"
	list := func(when string) {
		t.Helper()
		var answer struct{ Tags []string }
		mustJSON(t, run(t, nil, "skopeo", "list-tags", "--tls-verify=false", ref), &answer)
		if !slices.Equal(answer.Tags, []string{"latest", "v1", "v2"}) {
			t.Errorf("%s, skopeo lists %v", when, answer.Tags)
		}
	}
	list("at first")
	dir := t.TempDir()
	run(t, []string{"TMPDIR=" + dir}, "skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", ref+":v1", "dir:"+filepath.Join(dir, "v1"))
	inside.stop(t)
	list("without the registry")
	run(t, []string{"TMPDIR=" + dir}, "skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", ref+":v1", "dir:"+filepath.Join(dir, "again"))
	for _, name := range []string{pool.addr + "/internal/app:v3", pool.addr + "/all/internal/app:v3", pool.addr + "/docker.io/internal/app:v3"} {
		if out, err := try(nil, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+name); err == nil {
			t.Errorf("%s came from outside: %s", name, out)
		}
	}
	if all := outside.reached(); len(all) > 0 {
		t.Errorf("names of the inside were asked for outside: %v", all)
	}
}
