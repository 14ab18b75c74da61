package proxy

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	_ "crypto/sha256" // as crypto.SHA256
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/tidepool-oci/tidepool/cache"
)

// Some upstreams are asked with the login of the client (Upstream.Callers). It goes with the request to that upstream,
// and is kept nowhere: what is remembered is a name made from it that nobody can turn back.

// visitor is who asks for something of such an upstream.
type visitor uint8

const (
	unasked   visitor = iota // the upstream is asked with our own login
	anonymous                // nothing was shown
	known                    // a login was
	vouched                  // what stands for a login was
)

// callerKey makes the names of callers. It is this process's alone: what was said to them ends with it.
var callerKey = sync.OnceValue(func() (key [32]byte) {
	rand.Read(key[:]) // never fails
	return key
})

// callerOf names one who shows a login to a registry. An empty login is nobody's and everybody's.
func callerOf(registry string, l cache.Login) cache.Caller {
	key := callerKey()
	h := hmac.New(crypto.SHA256.New, key[:])
	for _, s := range []string{registry, l.Username, l.Password} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s)))) // so that no two logins read the same
		h.Write([]byte(s))
	}
	return cache.Caller(hex.EncodeToString(h.Sum(nil)))
}

// identify adds who asks to ctx, where that is anybody's business. It is no part of serve, whose frame stays on the stack
// of every client while it reads its answer.
//
//go:noinline
func (h *Handler) identify(ctx context.Context, a *answer) (context.Context, error) {
	a.visitor = unasked
	registry := a.ask.ref.Registry
	if !h.Names.Upstreams[registry].Callers {
		return ctx, nil
	}
	l, who, err := h.login(a, registry)
	if err != nil {
		return ctx, err
	}
	a.visitor, a.stead = who, h.Stead
	return cache.WithLogin(cache.WithCaller(ctx, callerOf(registry, l)), l), nil
}

// loginOf is the login that a request shows. Nothing else than Basic is taken: a token that a client has for somebody
// else must not be passed on, and none is made here.
func loginOf(r *http.Request) (cache.Login, error) {
	switch all := r.Header["Authorization"]; {
	case len(all) == 0:
		return cache.Login{}, nil
	case len(all) > 1:
		return cache.Login{}, refuse(paramInvalid, "there are two Authorization headers: send one login")
	}
	user, password, ok := r.BasicAuth()
	switch {
	case !ok:
		return cache.Login{}, wantLogin("the Authorization is none that can be shown to an upstream: " +
			"send a username and a password or token (Basic), as after a login to this host")
	case user == "" && password != "":
		return cache.Login{}, wantLogin("the login has no username")
	}
	return cache.Login{Username: user, Password: password}, nil // podman without a login sends an empty one
}

var unauthorized = verdict{http.StatusUnauthorized, "UNAUTHORIZED", refused}

// wantLogin asks for a login by the only scheme that needs nothing but this answer.
func wantLogin(message string) *refusal {
	return refuse(unauthorized, "%s", message).with("Www-Authenticate", `Basic realm="tidepool"`)
}

// knock answers the question by which podman, skopeo, CRI-O and docker learn whether to send their login at all: those
// never look at a later challenge. One who shows none all the same is let on, as anonymous, by all but docker, which
// then asks for nothing any more: so docker is asked only where the upstream that it means wants logins.
func (h *Handler) knock(a *answer) error {
	if len(a.r.Header["Authorization"]) > 0 || !h.wantsLogin(a) || h.vouchedFor(a) {
		return nil
	}
	return wantLogin("an upstream behind this tidepool is asked with the login of the client: log in to this host " +
		"with the account that you have there, or ask without one for what everybody may have")
}

// wantsLogin reports whether what the root of the API was asked for may lead to an upstream that wants logins.
func (h *Handler) wantsLogin(a *answer) bool {
	n := &h.Names
	if meant := h.meant(a); meant != "" {
		name, _ := n.configured(meant)
		return n.Upstreams[name].Callers
	}
	for _, u := range n.Upstreams {
		if u.Callers {
			return true
		}
	}
	return false
}

// meant is the upstream that the root of the API was asked for; "": any may be.
func (h *Handler) meant(a *answer) string {
	n := &h.Names
	outer, _, _ := apiRoot(a.ask.path)
	meant := n.stands(a.r)
	switch {
	case a.ask.ns.given:
		meant = strings.ToLower(a.ask.ns.text)
	case meant == "" && outer != "":
		meant = outer
	case meant == "" && agentOf(a.r.UserAgent()).name == "docker":
		meant = n.Default
	}
	return meant
}

// personal turns r, which says why err is no content, into what may be said to somebody who was asked for by name. It
// tells nothing but what the upstream said to him: its words, which differ with how it was asked and so with what is held
// here, are for the log.
func (a *answer) personal(r *refusal, err error) *refusal {
	ref, registry := a.ask.ref.String(), a.ask.ref.Registry
	switch {
	case errors.Is(err, cache.ErrDenied) && a.visitor == anonymous:
		r = wantLogin(sentence(ref+": "+registry+" does not show this to everybody, and no login came with the request",
			a.loginAdvice()))
		r.cached = "tidepool; fwd=uri-miss; detail=denied"
	case errors.Is(err, cache.ErrDenied) && a.visitor == vouched:
		r.message = sentence(ref+": "+registry+" refuses it to the login that stands in for this client",
			"check the name, and upstreams."+registry+".callers in tidepool's configuration")
	case errors.Is(err, cache.ErrDenied):
		r.message = sentence(ref+": "+registry+" refuses it to this login",
			"check the name, and the login that was sent to this host")
	case errors.Is(err, cache.ErrNotFound):
		r.message = ref + ": " + registry + " has no such thing, or does not show it to this login"
	case errors.Is(err, cache.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		r.message = sentence(ref+": "+registry+" cannot be asked for it, nor whether this login may have it",
			"without its word nothing of it goes out, held or not: try again later")
	}
	return r
}

// loginAdvice says how a login reaches us from the client that asks, and what would stand in for one.
func (a *answer) loginAdvice() string {
	how := a.ownLogin()
	if a.stead == nil {
		return how
	}
	if others := a.stead.Advice(a.r, a.ask.ref.Registry, agentOf(a.r.UserAgent()).name); others != "" {
		return others + "; or " + how
	}
	return how
}

// ownLogin says how a login reaches us from the client that asks.
func (a *answer) ownLogin() string {
	host, registry := short(a.r.Host), a.ask.ref.Registry
	if tunnelOf(a.r) != nil {
		return "log in to " + host + " itself: the login that the client has for it arrives, as tidepool is its proxy"
	}
	switch agentOf(a.r.UserAgent()).name {
	case "docker":
		return "docker login " + host + " with the account at " + registry + "; docker sends it only to a host name " +
			"that stands for this upstream (hosts: in tidepool's configuration) or whose default upstream it is"
	case "containerd", "buildkit":
		return "containerd keeps pull secrets from mirrors: give it the account at " + registry + " as a header, " +
			`[host."` + a.scheme() + `://` + host + `".header] Authorization = "Basic ..." in hosts.toml`
	case "containers":
		return "podman login " + host + ", or --creds, with the account at " + registry
	}
	return "log in to " + host + " with the account at " + registry
}
