package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Type is what an upstream is.
type Type string

// The sorts of upstream.
const (
	Registry Type = "registry" // it is pulled from
	Virtual  Type = "virtual"  // it stands for others
)

// Words lists what may be said, the usual first.
func (Type) Words() []string { return []string{string(Registry), string(Virtual)} }

// UnmarshalText takes one of Words.
func (t *Type) UnmarshalText(b []byte) error { return choose(t, b) }

func (u *Upstream) isVirtual() bool { return u != nil && u.Type == Virtual }

// ofVirtual are the keys that a virtual upstream has, and it alone but for the first.
var ofVirtual = []string{"type", "of", "inside", "inside_of"}

func (l *layers) checkVirtual(name string, u *Upstream) {
	key := "upstreams." + name
	told := slices.Clone(ofVirtual)
	for _, said := range slices.Sorted(maps.Keys(l.origins)) {
		part, ok := strings.CutPrefix(said, key+".")
		if i := strings.IndexAny(part, ".["); i >= 0 {
			part = part[:i]
		}
		if ok && !slices.Contains(told, part) {
			l.wrong(said, "a virtual upstream is never asked itself: say this of its members")
			told = append(told, part)
		}
	}
	if len(u.Of) == 0 {
		l.wrong(key, "a virtual upstream stands for others: say which, in order, as in of: [registry.corp, docker.io]")
	}
	for i, m := range u.Of {
		at := fmt.Sprintf("%s.of[%d]", key, i)
		switch {
		case !l.known(m):
			l.wrong(at, "the upstream %q is not configured", m)
		case l.Upstreams[m].isVirtual():
			l.wrong(at, "%q is virtual itself: name its members instead", m)
		case slices.Contains(u.Of[:i], m):
			l.wrong(at, "%q is there twice", m)
		}
	}
	for i, m := range u.InsideOf {
		if !slices.Contains(u.Of, m) {
			l.wrong(fmt.Sprintf("%s.inside_of[%d]", key, i), "%q is none of the members (of)", m)
		}
	}
	switch {
	case len(u.Inside) > 0 && len(u.InsideOf) == 0:
		l.wrong(key+".inside", "say which members may be asked for these names, as in inside_of: [registry.corp]")
	case len(u.Inside) == 0 && len(u.InsideOf) > 0:
		l.wrong(key+".inside_of", "say which names only these members may be asked for, as in inside: [\"internal/**\"]")
	case len(u.Inside) > 0 && len(u.InsideOf) == len(u.Of):
		l.wrong(key+".inside_of", "all members are inside: then inside keeps nothing from anybody")
	}
	for i, g := range u.Inside {
		if first, rest := g.cut(); rest != "" && (strings.Contains(first, ":") || strings.Contains(first, ".") && l.Upstreams[first] != nil) {
			l.wrong(fmt.Sprintf("%s.inside[%d]", key, i), "%q begins with a registry: names of the inside are those that follow it", g)
		}
	}
}

// checkNotVirtual finds what only virtual upstreams have.
func (l *layers) checkNotVirtual(name string) {
	if slices.Contains(l.bad, "upstreams."+name+".type") {
		return
	}
	for _, key := range ofVirtual[1:] {
		if at := "upstreams." + name + "." + key; l.origins[at] != (Origin{}) {
			l.wrong(at, "only a virtual upstream has members: say type: virtual, or leave this out")
		}
	}
}
