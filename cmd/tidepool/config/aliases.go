package config

import (
	"fmt"
	"slices"
	"strings"
)

// Alias has repositories be found under another name.
type Alias struct {
	From Glob `yaml:"from" doc:"the repositories that it is for, the registry first: docker.io/bitnami/**; ** is one part of a name or several, * any text within a part"`
	To   Glob `yaml:"to" doc:"what they are asked for as; its wildcards are those of from, in the same order, and stand for the same texts"`
	When When `yaml:"when" doc:"always, or missing: only where the name as it was asked for is answered with 404"`
}

// When says when an Alias holds.
type When string

// The two sorts of When.
const (
	Always  When = "always"
	Missing When = "missing"
)

// Words lists what may be said, the usual first.
func (When) Words() []string { return []string{string(Always), string(Missing)} }

// UnmarshalText takes one of Words.
func (w *When) UnmarshalText(b []byte) error { return choose(w, b) }

func (l *layers) checkAliases() {
	for i, a := range l.Aliases {
		key := fmt.Sprintf("aliases[%d]", i)
		if a.From == "" || a.To == "" {
			l.wrong(key, "an alias leads from names to names: say both")
			continue
		}
		if side, why := l.checkAlias(a); why != "" {
			l.wrong(join(key, side), "%s", why)
			l.bad = append(l.bad, key) // nothing that follows from it is said too
			continue
		}
		before := func(b Alias) bool { return b.From != "" && b.From.covers(a.From) }
		if j := slices.IndexFunc(l.Aliases[:i], before); j >= 0 {
			l.wrong(key+".from", "no name comes this far: alias %d has all of them", j+1)
		}
	}
	l.checkLoops()
}

// checkAlias says what is wrong with one alias alone, and with which side of it.
func (l *layers) checkAlias(a Alias) (side, why string) {
	from, repo := a.From.cut()
	to, _ := a.To.cut()
	if why := l.misplaced(a.From); why != "" {
		return "from", why
	}
	if why := l.misplaced(a.To); why != "" {
		return "to", why
	}
	switch {
	case a.From == a.To:
		return "to", fmt.Sprintf("%q leads to itself", a.From)
	case !slices.Equal(a.From.wildcards(), a.To.wildcards()):
		return "to", fmt.Sprintf("%q has other wildcards than %q: it needs %s, in this order", a.To, a.From, orNone(a.From.wildcards()))
	case !l.known(to) && !l.AnyUpstream:
		return "to", fmt.Sprintf("the upstream %q is not configured", to)
	case a.When == Missing && !l.known(from) && !l.AnyUpstream:
		return "when", fmt.Sprintf("%q is not configured and so cannot be asked first: list it under upstreams, or say when: always", from)
	case Library(from) && at(from, string(repo)) != string(repo) && repo != "**":
		return "from", fmt.Sprintf("%q can match no name: write %s/%s", a.From, from, at(from, string(repo)))
	}
	return "", ""
}

// misplaced says why g cannot stand in an alias.
func (l *layers) misplaced(g Glob) string {
	registry, repo := g.cut()
	switch {
	case repo == "" || !strings.ContainsAny(registry, ".:") && registry != "localhost" && !l.known(registry):
		return fmt.Sprintf("%q names no registry: write docker.io/%s", g, g)
	case strings.Contains(registry, "*"):
		return fmt.Sprintf("%q must name its registry: there are no wildcards in that", g)
	case otherNames[registry] != "":
		return fmt.Sprintf("%q has another name of %s: write that", g, otherNames[registry])
	}
	return ""
}

func orNone(wildcards []string) string {
	if len(wildcards) == 0 {
		return "none"
	}
	return strings.Join(wildcards, " and ")
}

// checkLoops finds aliases that could lead back to themselves, by way of others or of virtual upstreams.
func (l *layers) checkLoops() {
	next := make([][]int, len(l.Aliases))
	for i, a := range l.Aliases {
		for _, g := range l.reach(a.To) {
			for j, b := range l.Aliases {
				if b.From != "" && g.meets(b.From) {
					next[i] = append(next[i], j)
				}
			}
		}
	}
	for i, a := range l.Aliases {
		if way := wayBack(next, i, i, make([]bool, len(next))); way != nil && slices.Min(way) == i { // said once, at the first of them
			l.wrong(fmt.Sprintf("aliases[%d].to", i), "a name could go round for ever: what %q leads to is matched again by %s",
				a.To, l.froms(way))
		}
	}
}

func (l *layers) froms(way []int) string {
	var all []string
	for _, i := range way {
		all = append(all, fmt.Sprintf("%q", l.Aliases[i].From))
	}
	return strings.Join(all, ", then by ")
}

// reach is g and, of a virtual upstream, what it means at its members.
func (l *layers) reach(g Glob) []Glob {
	all := []Glob{g}
	registry, repo := g.cut()
	if u := l.Upstreams[registry]; u.isVirtual() {
		of := u.Of
		if slices.ContainsFunc(u.Inside, func(in Glob) bool { return in.covers(repo) }) {
			of = u.InsideOf
		}
		for _, m := range of {
			all = append(all, Glob(m+"/"+string(repo)), Glob(m+"/"+at(m, string(repo))))
		}
	}
	return all
}

// wayBack is a way from one alias to another, of the aliases that it leads by; nil: there is none. seen are those that
// were tried.
func wayBack(next [][]int, from, to int, seen []bool) []int {
	for _, j := range next[from] {
		if j == to {
			return []int{j}
		}
		if seen[j] {
			continue
		}
		seen[j] = true
		if way := wayBack(next, j, to, seen); way != nil {
			return append([]int{j}, way...)
		}
	}
	return nil
}
