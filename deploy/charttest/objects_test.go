package charttest

import (
	"bufio"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// newReader reads a rendered template.
func newReader(text string) *bufio.Reader { return bufio.NewReader(strings.NewReader(text)) }

// pods is what makes pods.
type pods struct {
	selector *meta.LabelSelector
	template core.PodTemplateSpec
	claims   []core.PersistentVolumeClaim
	replicas int32 // 0: one on each node
}

func podsOf(t *testing.T, all []runtime.Object) pods {
	t.Helper()
	sets, daemons := only[*apps.StatefulSet](all), only[*apps.DaemonSet](all)
	switch {
	case len(sets) == 1 && len(daemons) == 0:
		s := sets[0].Spec
		return pods{s.Selector, s.Template, s.VolumeClaimTemplates, *s.Replicas}
	case len(sets) == 0 && len(daemons) == 1:
		return pods{daemons[0].Spec.Selector, daemons[0].Spec.Template, nil, 0}
	}
	t.Fatalf("%d StatefulSets and %d DaemonSets", len(sets), len(daemons))
	return pods{}
}

func (p pods) container() core.Container { return p.template.Spec.Containers[0] }

// TestObjects holds what the chart makes of each set against itself.
func TestObjects(t *testing.T) {
	for name, text := range sets {
		t.Run(name, func(t *testing.T) {
			all := rendered(t, text)
			p := podsOf(t, all)
			checkVolumes(t, p)
			checkRights(t, p)
			checkServices(t, all, p)
			checkPolicy(t, all, p)
			cfg := load(t, all, p)
			grace := time.Duration(*p.template.Spec.TerminationGracePeriodSeconds) * time.Second
			if least := time.Duration(cfg.ShutdownDelay + cfg.Drain); grace < least+10*time.Second {
				t.Errorf("a pod that is to end is killed after %v, and may need %v and a moment", grace, least)
			}
			if b := only[*policy.PodDisruptionBudget](all); len(b) > 0 != (p.replicas > 1) {
				t.Errorf("%d pods have %d disruption budgets", p.replicas, len(b))
			}
		})
	}
}

// checkVolumes wants a volume behind each mount, and a use of each volume.
func checkVolumes(t *testing.T, p pods) {
	t.Helper()
	there, used := map[string]bool{}, map[string]bool{}
	for _, v := range p.template.Spec.Volumes {
		there[v.Name] = true
	}
	for _, v := range p.claims {
		there[v.Name] = true
	}
	for _, c := range slices.Concat(p.template.Spec.InitContainers, p.template.Spec.Containers) {
		paths := map[string]bool{}
		for _, m := range c.VolumeMounts {
			used[m.Name] = true
			if paths[m.MountPath] {
				t.Errorf("two volumes at %s", m.MountPath)
			}
			paths[m.MountPath] = true
		}
	}
	if !maps.Equal(there, used) {
		t.Errorf("there are the volumes %v, and used are %v", there, used)
	}
}

// checkRights wants tidepool to have none: what the restricted Pod Security Standard asks for.
func checkRights(t *testing.T, p pods) {
	t.Helper()
	pod := p.template.Spec.SecurityContext
	if !*pod.RunAsNonRoot || *pod.FSGroup != *pod.RunAsUser || pod.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod may: %+v", pod)
	}
	for _, c := range slices.Concat(p.template.Spec.InitContainers, p.template.Spec.Containers) {
		if c.Name == "first" {
			continue // the user's
		}
		may := c.SecurityContext
		if *may.AllowPrivilegeEscalation || !*may.ReadOnlyRootFilesystem || !slices.Equal(may.Capabilities.Drop, []core.Capability{"ALL"}) ||
			may.Capabilities.Add != nil || may.Privileged != nil {
			t.Errorf("%s may: %+v", c.Name, may)
		}
		if root := may.RunAsUser != nil && *may.RunAsUser == 0; root != (c.Name == "containerd") {
			t.Errorf("%s is root: %t", c.Name, root)
		}
	}
}

// checkServices wants Services to find the pods, at ports that they have, and the members to find each other there.
func checkServices(t *testing.T, all []runtime.Object, p pods) {
	t.Helper()
	if s, err := meta.LabelSelectorAsSelector(p.selector); err != nil || !s.Matches(labels.Set(p.template.Labels)) {
		t.Errorf("%v does not select %v", p.selector, p.template.Labels)
	}
	ports := map[string]core.ContainerPort{}
	for _, port := range p.container().Ports {
		ports[port.Name] = port
	}
	headless := 0
	for _, s := range only[*core.Service](all) {
		if !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.template.Labels)) {
			t.Errorf("%s does not find %v", s.Name, p.template.Labels)
		}
		for _, port := range s.Spec.Ports {
			at, ok := ports[port.TargetPort.StrVal]
			if !ok || (port.Protocol == core.ProtocolUDP) != (at.Protocol == core.ProtocolUDP) {
				t.Errorf("%s leads to %v, where pods have %v", s.Name, port, at)
			}
		}
		if s.Spec.ClusterIP == core.ClusterIPNone && s.Spec.PublishNotReadyAddresses && s.Name == "pool-tidepool-headless" {
			headless++
		}
	}
	if headless != 1 {
		t.Errorf("%d Services by which members that are not ready yet find each other", headless)
	}
	for _, m := range only[*monitoring.ServiceMonitor](all) {
		if _, ok := ports[m.Spec.Endpoints[0].Port]; !ok {
			t.Errorf("what is to be scraped is no port of %v", ports)
		}
		matched := 0
		for _, s := range only[*core.Service](all) {
			if labels.SelectorFromSet(m.Spec.Selector.MatchLabels).Matches(labels.Set(s.Labels)) {
				matched++
			}
		}
		if matched != 1 {
			t.Errorf("each member is scraped by %d Services", matched)
		}
	}
}

// checkPolicy wants gossip and peers' fetches let in from members alone, and everything else only where it is meant.
func checkPolicy(t *testing.T, all []runtime.Object, p pods) {
	t.Helper()
	n := only[*networking.NetworkPolicy](all)
	if len(n) != 1 {
		t.Fatalf("%d policies", len(n))
	}
	clustered := slices.ContainsFunc(p.container().Env, func(e core.EnvVar) bool { return e.Name == "TIDEPOOL_CLUSTER_NAME" })
	seen := map[string]bool{}
	for _, in := range n[0].Spec.Ingress {
		for _, port := range in.Ports {
			seen[port.Port.String()] = true
			switch port.Port.String() {
			case "door":
			case "7946", "7947":
				if len(in.From) != 1 || !maps.Equal(in.From[0].PodSelector.MatchLabels, p.selector.MatchLabels) || in.From[0].NamespaceSelector != nil {
					t.Errorf("%v is open to %v", port.Port, in.From)
				}
			case "admin":
				if len(in.From) == 0 {
					t.Error("the admin listener is open to all")
				}
			default:
				t.Errorf("port %v is let in", port.Port)
			}
		}
	}
	if !seen["door"] || seen["7946"] != clustered || seen["7947"] != clustered {
		t.Errorf("in a cluster: %t; let in is %v", clustered, seen)
	}
}

// TestSecretIsMadeOnce upgrades a release: the members keep the secret that they have.
func TestSecretIsMadeOnce(t *testing.T) {
	first := only[*core.Secret](rendered(t, ""))[0]
	if len(first.Data["secret"]) < 32 {
		t.Fatalf("the secret is %q", first.Data["secret"])
	}
	if again := only[*core.Secret](rendered(t, ""))[0]; slices.Equal(again.Data["secret"], first.Data["secret"]) {
		t.Error("two releases have one secret")
	}
	first.Namespace = namespace
	texts, err := render(t, "", withCluster(t, first))
	must(t, err)
	if again := only[*core.Secret](objects(t, texts))[0]; !slices.Equal(again.Data["secret"], first.Data["secret"]) {
		t.Error("an upgrade has another secret, so its members are none of those that are there")
	}
	if s := only[*core.Secret](rendered(t, sets["a secret of one's own"])); len(s) > 0 {
		t.Error("there is a secret besides one's own")
	}
}

// TestNotes has what is said after an install name commands and objects that there are.
func TestNotes(t *testing.T) {
	for name, text := range sets {
		texts, err := render(t, text, engine.Render)
		must(t, err)
		notes := texts["tidepool/templates/NOTES.txt"]
		if strings.Contains(notes, "<no value>") || !regexp.MustCompile(`exec (statefulset|daemonset)/pool-tidepool -- \S+tidepool status`).MatchString(notes) {
			t.Errorf("%s:\n%s", name, notes)
		}
	}
}
