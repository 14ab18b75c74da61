// Package charttest renders the chart as helm does, and reads what comes out as those who are to read it do: Kubernetes'
// own types, without a field that they do not know, tidepool's own loader for its configuration, and the built binary for
// what its init container is told.
package charttest

import (
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
)

const (
	dir       = "../chart/tidepool"
	release   = "pool"
	namespace = "cache"
)

// sets are values that people give, by what they want. In all of them the store is smaller than this machine's disk.
var sets = map[string]string{
	"default": "",
	"a DaemonSet": `
kind: DaemonSet
persistence: {size: 100Mi}`,
	"a DaemonSet by the node's address, on the node's disk, with TLS": `
kind: DaemonSet
persistence: {hostPath: /var/cache/tidepool, size: 200Mi}
hostPort: {port: 30500, hostIP: ""}
containerd: {fallback: false}
tls: {existingSecret: door}`,
	"a DaemonSet that leaves containerd alone": `
kind: DaemonSet
persistence: {size: 100Mi}
containerd: {mode: "off"}`,
	"a DaemonSet that is to go": `
kind: DaemonSet
persistence: {size: 100Mi}
containerd: {mode: undo}`,
	"a DaemonSet of single ones": `
kind: DaemonSet
persistence: {size: 100Mi}
cluster: {enabled: false}`,
	"a secret of one's own": `
cluster: {existingSecret: gossip, secretKey: keys, zone: label, address: "[::]"}`,
	"certificates of one's own": `
replicas: 2
cluster: {tls: {secretPrefix: member}}`,
	"each thing twice": `
cluster: {replicas: 2, repairRate: 32MiB}`,
	"one alone": `
replicas: 1`,
	"many, not one cache": `
cluster: {enabled: false}
extraEnv: [{name: GOMEMLIMIT, value: 300MiB}]`,
	"TLS": `
tls: {existingSecret: door}
config: {door: {forward_proxy: true}}`,
	"scraped": `
admin: {expose: true}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
networkPolicy: {admin: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]}`,
	"a load balancer": `
service:
  type: LoadBalancer
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [10.0.0.0/8]
  annotations: {example.com/internal: "true"}
networkPolicy:
  clients: [{ipBlock: {cidr: 10.0.0.0/8}}]
  egressPorts: [443, 5000]
  extraEgress: [{to: [{ipBlock: {cidr: 10.1.0.0/16}}]}]`,
	"all that may be added": `
config:
  upstreams: {registry.corp: {endpoints: ["https://r1.corp"]}}
  warm: [{images: ["alpine:3"], every: 1h, pin: true}]
  connections_per_client: 1000000
disk: 90%
persistence: {storageClass: fast, annotations: {a: b}}
imagePullSecrets: [{name: pull}]
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
topologySpreadConstraints: [{topologyKey: rack, maxSkew: 1, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]
priorityClassName: system-cluster-critical
podAnnotations: {a: b}
podLabels: {c: d}
serviceAccount: {annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/pull"}, automount: true}
extraVolumes: [{name: pull, secret: {secretName: pull}}]
extraVolumeMounts: [{name: pull, mountPath: /run/secrets}]
extraInitContainers: [{name: first, image: busybox, command: ["true"]}]`,
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// values are those of a set, over the chart's own.
func values(t *testing.T, text string) map[string]any {
	t.Helper()
	v, err := chartutil.ReadValues([]byte(text))
	must(t, err)
	return v
}

// render is what helm makes of the chart: the text of each template.
func render(t *testing.T, text string, with func(*chart.Chart, chartutil.Values) (map[string]string, error)) (map[string]string, error) {
	t.Helper()
	c, err := loader.Load(dir)
	must(t, err)
	v, err := chartutil.ToRenderValues(c, values(t, text), chartutil.ReleaseOptions{Name: release, Namespace: namespace, IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	return with(c, v)
}

// known are the kinds of objects that the chart makes.
var known = func() runtime.Decoder {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{apps.AddToScheme, core.AddToScheme, networking.AddToScheme, policy.AddToScheme, monitoring.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
}()

// objects reads rendered templates. A field that Kubernetes does not know, or has twice, is a failure.
func objects(t *testing.T, texts map[string]string) []runtime.Object {
	t.Helper()
	var all []runtime.Object
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		for r := utilyaml.NewYAMLReader(newReader(texts[name])); ; {
			text, err := r.Read()
			if err == io.EOF {
				break
			}
			must(t, err)
			if !hasContent(string(text)) {
				continue
			}
			o, _, err := known.Decode(text, nil, nil)
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, text)
			}
			all = append(all, o)
		}
	}
	return all
}

// hasContent reports whether a document says anything.
func hasContent(text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line != "---" && !strings.HasPrefix(line, "#") {
			return true
		}
	}
	return false
}

// only are the objects of one kind.
func only[T runtime.Object](all []runtime.Object) (some []T) {
	for _, o := range all {
		if one, ok := o.(T); ok {
			some = append(some, one)
		}
	}
	return some
}

// rendered are the objects that the chart makes of a set.
func rendered(t *testing.T, text string) []runtime.Object {
	t.Helper()
	texts, err := render(t, text, engine.Render)
	must(t, err)
	return objects(t, texts)
}

// TestLint has helm find nothing to say, but that the chart has no icon.
func TestLint(t *testing.T) {
	for name, text := range sets {
		t.Run(name, func(t *testing.T) {
			for _, m := range lint.All(dir, values(t, text), namespace, true).Messages {
				if m.Severity > support.InfoSev {
					t.Error(m)
				}
			}
		})
	}
}

// TestRefused has values refused that would do nothing, or harm.
func TestRefused(t *testing.T) {
	for text, says := range map[string]string{
		"replica: 3":                                         "replica",
		"cluster: {secret: x}":                               "secret",
		"kind: Deployment":                                   "kind",
		"config: {listen: ':80'}":                            "listen",
		"config: {cluster: {}}":                              "cluster",
		"config: {door: {tls_cert: /a}}":                     "door",
		"persistence: {size: 50G}":                           "size",
		"drainSeconds: 1m":                                   "drainSeconds",
		"kind: DaemonSet\ncluster: {tls: {secretPrefix: a}}": "DaemonSet does not have",
		"serviceMonitor: {enabled: true}":                    "admin.expose=true",
		"containerd: {mode: 'false'}":                        "mode",
		"podDisruptionBudget: {minAvailable: 1}":             "minAvailable",
	} {
		if _, err := render(t, text, engine.Render); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
