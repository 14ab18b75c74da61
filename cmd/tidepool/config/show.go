package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Value is one effective value of a configuration.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// Values are all that hold, in the order of the manual, secrets masked. What is empty, and may be, is left out.
func (l Loaded) Values() []Value {
	var all []Value
	l.flatten(reflect.ValueOf(&l.Config).Elem(), "", &all)
	return all
}

func (l Loaded) flatten(v reflect.Value, key string, all *[]Value) {
	switch text, isText := v.Interface().(encoding.TextMarshaler); {
	case v.Kind() == reflect.Pointer:
		before := len(*all)
		l.flatten(v.Elem(), key, all)
		if len(*all) == before { // said, and nothing more of it
			l.add(all, key, "{}")
		}
	case isText:
		b, _ := text.MarshalText() // ours never fail
		l.add(all, key, string(b))
	case v.Kind() == reflect.Struct:
		for f, field := range v.Fields() {
			if !optional(field, key) {
				l.flatten(field, join(key, name(f)), all)
			}
		}
	case v.Kind() == reflect.Map:
		for _, k := range slices.SortedFunc(slices.Values(v.MapKeys()), byText) {
			l.flatten(v.MapIndex(k), join(key, k.String()), all)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			l.flatten(v.Index(i), fmt.Sprintf("%s[%d]", key, i), all)
		}
	default:
		l.add(all, key, fmt.Sprint(v.Interface()))
	}
}

func (l Loaded) add(all *[]Value, key, text string) {
	*all = append(*all, Value{key, text, l.Origin(key).String()})
}

// optional reports whether v, below the key, says nothing: deeper down, most keys are left out by most people.
func optional(v reflect.Value, key string) bool { return key != "" && v.IsZero() }

// name is what f is called in the file; a password is in no file, and yet has a name to be shown by.
func name(f reflect.StructField) string {
	if key := f.Tag.Get("yaml"); key != "-" {
		return key
	}
	return strings.ToLower(f.Name)
}

func byText(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }

// Origin is where the value at key was said; an item of a list, with its list.
func (l Loaded) Origin(key string) Origin {
	for {
		at, ok := l.origins[key]
		i := strings.LastIndexByte(key, '[')
		if ok || i < 0 {
			return at
		}
		key = key[:i]
	}
}
