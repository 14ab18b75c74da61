package upstream

import (
	"errors"
	"net/url"
	"strings"
	"sync"
)

// endpoint is one place where a registry is asked. What it said of logins is what we last saw.
type endpoint struct {
	base   *url.URL // without "/v2" and what follows it
	prefix string   // put before repositories: "hub/" where the configured path was /v2/hub
	origin origin
	books  books // of its pull limit
	pacer  pacer // below its other limit

	health circuit

	mu        sync.Mutex // guards all below
	challenge challenge  // the last
	http2     bool       // refuses to speak HTTP/1.1
}

func newEndpoint(s string) (*endpoint, error) {
	u, err := webURL(s)
	switch {
	case err != nil:
		return nil, err
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the URL of an endpoint ends with its path")
	}
	e := &endpoint{origin: originOf(u)}
	path := strings.TrimRight(u.Path, "/")
	if before, after, ok := strings.Cut(path+"/", "/v2/"); ok {
		path, e.prefix = before, after
	}
	e.base = &url.URL{Scheme: e.origin.scheme, Host: u.Host, Path: path}
	return e, nil
}

// url is where the thing called tail of repo is found: tail is "manifests/latest", "blobs/sha256:…", "tags/list".
func (e *endpoint) url(repo, tail, query string) *url.URL {
	u := *e.base
	u.Path += "/v2/"
	if tail != "" {
		u.Path += e.prefix + repo + "/" + tail
	}
	u.RawQuery = query
	return &u
}

// scope is the permission to ask a token server for: to pull, whatever the registry proposes.
func (e *endpoint) scope(repo string) string { return "repository:" + e.prefix + repo + ":pull" }

func (e *endpoint) learnt() (challenge, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.challenge, e.http2
}

func (e *endpoint) learn(c challenge) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.challenge = c
}

func (e *endpoint) learnHTTP2() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.http2 = true
}
