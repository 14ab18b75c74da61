package proxy

import (
	"context"
	"errors"
	"net/http"

	"github.com/tidepool-oci/tidepool/cache"
)

// Stead says which logins stand in for clients that send none of their own. *access.Callers is one.
type Stead interface {
	// Login is the login that stands in at a registry. ok is false where the client sends what can only be a login of his
	// own. The error is cache.ErrDenied where what he shows does not hold, else an outage of ours.
	Login(r *http.Request, registry string) (l cache.Login, ok bool, err error)
	// Advice says what would stand in there for the login of one who was refused as nobody; "": nothing would.
	Advice(r *http.Request, registry, client string) string
}

var standIn = verdict{http.StatusBadGateway, "UNAVAILABLE", "tidepool; detail=unavailable"}

// login is the login with which a registry is asked for a, the one that it sends or what stands in for that, and whose
// that is.
func (h *Handler) login(a *answer, registry string) (l cache.Login, who visitor, err error) {
	who = known
	if h.Stead != nil {
		var ok bool
		if l, ok, err = h.Stead.Login(a.r, registry); ok || err != nil {
			who = vouched
		}
	}
	switch {
	case who == known:
		l, err = loginOf(a.r)
	case errors.Is(err, cache.ErrDenied):
		err = wantLogin(sentence(err.Error(), ""))
	case err != nil && !errors.Is(err, context.Canceled):
		err = refuse(standIn, "%s", sentence(err.Error(), ""))
	}
	if l == (cache.Login{}) {
		who = anonymous
	}
	return l, who, err
}

// vouchedFor reports whether a login stands in, at the upstream that the root of the API was asked for or at any, for one
// who sends none: he need not be asked for it.
func (h *Handler) vouchedFor(a *answer) bool {
	if h.Stead == nil {
		return false
	}
	vouched := func(registry string) bool {
		l, _, err := h.Stead.Login(a.r, registry)
		return err == nil && l != (cache.Login{})
	}
	if meant := h.meant(a); meant != "" {
		name, _ := h.Names.configured(meant)
		return vouched(name)
	}
	for name, u := range h.Names.Upstreams {
		if u.Callers && vouched(name) {
			return true
		}
	}
	return false
}

// scheme is how the client came in.
func (a *answer) scheme() string {
	if a.r.TLS != nil {
		return "https"
	}
	return "http"
}
