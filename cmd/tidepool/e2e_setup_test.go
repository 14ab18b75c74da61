package main_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// TestSetupIsUnderstood has clients pull by the files that setup writes: the hub that they ask for is not there but
// through tidepool.
func TestSetupIsUnderstood(t *testing.T) {
	t.Parallel()
	needs(t, "dockerd", "docker", "containerd", "ctr", "skopeo")
	needsRoot(t)
	o := origintest.New()
	digest := o.PutImage("library/app", "1", origintest.Spec{Layers: []origintest.Layer{{Size: 1 << 10}}}).Top.Digest.String()
	const ref = "docker.io/library/app:1"
	other := origintest.New()
	otherDigest := other.PutImage("org/app", "1", origintest.Spec{Seed: 1, Layers: []origintest.Layer{{Size: 1 << 10}}}).Top.Digest.String()
	pool := serve(t, "--upstream", "docker.io="+origintest.Serve(t, o).URL, "--upstream", "ghcr.io="+origintest.Serve(t, other).URL)
	bin, err := program()
	must(t, err)
	root := t.TempDir()
	mustWrite(t, filepath.Join(root, "etc/docker/daemon.json"), `{"max-concurrent-downloads": 2, "registry-mirrors": ["http://127.0.0.1:1"]}`)
	for _, client := range []string{"docker", "containerd", "podman"} {
		run(t, nil, bin, "setup", client, "--write", "--root", root, "--address", pool.addr)
	}
	t.Run("docker", func(t *testing.T) {
		d := startDockerdBy(t, filepath.Join(root, "etc/docker/daemon.json"), pool.addr)
		run(t, nil, "docker", "-H", d.host, "pull", "-q", ref)
		if got := run(t, nil, "docker", "-H", d.host, "image", "inspect", "-f", "{{.RepoDigests}}", ref); !strings.Contains(got, digest) {
			t.Errorf("got %s, want %s", got, digest)
		}
	})
	t.Run("containerd", func(t *testing.T) {
		c := startContainerd(t, "127.0.0.1:1").(containerd)
		for ref, digest := range map[string]string{ref: digest, "ghcr.io/org/app:1": otherDigest} {
			run(t, nil, "ctr", "-a", c.socket, "content", "fetch", "--hosts-dir", filepath.Join(root, "etc/containerd/certs.d"), ref)
			checkBlobs(t, c.blobs, digest)
		}
	})
	t.Run("podman", func(t *testing.T) { // skopeo reads the same file, and can be told where it is
		dir := t.TempDir()
		run(t, []string{"TMPDIR=" + dir}, "skopeo", "--registries-conf", filepath.Join(root, "etc/containers/registries.conf.d/tidepool.conf"),
			"--insecure-policy", "copy", "-q", "docker://"+ref, "dir:"+dir)
		if got := "sha256:" + hashFile(t, filepath.Join(dir, "manifest.json")); got != digest {
			t.Errorf("got %s, want %s", got, digest)
		}
	})
}
