package upstream

import (
	"context"
	"net/http"
	"net/url"

	"github.com/tidepool-oci/tidepool/cache"
)

// maxRedirects is how often one request may be sent on. Registries do so once, sometimes twice.
const maxRedirects = 5

// follow makes q at e, and goes where it is redirected to. The pass is shown to e's own origin only, and no more once a
// redirect has left it: a server elsewhere must not decide what is asked for in our name. What a redirect led to is
// forgotten with the answer: signed URLs expire, so the next request begins at the registry again.
func (h *hub) follow(ctx context.Context, e *endpoint, q query, pass Secret) (*reply, error) {
	u := e.url(q.repo, q.tail, q.params)
	secrets := secretsIn(pass)
	for range maxRedirects + 1 {
		r, err := h.trip(ctx, e, q, u, pass, secrets)
		if err != nil {
			return nil, err
		}
		if !isRedirect(r.StatusCode) {
			return r, nil
		}
		next, err := h.redirect(u, r)
		r.drop()
		if err != nil {
			return nil, err
		}
		if originOf(next) != e.origin {
			pass = ""
		}
		u = next
	}
	return nil, refused(cache.ErrUnavailable, "%s redirects more than %d times", e.origin, maxRedirects)
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// redirect is where r, the answer from u, sends us.
func (h *hub) redirect(u *url.URL, r *reply) (*url.URL, error) {
	ref, err := url.Parse(r.Header.Get("Location"))
	if err != nil || r.Header.Get("Location") == "" {
		return nil, refused(cache.ErrUnavailable, "%s redirects to nowhere", r.host)
	}
	next, err := webURL(u.ResolveReference(ref).String())
	if err != nil {
		return nil, refused(cache.ErrUnavailable, "%s redirects to what is no place: %v", r.host, err)
	}
	to := originOf(next)
	if u.Scheme == "https" && to.scheme != "https" && !h.guard.written.has(to.host, to.port) {
		return nil, refused(cache.ErrUnavailable,
			"%s redirects to plain http at %s; if that is meant, add %q to redirect_hosts under upstreams.%s",
			r.host, r.clean(to.String()), r.clean(to.host), h.name)
	}
	next.Fragment, next.RawFragment = "", ""
	return next, nil
}
