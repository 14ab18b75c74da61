package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decoder lays a YAML tree over a tree of structs. It is written out, and not left to the YAML library, because all
// faults are wanted at once, repeated keys among them, and because each value's place must be known afterwards.
type decoder struct {
	file    string
	origins map[string]Origin
	faults  []Fault
	bad     []string // the keys that the faults are about
	left    int      // values that may still come: aliases could multiply them without end
}

func (d *decoder) fault(n *yaml.Node, about, format string, args ...any) {
	d.faults = append(d.faults, Fault{At: d.at(n), What: fmt.Sprintf(format, args...)})
	if about != "" {
		d.bad = append(d.bad, about)
	}
}

func (d *decoder) at(n *yaml.Node) Origin {
	return Origin{File: d.file, Line: n.Line, Column: n.Column}
}

// value decodes n into v, which is settable and has the key path. A key without a value says nothing.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if d.left--; d.left < 0 {
		if d.left == -1 {
			d.fault(n, "", "the file says too much: its aliases repeat each other")
		}
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" && v.Kind() != reflect.Pointer {
		return
	}
	d.origins[path] = d.at(n)
	switch {
	case isText(v):
		d.scalar(n, v, path)
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
	case v.Kind() == reflect.Struct:
		d.fields(n, v, path)
	case v.Kind() == reflect.Map:
		d.entries(n, v, path)
	case v.Kind() == reflect.Slice:
		d.items(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.fault(n, path, "%s: want one value, found %s", path, form(n))
		return
	}
	if err := set(v, n.Value); err != nil {
		d.fault(n, path, "%s: %v", path, err)
	}
}

func (d *decoder) fields(n *yaml.Node, v reflect.Value, path string) {
	d.pairs(n, path, func(key, val *yaml.Node) {
		field, ok := byKey(v, key.Value)
		if !ok {
			d.unknown(key, path, keys(v.Type()))
			return
		}
		d.value(val, field, join(path, key.Value))
	})
}

func (d *decoder) entries(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, path, func(key, val *yaml.Node) {
		entry := reflect.New(v.Type().Elem()).Elem()
		at := join(path, key.Value)
		d.value(val, entry, at)
		d.origins[at] = d.at(key)
		v.SetMapIndex(reflect.ValueOf(key.Value), entry)
	})
}

func (d *decoder) items(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.ScalarNode && oneValue(v.Type().Elem()) { // one needs no brackets
		n = &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{n}}
	}
	if n.Kind != yaml.SequenceNode {
		d.fault(n, path, "%s: want a list, found %s", path, form(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		if item.Tag == "!!null" {
			d.fault(item, fmt.Sprintf("%s[%d]", path, i), "%s[%d] is empty", path, i)
		}
		d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

// pairs calls do for each key of a mapping, once.
func (d *decoder) pairs(n *yaml.Node, path string, do func(key, val *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.fault(n, path, "%s: want keys and values, found %s", orFile(path), form(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			d.fault(key, path, "%s: want a plain key, found %s", orFile(path), form(key))
			continue
		}
		if line, twice := seen[key.Value]; twice {
			d.fault(key, join(path, key.Value), "%s is there twice, first in line %d", join(path, key.Value), line)
			continue
		}
		seen[key.Value] = key.Line
		do(key, val)
	}
}

// set reads text into v.
func set(v reflect.Value, text string) error {
	if isText(v) {
		return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("want true or false, found %q", text)
		}
		v.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("want a whole number, found %q", text)
		}
		v.SetInt(int64(n))
	default:
		v.SetString(text)
	}
	return nil
}

func isText(v reflect.Value) bool {
	_, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

// oneValue reports whether a t is written as one word.
func oneValue(t reflect.Type) bool {
	return t.Kind() == reflect.String || isText(reflect.New(t).Elem())
}

// keys are the names that t's fields have in the file, in order.
func keys(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		if key := f.Tag.Get("yaml"); key != "-" {
			names = append(names, key)
		}
	}
	return names
}

// byKey is the field of v that the file calls key.
func byKey(v reflect.Value, key string) (reflect.Value, bool) {
	for f, field := range v.Fields() {
		if f.Tag.Get("yaml") == key && key != "-" {
			return field, true
		}
	}
	return reflect.Value{}, false
}

// unknown is the fault of a key that there is not. What was probably meant by it is not missed as well.
func (d *decoder) unknown(n *yaml.Node, path string, known []string) {
	if n.Value == "password" && strings.Contains(path, ".credentials[") {
		d.fault(n, path, "%s: a password does not stand in the file: name a password_file, or set its %s… variable", path, passwordPrefix)
		return
	}
	near := nearest(n.Value, known)
	if near == "" {
		d.fault(n, path, "unknown key %s", join(path, n.Value))
		return
	}
	d.fault(n, join(path, near), "unknown key %s: did you mean %s?", join(path, n.Value), near)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func orFile(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

// form says what stands at n, for one who wrote something else than was wanted.
func form(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	default:
		if n.Tag == "!!merge" {
			return "a merge key"
		}
		return fmt.Sprintf("%q", n.Value)
	}
}
