package config

import (
	"encoding"
	"encoding/json"
	"reflect"
)

// Schema is the JSON Schema (draft 2020-12) of the file, for editors.
func Schema() ([]byte, error) {
	root := schemaOf(reflect.ValueOf(Default()))
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "tidepool"
	return json.MarshalIndent(root, "", "  ")
}

// schemaOf describes v's type. v's value is of no account here, but its fields' are shown as defaults.
func schemaOf(v reflect.Value) map[string]any {
	t := v.Type()
	_, isText := reflect.New(t).Interface().(encoding.TextUnmarshaler)
	switch {
	case t.Kind() == reflect.Pointer:
		s := schemaOf(reflect.Zero(t.Elem()))
		s["type"] = []string{"object", "null"}
		return s
	case isText:
		return textSchema(v)
	case t.Kind() == reflect.Struct:
		return structSchema(v)
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(reflect.Zero(t.Elem()))}
	case t.Kind() == reflect.Slice:
		return listSchema(t.Elem())
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Int:
		return map[string]any{"type": "integer"}
	default:
		return map[string]any{"type": "string"}
	}
}

// textSchema is that of a value with a syntax of its own, which may look like a number.
func textSchema(v reflect.Value) map[string]any {
	if w, ok := v.Interface().(interface{ Words() []string }); ok {
		return map[string]any{"enum": w.Words()}
	}
	return map[string]any{"type": []string{"string", "integer"}}
}

func listSchema(item reflect.Type) map[string]any {
	one := schemaOf(reflect.Zero(item))
	list := map[string]any{"type": "array", "items": one}
	if !oneValue(item) {
		return list
	}
	return map[string]any{"anyOf": []any{list, one}}
}

func structSchema(v reflect.Value) map[string]any {
	properties := map[string]any{}
	for f, field := range v.Fields() {
		key := f.Tag.Get("yaml")
		if key == "-" {
			continue
		}
		s := schemaOf(field)
		if doc := f.Tag.Get("doc"); doc != "" {
			s["description"] = doc
		}
		if v, ok := defaultOf(field); ok && key != "data" { // which depends on whose machine this is
			s["default"] = v
		}
		properties[key] = s
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

// defaultOf is v where it is one value that says something.
func defaultOf(v reflect.Value) (any, bool) {
	_, isText := v.Interface().(encoding.TextMarshaler)
	one := isText || v.Kind() == reflect.String || v.Kind() == reflect.Bool || v.Kind() == reflect.Int
	return v.Interface(), one && !v.IsZero()
}
