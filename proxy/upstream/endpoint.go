package upstream

import (
	"errors"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"
)

// endpoint is one place where a registry is asked. Its health and what it said of logins are what we last saw.
type endpoint struct {
	base   *url.URL // without "/v2" and what follows it
	prefix string   // put before repositories: "hub/" where the configured path was /v2/hub
	origin origin
	books  books // of its pull limit
	pacer  pacer // below its other limit

	mu        sync.Mutex // guards all below
	challenge challenge  // the last
	http2     bool       // refuses to speak HTTP/1.1
	fails     int        // in a row
	failed    time.Time  // the last of them
	retry     time.Time  // until then others are asked first
	why       string     // the last failure
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

const (
	firstPause = time.Second // after one failure: most are over at once
	longPause  = time.Minute // an endpoint that came back is used again within a minute
	patience   = 3           // failures in a row, after which it is not asked more than once a firstPause
)

// worked notes an answer and reports whether it is the first after failures.
func (e *endpoint) worked() (first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first = e.fails > 0
	e.fails, e.why, e.retry = 0, "", time.Time{}
	return first
}

// blame notes a failure and reports whether it is the first in a row. The pause doubles with each, with jitter so that
// not all who use an endpoint come back at the same moment.
func (e *endpoint) blame(now time.Time, why string) (first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fails++
	pause := longPause
	if e.fails < 7 { // 2⁶ s is beyond a minute
		pause = min(longPause, firstPause<<(e.fails-1))
	}
	pause = pause/2 + rand.N(pause/2+1)
	e.failed, e.retry, e.why = now, now.Add(pause), why
	return e.fails == 1
}

// state is a look at an endpoint's health.
type state struct {
	up     bool
	failed time.Time
	barred bool // failed so often and so lately that asking it once more would be hammering
	why    string
}

func (e *endpoint) state(now time.Time) state {
	e.mu.Lock()
	defer e.mu.Unlock()
	return state{
		up:     !now.Before(e.retry),
		failed: e.failed,
		barred: e.fails >= patience && now.Sub(e.failed) < firstPause,
		why:    e.why,
	}
}

// order says whom to ask: those that are up, in their order; then, of those that are not, the one whose failure is
// the oldest, so that something is always tried. skipped are the others.
func order(all []*endpoint, now time.Time) (ask, skipped []*endpoint) {
	var last *endpoint
	var oldest state
	for _, e := range all {
		s := e.state(now)
		if s.up {
			ask = append(ask, e)
			continue
		}
		skipped = append(skipped, e)
		if !s.barred && (last == nil || s.failed.Before(oldest.failed)) {
			last, oldest = e, s
		}
	}
	if last == nil {
		return ask, skipped
	}
	rest := skipped[:0:0]
	for _, e := range skipped {
		if e != last {
			rest = append(rest, e)
		}
	}
	return append(ask, last), rest
}

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
