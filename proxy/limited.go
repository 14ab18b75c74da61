package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// Fallback says whether a client goes round us, to the registry itself, after an answer that is no success.
type Fallback string

// What can be told of it from how a client asked.
const (
	FallbackNo    Fallback = "no"    // it asked by a name that leads here and nowhere else
	FallbackMaybe Fallback = "maybe" // its configuration decides, which its requests do not show
	FallbackYes   Fallback = "yes"   // nothing can keep it from that
)

// agent is a kind of client, known by its User-Agent, and how it is told of an upstream's limit: by the status after
// which it asks the fewest times more and shows its user what we say.
type agent struct {
	name     string   // in metrics
	marks    []string // of which its User-Agent, in lower case, has one
	status   int
	code     string
	fallback func(mirrored, named bool) Fallback // whether it said ns, or a registry in the path
}

const tooMany = "TOOMANYREQUESTS"

// agents is the rule. 429 is what the limit is, and is what the fewest clients leave at that: nearly all ask again, some
// at once and some after a minute, and after the last time as many go on to the registry itself as after any other
// status. 403 is asked for again by nobody but to read its body; 404 says what is not true, and makes containerd look
// for a blob of that digest; 5xx are repeated by half of them. The code in the body stays TOOMANYREQUESTS where a client
// shows the code rather than acts on it. The first row that matches counts.
var agents = []agent{
	// moby, daemon/internal/distribution/errors.go: retryOnError repeats neither DENIED nor TOOMANYREQUESTS, whatever
	// the status; translatePullError turns DENIED into "repository does not exist", and TOOMANYREQUESTS into what we
	// say. continueOnError leaves a mirror for Docker Hub on every error. HEAD is repeated as GET for the body
	// (distribution, registry/client/repository.go, tags.Get). With the containerd image store it is containerd's
	// resolver that pulls, with docker's name: hence not 429.
	{"docker", []string{"docker/"}, http.StatusForbidden, tooMany, func(mirrored, named bool) Fallback {
		switch {
		case mirrored:
			return FallbackMaybe // the image store's, by certs.d or by registry-mirrors
		case named:
			return FallbackNo
		}
		return FallbackYes // as a mirror is asked: by Docker Hub's own names
	}},
	// containerd's resolver, but util/resolver/resolver.go (NewRegistryConfig) appends the registry to its mirrors.
	{"buildkit", []string{"buildkit/"}, http.StatusForbidden, tooMany, func(mirrored, _ bool) Fallback {
		if mirrored {
			return FallbackYes
		}
		return FallbackNo
	}},
	// containerd, core/remotes/docker/resolver.go: retryRequest repeats 429 and 408 at once, maxAttempts (5) in all,
	// without a look at Retry-After; 500, 503 and 504 once, at the last host. Resolve asks again by GET where a HEAD
	// got 403 (since 2026-07; before, only the status line of a HEAD is shown, but all of a GET's answer), then each
	// further host; the last is the server in hosts.toml, and our snippet names no other. 405 makes all versions ask
	// again by GET, but they close the body unread, and take no second look.
	{"containerd", []string{"containerd/"}, http.StatusForbidden, tooMany, configured},
	// containers/image, docker/docker_client.go: makeRequestToResolvedURL repeats 429 alone, 5 requests in all, after 2,
	// 4, 8 and 16 s, or after Retry-After up to 60 s each. newImageSource (docker_image_src.go) then tries each mirror
	// and the location; the errors of all are shown. containers/common, pkg/retry/retry.go: IsErrorRetryable takes DENIED
	// for an answer and TOOMANYREQUESTS for a mishap, whatever the status: hence DENIED. Podman, Buildah, skopeo and
	// CRI-O are made of these.
	{"containers", []string{"containers/", "libpod/", "buildah/", "skopeo/", "cri-o/"}, http.StatusForbidden, "DENIED",
		func(bool, bool) Fallback { return FallbackMaybe }}, // mirror or location: they ask for both alike
	// go-containerregistry, pkg/v1/remote/options.go: defaultRetryStatusCodes repeats 429, 408 and 5xx, 3 requests in
	// all, after 1 and 3 s. transport/error.go calls the code TOOMANYREQUESTS temporary whatever the status, on which
	// programs made of it ask again: hence DENIED. Crane, cosign, kaniko and trivy are made of it.
	{"go-containerregistry", []string{"go-containerregistry", "crane/", "cosign/", "trivy/", "kaniko/"},
		http.StatusForbidden, "DENIED", never},
	// oras-go, registry/remote/retry/policy.go: DefaultPolicy repeats 429, 408 and 5xx, 6 requests in all, after
	// Retry-After, but 3 s at most. Helm (pkg/registry/transport.go) pulls by it.
	{"oras", []string{"oras", "notation/"}, http.StatusForbidden, tooMany, never},
	{"helm", []string{"helm/"}, http.StatusForbidden, tooMany, never},
}

// other is who is not known: what it does with the true status is its own.
var other = agent{"other", nil, http.StatusTooManyRequests, tooMany, configured}

func configured(mirrored, _ bool) Fallback {
	if mirrored {
		return FallbackMaybe
	}
	return FallbackNo
}

// never is of clients that know no mirrors.
func never(bool, bool) Fallback { return FallbackNo }

func agentOf(userAgent string) *agent {
	userAgent = strings.ToLower(userAgent)
	for i := range agents {
		for _, mark := range agents[i].marks {
			if strings.Contains(userAgent, mark) {
				return &agents[i]
			}
		}
	}
	return &other
}

// limited turns r, which says that an upstream limits us, into what makes the client stop.
func (a *answer) limited(r *refusal) *refusal {
	who := agentOf(a.r.UserAgent())
	first, _, more := strings.Cut(a.ask.name, "/")
	a.limit = &Refused{Client: who.name, Fallback: who.fallback(a.ask.ns.given, more && looksLikeHost(first))}
	if tunnelOf(a.r) != nil {
		a.limit.Fallback = FallbackNo // to the client this is the registry itself
	}
	r.status, r.code = who.status, who.code
	return r
}

// Refused is who was told of an upstream's limit.
type Refused struct {
	Client   string // the kind of client: one of a fixed set
	Fallback Fallback
}

const (
	// Each who waits is a goroutine and a connection, some 30 KiB, and a request when the wait is over. A site whose
	// nodes all start at once has less than this many pulls under way that are not held.
	maxWaiting = 512
	// Who waited for the same moment does not ask at the same moment: the upstream may count that too.
	spread = time.Second
)

// sitOut waits until the limit that err speaks of ends, and reports whether asking once more makes sense. It returns at
// once where the limit will not end soon enough, or too many wait already. The error is that of a client that left.
//
//go:noinline
func (h *Handler) sitOut(ctx context.Context, a *answer, err error) (bool, error) {
	var l *cache.LimitedError
	if a.begun || !errors.As(err, &l) || l.Until.IsZero() {
		return false, err
	}
	wait := max(0, time.Until(l.Until))
	if h.Hold <= 0 || wait > h.Hold {
		return false, err
	}
	defer h.waiting.Add(-1)
	if h.waiting.Add(1) > maxWaiting {
		return false, err
	}
	began := time.Now()
	defer func() { a.held = time.Since(began) }()
	t := time.NewTimer(wait + rand.N(min(spread, h.Hold-wait)+1))
	defer t.Stop()
	select {
	case <-t.C:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
