package charttest

import (
	"os"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
)

// whole are values of which the chart's own are an example, and that have no keys of their own.
var whole = []string{"resources", "podSecurityContext", "securityContext"}

// TestReadmeValues has every value stand in the README's table.
func TestReadmeValues(t *testing.T) {
	c, err := loader.Load(dir)
	must(t, err)
	text, err := os.ReadFile(dir + "/README.md")
	must(t, err)
	_, table, _ := strings.Cut(string(text), "| value | default |")
	n := 0
	for _, key := range leaves(c.Values, "") {
		n++
		if !strings.Contains(table, "`"+key+"`") {
			t.Errorf("the table does not have %s", key)
		}
	}
	if n < 50 {
		t.Errorf("%d values: they are not read right", n)
	}
}

// leaves are the keys of all values, with dots.
func leaves(values map[string]any, under string) (all []string) {
	for key, v := range values {
		if m, ok := v.(map[string]any); ok && len(m) > 0 && !slices.Contains(whole, key) {
			all = append(all, leaves(m, under+key+".")...)
			continue
		}
		all = append(all, under+key)
	}
	return all
}
