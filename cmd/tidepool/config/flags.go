package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Setting is a value that one changes while trying: it has a flag and a variable besides its key.
type Setting struct {
	Flag string // listen
	Key  string // listen; with NAME in it where the value is NAME=…
	Kind string // what the help calls the value; empty: a switch
}

// Settings are all of them, in the order of the help.
var Settings = []Setting{
	{"listen", "listen", "ADDR"},
	{"admin", "admin", "ADDR"},
	{"data", "data", "DIR"},
	{"disk", "disk", "SIZE"},
	{"memory", "memory", "SIZE"},
	{"upstream", "upstreams.NAME.endpoints", "NAME=URL"},
	{"default-upstream", "default_upstream", "NAME"},
	{"any-upstream", "any_upstream", ""},
	{"offline", "offline", ""},
	{"shutdown-delay", "shutdown_delay", "DURATION"},
	{"drain", "drain", "DURATION"},
	{"tls-cert", "door.tls_cert", "FILE"},
	{"tls-key", "door.tls_key", "FILE"},
	{"client-ca", "door.client_ca", "FILE"},
	{"forward-proxy", "door.forward_proxy", ""},
	{"log-level", "log.level", "LEVEL"},
	{"log-format", "log.format", "FORMAT"},
	{"cluster-bind", "cluster.bind", "ADDR"},
	{"cluster-advertise", "cluster.advertise", "ADDR"},
	{"cluster-secret-file", "cluster.secret_file", "FILE"},
	{"join", "cluster.join", "ADDR"},
	{"peer-listen", "cluster.peer_listen", "ADDR"},
	{"replicas", "cluster.replicas", "N"},
	{"cluster-name", "cluster.name", "NAME"},
	{"cluster-zone", "cluster.zone", "ZONE"},
	{"cluster-tls-cert", "cluster.tls_cert", "FILE"},
	{"cluster-tls-key", "cluster.tls_key", "FILE"},
	{"cluster-tls-ca", "cluster.tls_ca", "FILE"},
}

// Variable is the environment's name for s: TIDEPOOL_LOG_LEVEL.
func (s Setting) Variable() string {
	return "TIDEPOOL_" + strings.ToUpper(strings.ReplaceAll(s.Flag, "-", "_"))
}

// means reports whether o is the flag or the variable of key and of no other.
func (o Origin) means(key string) bool {
	return slices.ContainsFunc(Settings, func(s Setting) bool {
		return s.Key == key && (o.Flag == s.Flag || o.Variable == s.Variable())
	})
}

// Repeated reports whether s may be said several times.
func (s Setting) Repeated() bool { return s.named() || s.Key == "cluster.join" }

// named reports whether s's values are NAME=…
func (s Setting) named() bool { return strings.Contains(s.Key, "NAME") }

// Usage is the help's text for s.
func (s Setting) Usage() string {
	if s.named() {
		return "pull NAME from URL, as docker.io=https://mirror.corp; repeat it for more"
	}
	text := docs(reflect.TypeFor[Config](), s.Key)
	if c, ok := lookup(reflect.ValueOf(new(Default())).Elem(), s.Key); ok {
		if w, ok := c.Interface().(interface{ Words() []string }); ok {
			text += ": " + strings.Join(w.Words(), ", ")
		}
	}
	return text
}

// Default is what the help shows as s's default; empty: nothing to show.
func (s Setting) Default() string {
	v, ok := lookup(reflect.ValueOf(new(Default())).Elem(), s.Key)
	if !ok || v.IsZero() {
		return ""
	}
	return fmt.Sprint(v.Interface())
}

func (l *layers) readEnv() {
	for _, s := range Settings {
		value, ok := l.env[s.Variable()]
		if !ok || fromKubernetes(s.Variable(), value) {
			continue
		}
		values := []string{value}
		if s.Repeated() {
			values = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
		}
		l.say(s, values, Origin{Variable: s.Variable()})
	}
}

func (l *layers) readFlags(given map[string][]string) {
	for _, s := range Settings {
		if values, ok := given[s.Flag]; ok {
			l.say(s, values, Origin{Flag: s.Flag})
		}
	}
}

// say lays values, said at one place, over what s was before.
func (l *layers) say(s Setting, values []string, at Origin) {
	if s.named() {
		l.sayUpstreams(values, at)
		return
	}
	v, _ := lookup(reflect.ValueOf(&l.Config).Elem(), s.Key)
	if list, ok := v.Addr().Interface().(*Joins); ok {
		*list = nil
		for _, text := range values {
			list.add(text)
		}
		l.originate(s.Key, at)
		return
	}
	for _, text := range values {
		if err := set(v, text); err != nil {
			l.fault(at, "%v", err)
		}
	}
	l.origins[s.Key] = at
}

// sayUpstreams replaces the endpoints of each upstream in NAME=URL, and nothing else of it. A name that is there
// twice has two endpoints.
func (l *layers) sayUpstreams(values []string, at Origin) {
	said := map[string][]Endpoint{}
	for _, text := range values {
		var e Endpoint
		name, url, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			l.fault(at, "want NAME=URL, as docker.io=https://mirror.corp")
		} else if err := e.UnmarshalText([]byte(url)); err != nil {
			l.fault(at, "%s: %v", name, err)
		} else {
			said[name] = append(said[name], e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(said)) {
		l.upstream(name, at).Endpoints = said[name]
		l.originate("upstreams."+name+".endpoints", at)
	}
}

// upstream is the upstream of that name, made where there was none.
func (l *layers) upstream(name string, at Origin) *Upstream {
	if l.Upstreams == nil {
		l.Upstreams = map[string]*Upstream{}
	}
	if l.Upstreams[name] == nil {
		l.Upstreams[name] = new(Upstream)
		l.origins["upstreams."+name] = at
	}
	return l.Upstreams[name]
}

// originate notes that all of path was said at one place, whatever was said of its parts before.
func (l *layers) originate(path string, at Origin) {
	maps.DeleteFunc(l.origins, func(key string, _ Origin) bool { return strings.HasPrefix(key, path+"[") })
	l.origins[path] = at
}

// lookup is the value at a dotted key of plain structs.
func lookup(v reflect.Value, key string) (reflect.Value, bool) {
	head, rest, more := strings.Cut(key, ".")
	field, ok := byKey(v, head)
	if !ok || !more {
		return field, ok
	}
	if field.Kind() != reflect.Struct {
		return reflect.Value{}, false
	}
	return lookup(field, rest)
}

// docs is the doc tag at a dotted key.
func docs(t reflect.Type, key string) string {
	head, rest, more := strings.Cut(key, ".")
	for f := range t.Fields() {
		if f.Tag.Get("yaml") != head {
			continue
		}
		if more {
			return docs(f.Type, rest)
		}
		return f.Tag.Get("doc")
	}
	return ""
}
