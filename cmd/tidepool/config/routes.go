package config

import (
	"fmt"
	"slices"

	"github.com/tidepool-oci/tidepool/cache"
)

// routes say under which names a repository is to be looked for. Their invariant: no name that is inside is looked for
// outside, whichever way it was asked for.
type routes struct {
	known   func(registry string) bool
	aliases map[string][]rewrite // by the registry of what they are for
	virtual map[string]*members
	fences  map[string][]fence // by the member that is outside
}

type rewrite struct {
	from finder
	to   Glob
	when When
}

// members are what a virtual upstream stands for.
type members struct {
	of     []string
	own    []string // of them, those that are inside
	inside []finder
}

// fence keeps names from an upstream that is outside of a virtual one.
type fence struct {
	virtual string
	inside  []finder
}

// Candidates says under which names a thing is to be looked for, in order; none: under its own. An error says why it is
// looked for nowhere. It is nil where every name stands for itself.
func (c Config) Candidates() func(asked cache.Ref) ([]cache.Ref, error) {
	r := routes{aliases: map[string][]rewrite{}, virtual: map[string]*members{}, fences: map[string][]fence{}}
	r.known = func(registry string) bool { return c.AnyUpstream || c.Upstreams[registry] != nil }
	for _, a := range c.Aliases {
		registry, _ := a.From.cut()
		r.aliases[registry] = append(r.aliases[registry], rewrite{a.From.compile(), a.To, a.When})
	}
	for name, u := range c.Upstreams {
		if u.isVirtual() {
			r.add(name, u)
		}
	}
	if len(r.aliases) == 0 && len(r.virtual) == 0 {
		return nil
	}
	return r.candidates
}

// Aliased are the registries that are not configured, and whose names aliases lead from.
func (c Config) Aliased() (all []string) {
	for _, a := range c.Aliases {
		if registry, _ := a.From.cut(); c.Upstreams[registry] == nil {
			all = append(all, registry)
		}
	}
	return all
}

// DeniedIsMissing reports whether a registry says denied of what it does not have.
func (c Config) DeniedIsMissing(registry string) bool {
	u := c.Upstreams[registry]
	return u != nil && u.DeniedIsMissing
}

func (r *routes) add(name string, u *Upstream) {
	m := &members{of: u.Of, own: u.InsideOf}
	for _, g := range u.Inside {
		m.inside = append(m.inside, g.compile())
	}
	r.virtual[name] = m
	for _, member := range u.Of {
		if len(m.inside) > 0 && !slices.Contains(m.own, member) {
			r.fences[member] = append(r.fences[member], fence{name, m.inside})
		}
	}
}

func (r *routes) candidates(asked cache.Ref) ([]cache.Ref, error) {
	if r.aliases[asked.Registry] == nil && r.virtual[asked.Registry] == nil && r.fences[asked.Registry] == nil {
		return nil, nil
	}
	w := walk{routes: r, asked: asked}
	w.follow(asked.Registry, asked.Repo)
	if len(w.found) > 0 {
		return w.found, nil
	}
	if w.why == nil {
		w.why = fmt.Errorf("%s/%s stands for nothing that may be asked for", asked.Registry, asked.Repo)
	}
	return nil, w.why
}

// walk is the way from a name to those that it may stand for.
type walk struct {
	*routes
	asked cache.Ref
	seen  []cache.Ref
	found []cache.Ref
	why   error // why a name was passed over
}

// follow goes where a name leads: to where the first alias for it says, and to itself where that does not always hold.
func (w *walk) follow(registry, repo string) {
	here := w.asked
	here.Registry, here.Repo = registry, repo
	if slices.Contains(w.seen, here) {
		return
	}
	w.seen = append(w.seen, here)
	for _, a := range w.aliases[registry] {
		texts, ok := a.from.texts(registry + "/" + repo)
		if !ok {
			continue
		}
		if a.when == Missing {
			w.arrive(here)
		}
		to, rest := Glob(a.to.fill(texts)).cut()
		w.follow(to, at(to, string(rest)))
		return
	}
	w.arrive(here)
}

// arrive notes a name that is to be looked for; of a virtual upstream, at its members.
func (w *walk) arrive(here cache.Ref) {
	m := w.virtual[here.Registry]
	if m == nil {
		w.note(here)
		return
	}
	inside := anyMatches(m.inside, here.Repo)
	for _, member := range m.of {
		if !inside || slices.Contains(m.own, member) {
			w.follow(member, at(member, here.Repo))
		}
	}
}

func (w *walk) note(here cache.Ref) {
	if !w.known(here.Registry) {
		w.why = fmt.Errorf("%q is not an upstream of this tidepool, and no alias leads from %s/%s: "+
			"add it under upstreams in its configuration, or set any_upstream: true", here.Registry, here.Registry, here.Repo)
		return
	}
	for _, f := range w.fences[here.Registry] {
		if anyMatches(f.inside, here.Repo) {
			w.why = fmt.Errorf("%s is a name of the inside (upstreams.%s.inside), which %s is never asked for: ask for %s/%s",
				here.Repo, f.virtual, here.Registry, f.virtual, here.Repo)
			return
		}
	}
	w.found = append(w.found, here)
}
