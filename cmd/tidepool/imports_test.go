package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tidepool-oci/tidepool/"

// Who may import whom, and why nobody else. Packages of tests and of measurements are not the product and import what
// they like.
type room struct {
	name string
	may  []string // of the module
	with []string // of others, and what is below them
	why  string
}

var rooms = []room{
	{"cache", nil, []string{"github.com/dgraph-io/ristretto/v2", "github.com/hashicorp/golang-lru/v2", "go.etcd.io/bbolt", "go.uber.org/zap", "golang.org/x/"},
		"the vocabulary is below all rooms, so that each can be understood with it alone"},
	{"cache/warm", []string{"cache"}, []string{"go.uber.org/zap", "github.com/Masterminds/semver/v3", "github.com/bmatcuk/doublestar/v4", "github.com/opencontainers/image-spec", "golang.org/x/"},
		"it is a caller of the cache, and knows neither door nor upstream"},
	{"proxy", []string{"cache"}, []string{"go.uber.org/zap", "github.com/google/go-containerregistry/pkg/name", "github.com/opencontainers/image-spec", "golang.org/x/"},
		"the door knows no upstream: what it may ask for is a cache.Ref"},
	{"proxy/upstream", []string{"cache"}, []string{"go.uber.org/zap", "github.com/google/go-containerregistry", "github.com/opencontainers/image-spec", "golang.org/x/"},
		"the way out knows no door: nothing of a client's request but a cache.Ref can leave"},
	{"proxy/upstream/cloud", []string{"proxy/upstream"}, []string{"github.com/aws/aws-sdk-go-v2", "github.com/Azure/azure-sdk-for-go/sdk", "cloud.google.com/go/compute/metadata", "golang.org/x/"},
		"it makes logins and knows nothing of what they are for: the way out takes them as funcs"},
	{"proxy/access", []string{"cache"}, []string{"go.uber.org/zap", "github.com/golang-jwt/jwt/v5"},
		"it says who comes in, and knows nothing of what they come for"},
	{"cluster/clustertest", nil, []string{"github.com/hashicorp/memberlist"},
		"a network of which the cluster were a part would prove nothing about it"},
	{"cluster/clustertest/sim", []string{"cache", "cache/sourcetest", "cluster", "cluster/clustertest"}, []string{"go.uber.org/zap", "golang.org/x/"},
		"what it simulates is the cluster, with a hub of its own and without a door"},
	{"proxy/admin", nil, nil,
		"it tells what it is given: so it can tell nothing of a client, and no secret"},
	{"metrics", []string{"cache"}, []string{"github.com/prometheus/client_golang"},
		"rooms count and know nothing of metrics, which read them"},
	{"deploy", nil, nil, "it is texts"},
	{"proxy/origintest", []string{"cache"}, []string{"github.com/klauspost/compress", "golang.org/x/"},
		"a registry of which tidepool's own way out or door were a part would prove nothing about them"},
	{"cluster", []string{"cache"}, []string{"github.com/hashicorp/memberlist", "github.com/hashicorp/golang-lru/v2", "github.com/cespare/xxhash/v2", "go.uber.org/zap", "golang.org/x/"},
		"it knows members and what is held, and neither clients nor registries"},
	{"proxy/hubtest", []string{"proxy/origintest"}, nil,
		"logins of which tidepool's own way out were a part would prove nothing about it"},
	{"cmd/tidepool/config", []string{"cache", "cache/warm", "cluster", "proxy/access", "proxy/upstream", "proxy/upstream/cloud"}, []string{"github.com/bmatcuk/doublestar/v4", "github.com/dustin/go-humanize", "github.com/netresearch/go-cron", "go.yaml.in/yaml/v4", "golang.org/x/"},
		"it reads and checks, and starts nothing"},
	{"cmd/tidepool/setup", []string{"deploy"}, []string{"go.yaml.in/yaml/v4"},
		"it knows the clients' files and nothing of the server but its address"},
	{"cmd/tidepool", []string{"cache", "cache/warm", "cluster", "proxy", "proxy/access", "proxy/upstream", "proxy/admin", "proxy/origintest", "metrics", "deploy", "cmd/tidepool/config", "cmd/tidepool/setup"},
		[]string{"github.com/spf13/cobra", "go.uber.org/zap", "github.com/vbauerster/mpb/v8", "github.com/dustin/go-humanize", "github.com/google/go-containerregistry", "github.com/coreos/go-systemd/v22/daemon", "golang.org/x/"},
		"the wiring is the one place that knows all rooms"},
}

// Nothing of the product needs these, directly or by way of others.
var never = []struct{ where, pkg, why string }{
	{"cmd/tidepool", "testing", "tests are no part of the product"},
	{"cmd/tidepool", "github.com/rogpeppe/go-internal/testscript", "tests are no part of the product"},
	{"cmd/tidepool", "go.uber.org/goleak", "tests are no part of the product"},
	{"cmd/tidepool", "github.com/getkin/kin-openapi/openapi3", "tests are no part of the product"},
	{"cmd/tidepool", "C", "the binary is static"},
	{"cmd/tidepool", "net/http/pprof", "it would put profiles on every server of the process"},
	{"cmd/tidepool", "gopkg.in/yaml.v3", "it is not maintained"},
	{"cmd/tidepool", "github.com/google/go-containerregistry/pkg/v1/remote/transport", "its way to tokens sends logins where a registry says"},
}

type listed struct {
	ImportPath    string
	Imports, Deps []string
}

func TestImports(t *testing.T) {
	packages := list(t)
	for name, p := range packages {
		name = strings.TrimPrefix(name, module)
		if name == "cache/sourcetest" || strings.HasPrefix(name, "bench/") {
			continue
		}
		i := slices.IndexFunc(rooms, func(r room) bool { return r.name == name })
		if i < 0 {
			t.Errorf("%s: say in this test whom it may import, and why nobody else", name)
			continue
		}
		for _, imported := range p.Imports {
			if !allowed(imported, rooms[i].may, rooms[i].with) {
				t.Errorf("%s imports %s: %s", name, imported, rooms[i].why)
			}
		}
	}
	if slices.Contains(packages[module+"cache"].Imports, "net/http") { // zap does, for a handler of its own
		t.Error("cache imports net/http: a store that knows HTTP ends up with two doors")
	}
	for _, n := range never {
		if slices.Contains(packages[module+n.where].Deps, n.pkg) {
			t.Errorf("%s needs %s: %s", n.where, n.pkg, n.why)
		}
	}
}

func allowed(imported string, may, with []string) bool {
	if ours, ok := strings.CutPrefix(imported, module); ok {
		return slices.Contains(may, ours)
	}
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".") || // the standard library
		slices.ContainsFunc(with, func(w string) bool {
			return imported == w || strings.HasPrefix(imported, strings.TrimSuffix(w, "/")+"/")
		})
}

// list asks the go command for every package of the module.
func list(t *testing.T) map[string]listed {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command")
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}
