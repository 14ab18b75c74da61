package upstream

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// pass is what one request shows of who we are.
type pass struct {
	header Secret    // the Authorization; empty: nothing
	answer challenge // what it answers
	fresh  bool      // made for this request: where it is refused, another like it would be too
}

// ask makes q at e and returns the answer if it is content.
func (h *hub) ask(ctx context.Context, e *endpoint, q query) (*reply, error) {
	for left := len(h.keys.credentials); ; left-- { // each is refused once
		r, err := h.sendAgain(ctx, e, q)
		if err == nil {
			if err = h.judge(q, r); err == nil {
				e.health.hear(time.Now())
				return r, nil
			}
			r.drop()
		}
		if left <= 0 || !h.another(q, err) {
			return nil, err
		}
	}
}

// sendAgain is send, and once more where a login was refused that was good before, and there is another by now.
func (h *hub) sendAgain(ctx context.Context, e *endpoint, q query) (*reply, error) {
	r, err := h.send(ctx, e, q)
	if !errors.Is(err, errReplaced) {
		return r, err
	}
	again, stillNot := h.send(ctx, e, q)
	if stillNot != nil && errors.Is(stillNot, errNoLogin) {
		return nil, err
	}
	return again, stillNot
}

// send makes q at e with the pass that e wants. A pass that is refused is replaced by a new one, once. It is the only
// way to an endpoint, so that whatever is asked, secrets go the same way.
func (h *hub) send(ctx context.Context, e *endpoint, q query) (*reply, error) {
	who, pull, err := h.identify(ctx, e, q) // the pull's number, where it counts as one
	if err != nil {
		return nil, err
	}
	defer func() { e.books.over(who.account(), pull) }()
	known, _ := e.learnt()
	p, err := h.passFor(ctx, e, who, known, q.repo, pass{})
	if err != nil && h.guests != nil && errors.Is(err, cache.ErrDenied) {
		return nil, err // which says nothing of the endpoint
	}
	if err != nil {
		e.learn(challenge{}) // what it said may no longer be true: the next request finds out
		return nil, err
	}
	for range 3 { // nothing or an old pass, a cached one, a fresh one
		r, err := h.follow(ctx, e, q, p.header)
		if err == nil && p.answer.scheme == basic && (r.foreign || r.StatusCode < 400) { // it sent us on: we are welcome
			h.keys.accept(who)
		}
		if err != nil || r.foreign { // whoever answers elsewhere: his challenge is not for us
			return r, err
		}
		e.note(who, q, pull, r)
		h.shared.news()
		switch r.StatusCode {
		case http.StatusUnauthorized:
			if p, err = h.answer(ctx, e, who, q.repo, p, r); err != nil {
				return nil, err
			}
		case http.StatusForbidden:
			return nil, h.turnedDown(ctx, e, who, p, r)
		default:
			return r, nil
		}
	}
	return nil, refused(cache.ErrDenied, "%s asks for a login again and again", e.origin)
}

// answer meets a 401 with another pass than p.
func (h *hub) answer(ctx context.Context, e *endpoint, who login, repo string, p pass, r *reply) (pass, error) {
	c := parseChallenge(r.Header.Values("WWW-Authenticate"))
	if c.scheme == open || p.fresh && c == p.answer || c.scheme == basic && who.username == "" {
		return pass{}, h.turnedDown(ctx, e, who, p, r)
	}
	r.drop()
	next, err := h.passFor(ctx, e, who, c, repo, p)
	if err != nil {
		return pass{}, err
	}
	e.learn(c)
	return next, nil
}

// passFor makes the pass that c asks for. refused is one that was not accepted.
func (h *hub) passFor(ctx context.Context, e *endpoint, who login, c challenge, repo string, refused pass) (pass, error) {
	switch {
	case c.scheme == open, c.scheme == basic && who.username == "":
		return pass{}, nil
	case c.scheme == basic:
		return pass{header: who.basic(), answer: c, fresh: true}, nil
	case who.bearer != "":
		return pass{header: "Bearer " + who.bearer, answer: c, fresh: true}, nil
	}
	t, fresh, err := h.token(ctx, e, tokenKey{h.name, c.realm, c.service, e.scope(repo), who}, refused.header)
	return pass{header: t, answer: c, fresh: fresh}, err
}

// turnedDown is the error for a 401 or 403 that no other pass would change. Whether the repository is refused, or we
// are, makes the difference between an answer and an outage.
func (h *hub) turnedDown(ctx context.Context, e *endpoint, who login, p pass, r *reply) error {
	if h.guests != nil {
		return h.guests.turnedDown(ctx, h, e, who, p, r)
	}
	err := h.refusal(r)
	switch {
	case errors.Is(err, cache.ErrLimited):
		return err
	case who.anonymous() && h.keys.docker != nil:
		return explain(err, "it does not exist there, or needs a login: the docker_config under upstreams.%s has none for %s", h.name, e.origin)
	case who.anonymous():
		return explain(err, "it does not exist there, or needs a login (credentials under upstreams.%s)", h.name)
	case p.header == "", p.answer.scheme == bearer && who.bearer == "":
		return err // the token server has accepted the login
	}
	switch welcome, gone := h.welcome(ctx, e, p); {
	case gone != nil:
		return gone
	case !welcome:
		return h.keys.park(who, err)
	}
	h.keys.accept(who)
	return err
}

// welcome asks whether e accepts a pass at all: its base says so, whatever is allowed of the repositories.
func (h *hub) welcome(ctx context.Context, e *endpoint, p pass) (bool, error) {
	ctx, cancel := h.hurry(ctx, e)
	defer cancel()
	r, err := h.follow(ctx, e, query{method: http.MethodGet}, p.header)
	if err != nil {
		return false, err
	}
	if r.StatusCode == http.StatusTooManyRequests {
		return false, h.refusal(r)
	}
	r.drop()
	return r.StatusCode != http.StatusUnauthorized && r.StatusCode != http.StatusForbidden, nil
}

// explain adds advice to a refusal.
func explain(err error, format string, args ...any) error {
	f, ok := err.(*fault)
	if !ok {
		return err
	}
	more := refused(f.kind, format, args...)
	more.text = f.text + "; " + more.text
	return more
}
