package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// conformance is the distribution spec's own test program.
const conformance = "github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111"

// leastPasses is how many of its tests apply to what it is given here: fewer mean that it did not find its data and
// tested nothing.
const leastPasses = 34

// TestConformance runs the distribution spec's conformance program, in its read-only mode, against tidepool before a
// registry that holds what the program is told to pull. Its exit status says nothing: the counts that it prints do.
func TestConformance(t *testing.T) {
	program := conformanceProgram(t)
	hub := open(t, t.TempDir(), false)
	images := conformanceImages(t)
	push(t, hub.addr, images...)
	pool := serve(t, "--upstream", "docker.io=http://"+hub.addr)
	printed := conform(t, program, pool.addr, images)
	counts := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^\s*(\w+)\.+:\s+([0-9]+)$`).FindAllStringSubmatch(printed, -1) {
		counts[strings.ToLower(m[1])], _ = strconv.Atoi(m[2])
	}
	t.Log(counts)
	if counts["fail"] > 0 || counts["error"] > 0 || counts["pass"] < leastPasses {
		t.Errorf("%v, want no fail, no error and at least %d passes:\n%s", counts, leastPasses, printed)
	}
}

// conformanceImages are an image under two tags, an index, and an artifact that refers to the image.
func conformanceImages(t *testing.T) []*image {
	t.Helper()
	k := &kitchen{t: t, repo: "conf/a", seed: 7 << 32}
	plain := k.oci(own(), types.OCILayer, 2, 10<<10)
	index := k.index(types.OCIImageIndex, plain, k.oci(other(), types.OCILayer, 1, 1<<10))
	artifact := k.artifact("application/vnd.example.sbom", plain)
	return []*image{
		k.tag("docker.io", "one", plain, plain),
		k.tag("docker.io", "two", plain, plain),
		k.tag("docker.io", "index", index, plain),
		k.tag("docker.io", "artifact", artifact, artifact),
	}
}

// conformanceProgram is where the program lies: on the path, in $TIDEPOOL_TOOLS, or, where nothing may be left out,
// among the builds, where it is put now.
func conformanceProgram(t *testing.T) string {
	t.Helper()
	if found, err := exec.LookPath("conformance"); err == nil {
		return found
	}
	if tools := os.Getenv("TIDEPOOL_TOOLS"); tools != "" {
		return filepath.Join(tools, "conformance")
	}
	if os.Getenv("TIDEPOOL_E2E") != "required" {
		t.Skip("no conformance program: go install " + conformance)
	}
	builds, err := filepath.Abs(filepath.Join("..", "..", "dist"))
	must(t, err)
	run(t, []string{"GOBIN=" + builds, "GOFLAGS="}, "go", "install", "-trimpath", conformance)
	return filepath.Join(builds, "conformance")
}

// conform is what the program prints about the registry at addr, which holds the images.
func conform(t *testing.T, program, addr string, images []*image) string {
	t.Helper()
	var tags, manifests, blobs []string
	for _, img := range images {
		tags = append(tags, img.tag)
		manifests = append(manifests, img.manifests()...)
		blobs = append(blobs, img.blobs()...)
	}
	slices.Sort(manifests)
	slices.Sort(blobs)
	manifests, blobs = slices.Compact(manifests), slices.Compact(blobs)
	cmd := exec.Command(program)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(),
		"OCI_REGISTRY="+addr, "OCI_TLS=disabled", "OCI_REPO1="+images[0].repo, "OCI_REPO2=conf/b", "OCI_VERSION=1.1",
		"OCI_RESULTS_DIR="+cmd.Dir, "OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false",
		"OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
		"OCI_RO_DATA_TAGS="+strings.Join(tags, " "), "OCI_RO_DATA_MANIFESTS="+strings.Join(manifests, " "),
		"OCI_RO_DATA_BLOBS="+strings.Join(blobs, " "), "OCI_RO_DATA_REFERRERS="+images[0].digest)
	out, _ := cmd.CombinedOutput() // it fails always in this mode, while it writes a report of its own
	return string(out)
}
