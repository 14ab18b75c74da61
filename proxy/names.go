package proxy

import "strings"

// Names says which upstreams there are, and by which names requests mean them.
type Names struct {
	Upstreams map[string]Upstream // by configured name, in lower case: "docker.io", "registry.corp:5000", "all"
	Default   string              // the upstream of names without a host; "": such names are refused
	Hosts     map[string]string   // Host headers, in lower case, with or without a port, and the upstream each means
	Forward   map[string]string   // hosts to which clients are led that take us for their proxy (target), and the upstream each means; nil: none are
	Any       bool                // registries that are not configured may be asked for by their host name too
}

// Upstream is what the grammar needs to know of one.
type Upstream struct {
	Library bool // a name of one component lives under library/, as on Docker Hub
	Prefix  bool // its name may begin a path although it does not look like a host
	Callers bool // it is asked with the client's own login
}

// place is where the names in a request stand, as the client spelled them.
type place struct {
	ns    param
	means string // the upstream that the host means which the client asks; "": that is just an address of ours
	outer string // the path's component before /v2/; "" where there is none
	name  string // everything between /v2/ and the verb
}

// resolve decides, once, which repository of which upstream is meant: by ns, then by a configured Host, then by the
// path. Where ns, Host or the component before /v2/ decided, the rest is the repository as it stands, but for a first
// component that names the same registry once more: clients whose mirror URL has a path say both.
func (n *Names) resolve(p place) (registry, repo string, err error) {
	outer, err := n.before(p.outer)
	if err != nil {
		return "", "", err
	}
	switch {
	case p.ns.given && p.ns.text == "":
		return "", "", refuse(nameInvalid, "the parameter ns is empty: name a registry, as in ns=docker.io, or leave it out")
	case p.ns.given:
		registry, err = n.named(strings.ToLower(p.ns.text))
	case p.means != "":
		registry, err = n.named(p.means)
	case outer != "":
		registry = outer
	default:
		registry, repo, err = n.byPath(p.name)
		return registry, n.library(registry, repo), err
	}
	return registry, n.library(registry, n.again(registry, p.name)), err
}

// Image is the repository of an image that a person names without tag and digest, as docker reads names.
func (n *Names) Image(name string) (registry, repo string, err error) {
	registry, repo, err = n.byPath(name)
	if err != nil {
		return "", "", err
	}
	if repo = n.library(registry, repo); !validName(repo) {
		return "", "", badName(name)
	}
	return registry, repo, nil
}

// byPath reads name as docker reads an image's: its first component is a host if there is a second one and it looks
// like a host, or belongs to an upstream that says so; else it is part of a repository of the default upstream.
func (n *Names) byPath(name string) (registry, repo string, err error) {
	first, rest, more := strings.Cut(name, "/")
	switch {
	case more && looksLikeHost(first), more && n.Upstreams[first].Prefix:
		registry, err = n.named(first)
		return registry, rest, err
	case n.Default == "":
		return "", "", refuse(nameUnknown, "%q names no registry, and this tidepool has no default one: "+
			"put the registry first, as in ghcr.io/org/image, or set default_upstream", name)
	default:
		return n.Default, name, nil
	}
}

// before reads the component before /v2/, which can only be an upstream.
func (n *Names) before(outer string) (string, error) {
	if _, ok := n.configured(outer); outer != "" && !ok && !looksLikeHost(outer) {
		return "", errRoute
	}
	if outer == "" {
		return "", nil
	}
	return n.named(outer)
}

// byHost is the upstream that the Host header means; "" where it is just an address of ours.
func (n *Names) byHost(host string) string {
	if len(n.Hosts) == 0 {
		return ""
	}
	host = strings.ToLower(host)
	if u, ok := n.Hosts[host]; ok {
		return u
	}
	return n.Hosts[host[:max(0, strings.LastIndexByte(host, ':'))]]
}

// named is the registry that s names, canonically, or why it is refused.
func (n *Names) named(s string) (string, error) {
	if u, ok := n.configured(s); ok {
		return u, nil
	}
	if n.Any && validHost(s) {
		return canonical(s), nil
	}
	if n.Any {
		return "", refuse(nameInvalid, "%q is not the host name of a registry", s)
	}
	return "", refuse(denied, "%q is not an upstream of this tidepool: "+
		"add it under upstreams in its configuration, or set any_upstream: true", s)
}

// configured is the configured upstream that s names.
func (n *Names) configured(s string) (string, bool) {
	if _, ok := n.Upstreams[s]; ok {
		return s, true
	}
	c := canonical(s)
	_, ok := n.Upstreams[c]
	return c, ok
}

// again takes a first component off that says once more which registry is meant.
func (n *Names) again(registry, name string) string {
	first, rest, more := strings.Cut(name, "/")
	if c, _ := n.configured(first); more && looksLikeHost(first) && c == registry {
		return rest
	}
	return name
}

func (n *Names) library(registry, repo string) string {
	if n.Upstreams[registry].Library && !strings.Contains(repo, "/") {
		return "library/" + repo
	}
	return repo
}

// canonical turns the other names of Docker Hub into the one that images carry.
func canonical(registry string) string {
	switch registry {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return registry
}

// looksLikeHost is docker's rule: what has a dot or a colon is a host, and so is localhost.
func looksLikeHost(s string) bool { return strings.ContainsAny(s, ".:") || s == "localhost" }
