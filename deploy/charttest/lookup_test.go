package charttest

import (
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
)

// withCluster renders as helm does with a cluster at hand that has these objects.
func withCluster(t *testing.T, has ...runtime.Object) func(*chart.Chart, chartutil.Values) (map[string]string, error) {
	t.Helper()
	s := runtime.NewScheme()
	must(t, core.AddToScheme(s))
	client := fake.NewSimpleDynamicClient(s, has...)
	return func(c *chart.Chart, v chartutil.Values) (map[string]string, error) {
		return engine.RenderWithClientProvider(c, v, secrets{client})
	}
}

// secrets is a cluster that is only ever asked for those.
type secrets struct{ client dynamic.Interface }

func (s secrets) GetClientFor(string, string) (dynamic.NamespaceableResourceInterface, bool, error) {
	return s.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}), true, nil
}
