package charttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// load reads the configuration that a pod finds as tidepool does, variables and all.
func load(t *testing.T, all []runtime.Object, p pods) config.Config {
	t.Helper()
	text := only[*core.ConfigMap](all)[0].Data["config.yaml"]
	mounted := t.TempDir()
	for _, m := range p.container().VolumeMounts { // what is read at start
		text = strings.ReplaceAll(text, m.MountPath+"/", filepath.Join(mounted, m.Name)+"/")
		must(t, os.MkdirAll(filepath.Join(mounted, m.Name), 0o700))
	}
	env := variables(t, p.container())
	for i := range env {
		for _, m := range p.container().VolumeMounts {
			env[i] = strings.ReplaceAll(env[i], m.MountPath+"/", filepath.Join(mounted, m.Name)+"/")
		}
	}
	for _, v := range p.template.Spec.Volumes {
		if v.Projected != nil {
			project(t, filepath.Join(mounted, v.Name), v.Projected.Sources)
		}
	}
	certificate, key := pair(t)
	for name, content := range map[string]string{"cluster/secret": strings.Repeat("s", 32), "tls/tls.crt": certificate, "tls/tls.key": key} {
		if _, err := os.Stat(filepath.Join(mounted, filepath.Dir(name))); err == nil {
			must(t, os.WriteFile(filepath.Join(mounted, name), []byte(content), 0o600))
		}
	}
	l, err := config.Load(config.Inputs{File: "-", Stdin: strings.NewReader(text), Env: env})
	if err != nil || len(l.Warnings) > 0 {
		t.Fatalf("%v %v\n%s", err, l.Warnings, text)
	}
	if clustered := l.Cluster.On(); clustered && (l.Cluster.Name == "" || l.Cluster.Advertise == "" || len(l.Cluster.Join) != 1) {
		t.Errorf("the cluster is %+v", l.Cluster)
	}
	if l.Data != "/var/lib/tidepool" || !slices.ContainsFunc(p.container().VolumeMounts, func(m core.VolumeMount) bool { return m.MountPath == l.Data }) {
		t.Errorf("no volume is at %s", l.Data)
	}
	return l.Config
}

// variables are what a pod's container has in its environment, on a node that is like any other.
func variables(t *testing.T, c core.Container) (env []string) {
	t.Helper()
	fields := map[string]string{"metadata.name": "pool-tidepool-0", "spec.nodeName": "node-1.corp", "status.podIP": "10.0.0.7",
		"status.hostIP": "192.168.0.7", "metadata.labels['topology.kubernetes.io/zone']": "north"}
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			field, ok := fields[e.ValueFrom.FieldRef.FieldPath]
			if !ok {
				t.Errorf("%s: the downward API has no %s", e.Name, e.ValueFrom.FieldRef.FieldPath)
			}
			value = field
		}
		for _, before := range env { // as the kubelet does
			name, is, _ := strings.Cut(before, "=")
			value = strings.ReplaceAll(value, "$("+name+")", is)
		}
		env = append(env, e.Name+"="+value)
	}
	return env
}

// project writes what cert-manager puts into Secrets, where a pod finds it.
func project(t *testing.T, dir string, sources []core.VolumeProjection) {
	t.Helper()
	for n, s := range sources {
		if want := fmt.Sprint("member-", n); s.Secret.Name != want {
			t.Errorf("the Secret %s is mounted, want %s", s.Secret.Name, want)
		}
		certificate, key := pair(t, fmt.Sprint("pool-tidepool-", n))
		is := map[string]string{"tls.crt": certificate, "tls.key": key, "ca.crt": certificate}
		for _, item := range s.Secret.Items {
			path := filepath.Join(dir, item.Path)
			must(t, os.MkdirAll(filepath.Dir(path), 0o700))
			must(t, os.WriteFile(path, []byte(is[item.Key]), 0o600))
		}
	}
}

// pair is a certificate for some names, which is its own authority, and its key.
func pair(t *testing.T, names ...string) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestValues holds single values against what tidepool makes of them.
func TestValues(t *testing.T) {
	get := func(text string) config.Config {
		all := rendered(t, text)
		return load(t, all, podsOf(t, all))
	}
	if c := get("shutdownDelaySeconds: 7\ndrainSeconds: 90\nmemory: 128MiB"); c.ShutdownDelay.String() != "7s" || c.Drain.String() != "1m30s" || c.Memory != 128<<20 {
		t.Errorf("got %+v", c)
	}
	if c := get(sets["a DaemonSet"]); c.Disk.Bytes != 80<<20 || c.Cluster.Name != "node-1.corp" || c.Cluster.Zone != "node-1.corp" {
		t.Errorf("four fifths of 100 MiB are %v; the member is %+v", c.Disk, c.Cluster)
	}
	if c := get(""); c.Disk.String() != "80%" || c.Cluster.Name != "pool-tidepool-0" || c.Cluster.Join[0] != "pool-tidepool-headless.cache.svc" || c.Admin != "127.0.0.1:5001" {
		t.Errorf("the disk is %v, the cluster %+v, the admin listener at %s", c.Disk, c.Cluster, c.Admin)
	}
	if c := get(sets["a secret of one's own"]); c.Cluster.Zone != "north" || c.Cluster.Bind != "[::]:7946" {
		t.Errorf("the cluster is %+v", c.Cluster)
	}
	if c := get(sets["all that may be added"]); c.Connections != 1000000 || c.Upstreams["registry.corp"] == nil || c.Disk.String() != "90%" {
		t.Errorf("got %+v", c)
	}
	if c := get(sets["scraped"]); c.Admin != ":5001" {
		t.Errorf("the admin listener is at %s", c.Admin)
	}
	if c := get(sets["each thing twice"]); c.Cluster.Replicas != 2 || c.Cluster.RepairRate != 32<<20 {
		t.Errorf("the cluster is %+v", c.Cluster)
	}
	if c := get(sets["certificates of one's own"]); !strings.HasSuffix(c.Cluster.TLSCert, "papers/pool-tidepool-0/tls.crt") ||
		!strings.HasSuffix(c.Cluster.TLSKey, "/tls.key") || !strings.HasSuffix(c.Cluster.TLSCA, "/ca.crt") {
		t.Errorf("the cluster is %+v", c.Cluster)
	}
	if c := get(sets["one alone"]); c.Cluster.On() {
		t.Error("one alone is a cluster")
	}
}

// program is tidepool, built once. $TIDEPOOL_BINARY names one that is there already.
var program = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("TIDEPOOL_BINARY"); b != "" {
		return b, nil
	}
	out, err := filepath.Abs("../../dist/tidepool-under-chart")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, "./cmd/tidepool")
	cmd.Dir = "../.."
	msg, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, msg)
	}
	return out, err
})

// tell runs tidepool as a container would that has args.
func tell(t *testing.T, args []string, env []string) (string, error) {
	t.Helper()
	bin, err := program()
	must(t, err)
	cmd := exec.Command(bin, args...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		for i := range cmd.Args {
			cmd.Args[i] = strings.ReplaceAll(cmd.Args[i], "$("+name+")", value) // as the kubelet does
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestContainerd has the init container write a node's hosts.toml, and take it out again.
func TestContainerd(t *testing.T) {
	for name, want := range map[string]struct{ server, host string }{
		"a DaemonSet": {"", `[host."http://127.0.0.1:5000"]`},
		"a DaemonSet by the node's address, on the node's disk, with TLS": {`server = "https://192.168.0.7:30500"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			file := filepath.Join(root, "etc/containerd/certs.d/_default/hosts.toml")
			run := func(set string) {
				t.Helper()
				p := podsOf(t, rendered(t, set))
				c := p.template.Spec.InitContainers[0]
				if m := c.VolumeMounts[0].MountPath; m != "/host/etc/containerd" || !slices.Contains(c.Args, "--root=/host") {
					t.Fatalf("the node's directory is at %s, and told is %v", m, c.Args)
				}
				args := slices.Clone(c.Args)
				args[slices.Index(args, "--root=/host")] = "--root=" + root
				if out, err := tell(t, args, variables(t, c)); err != nil {
					t.Fatalf("%v: %v\n%s", args, err, out)
				}
			}
			run(sets[name])
			run(sets[name]) // a pod is started more than once
			text, err := os.ReadFile(file)
			if err != nil || !strings.Contains(string(text), want.server) || !strings.Contains(string(text), want.host) {
				t.Errorf("%v\n%s", err, text)
			}
			run(sets["a DaemonSet that is to go"])
			if _, err := os.Stat(file); !os.IsNotExist(err) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
}

// TestProbes asks where nobody is: what the probes say must be understood, and be a no.
func TestProbes(t *testing.T) {
	c := podsOf(t, rendered(t, "")).container()
	for _, p := range []*core.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		command := p.Exec.Command
		if command[0] != "/usr/bin/tidepool" {
			t.Errorf("%s is not in the image", command[0])
		}
		out, err := tell(t, append(slices.Clone(command[1:]), "--server", "http://127.0.0.1:1"), nil)
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
			t.Errorf("%v: %v\n%s", command, err, out)
		}
	}
}
