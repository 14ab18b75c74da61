package admin

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestDescribed: the description names every path that there is, and no other.
func TestDescribed(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData([]byte(openapi))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	var described []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	slices.Sort(described)
	if paths := slices.Sorted(maps.Keys(Handler{Metrics: http.NotFoundHandler()}.paths())); !slices.Equal(described, paths) {
		t.Errorf("described are %q\n    there are %q", described, paths)
	}
	for name, schema := range doc.Components.Schemas {
		closed(t, name, schema.Value)
	}
}

// closed checks that nothing but what is described passes as an object: else a field without a description would.
func closed(t *testing.T, name string, s *openapi3.Schema) {
	t.Helper()
	if s.Type.Is("object") && s.AdditionalProperties.Schema == nil && (s.AdditionalProperties.Has == nil || *s.AdditionalProperties.Has) {
		t.Errorf("%s has no additionalProperties: false", name)
	}
	for property, of := range s.Properties {
		closed(t, name+"."+property, of.Value)
	}
}
