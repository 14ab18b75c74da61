package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/tidepool-oci/tidepool/cache"
)

const (
	// A name of 255 characters (what most clients allow), a sha512 digest and the longest host name fit well into it.
	maxPath = 1 << 10
	// Four parameters of which the longest are a tag and a media type.
	maxQuery = 2 << 10
)

// asked is what a request asks for.
type asked struct {
	root   bool        // for the API itself, to see whether it is there
	ref    cache.Ref   // canonical; zero for the root
	digest string      // ref.Digest as the path spells it, which is canonical too
	path   string      // as the client wrote it: pages of a list link back by the way they were asked for
	name   string      // the repository as the client calls it
	called string      // ref's repository as the client called it, its registry first; "": as ref does
	places []cache.Ref // where to look for it, in order, where that is not ref alone
	params
}

// read is the grammar: the one place where the text of a request turns into a Ref.
func (n *Names) read(r *http.Request) (asked, error) {
	path, err := plainPath(r.URL)
	if err != nil {
		return asked{}, err
	}
	outer, rest, ok := apiRoot(path)
	if !ok {
		return asked{}, errRoute
	}
	params, err := readParams(r.URL.RawQuery)
	if err != nil {
		return asked{}, err
	}
	ask := asked{path: path, params: params}
	switch rest {
	case "":
		ask.root = true
		_, err = n.before(outer)
	case "_catalog":
		err = errCatalog
	default:
		err = ask.content(n, place{ns: params.ns, means: n.stands(r), outer: outer}, rest)
	}
	if err != nil {
		return asked{}, err
	}
	return ask, nil
}

// plainPath is u's path as it was written. Nothing that names content needs escaping, so that an escape can only be a
// second spelling; the colon's alone is taken, because some libraries escape it in digests.
func plainPath(u *url.URL) (string, error) {
	path := u.EscapedPath()
	if len(path) > maxPath || len(u.RawQuery) > maxQuery {
		return "", refuse(nameTooLong, "the address is too long: a path has at most %d bytes and a query %d",
			maxPath, maxQuery)
	}
	if strings.Contains(path, "%") {
		path = strings.NewReplacer("%3A", ":", "%3a", ":").Replace(path)
	}
	if strings.Contains(path, "%") {
		return "", refuse(nameInvalid, "%q has escaped characters: names, tags and digests have none", path)
	}
	return path, nil
}

// apiRoot finds /v2 at the path's begin or behind its first component, outer.
func apiRoot(path string) (outer, rest string, ok bool) {
	if rest, ok = behindV2(path); ok || path == "" {
		return "", rest, ok
	}
	i := strings.IndexByte(path[1:], '/')
	if path[0] != '/' || i < 1 {
		return "", "", false
	}
	rest, ok = behindV2(path[1+i:])
	return path[1 : 1+i], rest, ok
}

func behindV2(path string) (rest string, ok bool) {
	if path == "/v2" {
		return "", true
	}
	return strings.CutPrefix(path, "/v2/")
}

// split reads from the end, because a name may have components that are called "blobs", "manifests" or "tags".
func split(rest string) (name, verb, last string, ok bool) {
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return "", "", "", false
	}
	j := strings.LastIndexByte(rest[:i], '/')
	if j < 0 {
		return "", "", "", false
	}
	return rest[:j], rest[j+1 : i], rest[i+1:], true
}

// content reads what stands behind /v2/.
func (a *asked) content(n *Names, at place, rest string) (err error) {
	name, verb, last, ok := split(rest)
	if !ok {
		return errRoute
	}
	if err := a.subject(verb, last); err != nil {
		return err
	}
	a.name, at.name = name, name
	a.ref.Registry, a.ref.Repo, err = n.resolve(at)
	if err == nil && !validName(a.ref.Repo) {
		err = badName(name)
	}
	return err
}

func badName(name string) error {
	return refuse(nameInvalid, "%q is not a repository's name: it is made of lower-case letters and digits, "+
		"joined by dots, underscores, dashes and slashes", name)
}

// subject reads the two last components of a path: what is wanted of the repository.
func (a *asked) subject(verb, last string) error {
	switch {
	case verb == "manifests" && !strings.Contains(last, ":"):
		a.ref.Kind, a.ref.Tag = cache.KindManifest, last
		if !validTag(last) {
			return refuse(tagInvalid, "%q is no tag: it has at most 128 letters, digits, underscores, dots and "+
				"dashes, and begins with none of the last two", last)
		}
		return nil
	case verb == "manifests":
		a.ref.Kind = cache.KindManifest
	case verb == "blobs":
		a.ref.Kind = cache.KindBlob
	case verb == "referrers":
		a.ref.Kind = cache.KindReferrers
	case verb == "tags" && last == "list":
		a.ref.Kind = cache.KindTags
		return nil
	default:
		return errRoute
	}
	d, err := cache.ParseDigest(last)
	if err != nil {
		return refuse(digestInvalid, "%q is %v", last, err)
	}
	a.ref.Digest, a.digest = d, last
	return nil
}

// params are the query's parameters that mean something here; others are no concern of ours.
type params struct {
	ns           param // the upstream: containerd's
	n, last      param // how many tags, and after which
	artifactType param // of which type referrers must be
}

type param struct {
	text  string
	given bool
}

// readParams reads the query by hand, because nearly each of containerd's requests has one. A parameter that is given
// twice is refused: another reader between here and the client may have taken the other one.
func readParams(query string) (p params, err error) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, text, _ := strings.Cut(pair, "=")
		to := p.at(key)
		switch {
		case to == nil:
			continue
		case to.given:
			return p, refuse(paramInvalid, "the parameter %s is given twice", key)
		}
		// Not QueryUnescape: a plus in a media type is a plus, also where a client forgot to escape it.
		if to.text, err = url.PathUnescape(text); err != nil {
			return p, refuse(paramInvalid, "the parameter %s cannot be read: %v", key, err)
		}
		to.given = true
	}
	return p, nil
}

func (p *params) at(key string) *param {
	switch key {
	case "ns":
		return &p.ns
	case "n":
		return &p.n
	case "last":
		return &p.last
	case "artifactType":
		return &p.artifactType
	}
	return nil
}
