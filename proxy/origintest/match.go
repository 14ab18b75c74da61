package origintest

import (
	"net/http"
	"slices"

	"github.com/tidepool-oci/tidepool/cache"
)

// Match is a condition on a request: a Kind, a Method, a Repo, a Ref, a Host, Of a digest, Ranged, or any Where.
// Several of them hold together; where there are none, every request matches.
type Match interface{ Matches(*Request) bool }

// Kind says what a request asks for.
type Kind string

// The kinds of request.
const (
	Ping      Kind = "ping" // GET /v2/
	Manifest  Kind = "manifest"
	Blob      Kind = "blob"
	Tags      Kind = "tags"
	Referrers Kind = "referrers"
	Token     Kind = "token" // the token server's
	CDN       Kind = "cdn"   // the host that blobs were redirected to
	Other     Kind = "other"
)

// Method is a request's method.
type Method string

// The methods of a pull.
const (
	GET  Method = http.MethodGet
	HEAD Method = http.MethodHead
)

// Repo is a repository's name.
type Repo string

// Ref is the tag or digest in a request's path.
type Ref string

// Host is the Host that a request was sent to, with its port.
type Host string

// Where is any other condition. It must not call the Origin.
type Where func(*Request) bool

// Ranged are requests with a Range header.
var Ranged = Where(func(r *Request) bool { return r.Range != "" })

// Of are the requests that d answers, also where they asked by tag.
func Of(d cache.Digest) Match {
	return Where(func(r *Request) bool { return r.Digest == d || r.Ref == d.String() })
}

// Matches implements Match.
func (k Kind) Matches(r *Request) bool { return r.Kind == k }

// Matches implements Match.
func (m Method) Matches(r *Request) bool { return r.Method == string(m) }

// Matches implements Match.
func (n Repo) Matches(r *Request) bool { return r.Repo == string(n) }

// Matches implements Match.
func (n Ref) Matches(r *Request) bool { return r.Ref == string(n) }

// Matches implements Match.
func (h Host) Matches(r *Request) bool { return r.Host == string(h) }

// Matches implements Match.
func (w Where) Matches(r *Request) bool { return w(r) }

func all(matches []Match, r *Request) bool {
	return !slices.ContainsFunc(matches, func(m Match) bool { return !m.Matches(r) })
}
