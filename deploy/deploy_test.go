package deploy_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/deploy"
)

func load(t *testing.T, text string) config.Loaded {
	t.Helper()
	l, err := config.Load(config.Inputs{File: "-", Stdin: strings.NewReader(text)})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return l
}

// What the manual shows as the default is.
func TestManualShowsDefaults(t *testing.T) {
	got, want := load(t, string(deploy.Config)).Config, load(t, "data: /var/lib/tidepool").Config
	want.Hosts = map[string]string{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// The manual's examples are lines with a # and no single space behind it. They hold too, and with them every key is
// there.
func TestManualHasEveryKey(t *testing.T) {
	dir := t.TempDir()
	text := regexp.MustCompile(`(?m)^#(  +|[^ #\n])`).ReplaceAllString(string(deploy.Config), "$1")
	text = strings.Replace(text, "hosts: {}", "hosts:", 1)
	text = regexp.MustCompile(`/(run/secrets|etc/ssl)/`).ReplaceAllString(text, dir+"/")
	certificate, key := pair(t)
	for name, content := range map[string]string{"registry": "secret\n", "registry2": "secret\n", "config.json": "{}", "cluster": strings.Repeat("secret", 6) + "\n",
		"azure": "secret\n", "azure.pem": certificate + key, "corp.pem": certificate, "tidepool.pem": certificate, "tidepool.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := load(t, text)
	for key := range keys(reflect.TypeFor[config.Config](), "") {
		if !regexp.MustCompile(`(?m)(^|[ {])` + key + `:`).MatchString(text) {
			t.Errorf("the manual does not have %s", key)
		}
	}
	if u := l.Upstreams["registry.corp"]; len(u.RedirectHosts) != 3 || len(u.Credentials) != 6 || !l.Upstreams["hub"].Prefix {
		t.Errorf("the examples are read as %+v", u)
	}
	if l.Hosts["ghcr.mirror.corp"] != "ghcr.io" || len(l.Tags) != 4 {
		t.Errorf("the examples are read as %+v and %+v", l.Hosts, l.Tags)
	}
}

// The recipes for hubs are configurations without a fault.
func TestRecipes(t *testing.T) {
	text, err := os.ReadFile("hubs.md")
	if err != nil {
		t.Fatal(err)
	}
	certificate, _ := pair(t)
	dir := t.TempDir()
	files := map[string]string{"/etc/ssl/corp.pem": certificate, "/run/secrets/config.json": "{}", "/run/secrets/pull-secret": "{}"}
	recipes := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(string(text), -1)
	for _, m := range recipes {
		for _, name := range regexp.MustCompile(`/(?:run/secrets|etc/ssl)/[a-z.-]+`).FindAllString(m[1], -1) {
			content, ok := files[name]
			if !ok {
				content = "secret\n"
			}
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		load(t, regexp.MustCompile(`/(run/secrets|etc/ssl)/`).ReplaceAllString(m[1], dir+"/"))
	}
	if len(recipes) < 12 {
		t.Errorf("%d recipes: the text is not read right", len(recipes))
	}
}

// pair is a certificate and its key.
func pair(t *testing.T) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"tidepool-0"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// keys are the names of all keys below t.
func keys(t reflect.Type, name string) map[string]bool {
	all := map[string]bool{}
	if name != "" && name != "-" {
		all[name] = true
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		for k := range keys(t.Elem(), "") {
			all[k] = true
		}
	case reflect.Struct:
		for f := range t.Fields() {
			for k := range keys(f.Type, f.Tag.Get("yaml")) {
				all[k] = true
			}
		}
	}
	return all
}

// What the README and the Dockerfile show keeps the store in the image's volume, not in one that nobody finds again.
func TestContainerKeepsItsStore(t *testing.T) {
	dockerfile, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	volume := regexp.MustCompile(`(?m)^VOLUME (\S+)$`).FindSubmatch(dockerfile)
	data := regexp.MustCompile(`TIDEPOOL_DATA=(\S+)`).FindSubmatch(dockerfile)
	if volume == nil || data == nil || !bytes.Equal(volume[1], data[1]) {
		t.Fatalf("the volume is %s, the store in %s", volume, data)
	}
	for _, name := range []string{"../Dockerfile", "../README.md"} {
		text, err := os.ReadFile(name)
		mounts := regexp.MustCompile(`docker run .*-v [a-z]+:(\S+)`).FindAllSubmatch(text, -1)
		if err != nil || mounts == nil {
			t.Errorf("%s shows no docker run with a volume: %v", name, err)
		}
		for _, m := range mounts {
			if !bytes.Equal(m[1], volume[1]) {
				t.Errorf("%s mounts %s, the store is in %s", name, m[1], volume[1])
			}
		}
	}
}

// Editors read the schema that the manual's first line names.
func TestSchema(t *testing.T) {
	want, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("config.schema.json")
	if err != nil || !bytes.Equal(bytes.TrimSpace(got), want) {
		t.Errorf("it is not what tidepool config schema prints: go run ./cmd/tidepool config schema >deploy/config.schema.json (%v)", err)
	}
}

// Clients that can be kept from going to the registry itself are, unless that is wanted; the others' hints say so.
func TestNoWayRound(t *testing.T) {
	here, fallback := deploy.Server{Address: "10.1.2.3:99"}, deploy.Server{Address: "10.1.2.3:99", Fallback: true}
	for name, shut := range map[string]string{
		"containerd": `(?m)^server = "http://10.1.2.3:99"$`, "nerdctl": `(?m)^server = "http://10.1.2.3:99"$`,
		"podman": `(?m)^location = "10.1.2.3:99/docker.io"$`, "crio": `(?m)^location = "10.1.2.3:99/docker.io"$`,
	} {
		_, snippet := deploy.Client(name, here)
		if !regexp.MustCompile(shut).MatchString(snippet) || strings.Contains(snippet, "mirror") {
			t.Errorf("%s goes round:\n%s", name, snippet)
		}
		if hints, open := deploy.Client(name, fallback); regexp.MustCompile(`(?m)^server`).MatchString(open) || open == snippet ||
			!strings.Contains(hints, "the registry itself for") {
			t.Errorf("%s with fallback:\n%s%s", name, hints, open)
		}
	}
	for name, instead := range map[string]string{"docker": "docker pull 10.1.2.3:99/docker.io/", "buildkit": "FROM 10.1.2.3:99/docker.io/",
		"k3s": "disable-default-registry-endpoint: true"} {
		hints, snippet := deploy.Client(name, here)
		if _, again := deploy.Client(name, fallback); again != snippet || !strings.Contains(hints, instead) {
			t.Errorf("%s does not say %q:\n%s", name, instead, hints)
		}
	}
}

// Each client's snippet is for the address asked for, and says what to do with it apart from it.
func TestClients(t *testing.T) {
	want := "buildkit containerd crio docker helm k3s kind nerdctl podman"
	if got := strings.Join(deploy.Clients(), " "); got != want {
		t.Errorf("got %s", got)
	}
	for _, name := range deploy.Clients() {
		hints, snippet := deploy.Client(name, deploy.Server{Address: "10.1.2.3:99"})
		if !strings.Contains(hints+snippet, "10.1.2.3:99") || strings.Contains(hints+snippet, ":5000\"") {
			t.Errorf("%s: the address is not in\n%s%s", name, hints, snippet)
		}
		var parsed any
		switch name {
		case "docker":
			if !json.Valid([]byte(snippet)) {
				t.Errorf("%s: no JSON:\n%s", name, snippet)
			}
		case "k3s", "kind":
			if err := yaml.Load([]byte(snippet), &parsed); err != nil {
				t.Errorf("%s: %v in\n%s", name, err, snippet)
			}
		}
		if hints == "" || snippet == "" || strings.HasPrefix(snippet, "#") {
			t.Errorf("%s: hints %q, snippet %q", name, hints, snippet)
		}
	}
}
