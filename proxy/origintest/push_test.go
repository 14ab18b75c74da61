package origintest_test

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// registry starts Debian's docker-registry and returns its address.
func registry(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: 127.0.0.1:0}\n", dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "serve", config)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: that is the error
	})
	listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			go func() {
				for lines.Scan() { // until the process ends: a full pipe would stop it
				}
			}()
			return "http://" + m[1]
		}
	}
	t.Fatal("docker-registry did not start")
	return ""
}

func TestPushToARealRegistry(t *testing.T) {
	base := registry(t)
	img := origintest.Build(origintest.Spec{
		Platforms: []string{"linux/amd64", "linux/arm64"},
		Layers:    []origintest.Layer{{Size: 100_000, Shared: true}, {Form: origintest.Raw}},
	})
	artifact := origintest.BuildArtifact(img.Top.Descriptor, "application/x.sbom")
	if err := img.Push(t.Context(), base, "library/app", "latest"); err != nil {
		t.Fatal(err)
	}
	if err := artifact.Push(t.Context(), base, "library/app", ""); err != nil {
		t.Fatal(err)
	}
	for _, b := range img.Blobs {
		resp, err := http.Get(base + "/v2/library/app/blobs/" + b.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Content.Compare(resp.Body, 0, -1); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
	}
	for _, m := range append(img.Manifests, artifact.Top) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/v2/library/app/manifests/"+m.Digest.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", m.MediaType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Content.Compare(resp.Body, 0, -1); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
	}
}
