package upstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// tokenKey is what a token is good for, and whose it is.
type tokenKey struct {
	registry, realm, service, scope string
	who                             login
}

// token is what a token server gave. It is replaced when it is soft and no longer shown when it is over.
type token struct {
	pass       Secret // as an Authorization
	soft, over time.Time
}

// tokens are those held for one registry.
type tokens struct {
	mu   sync.Mutex // guards held
	held map[tokenKey]token
}

const (
	maxToken  = 1 << 20 // bytes of a token server's answer
	maxTokens = 1024    // held: one for each repository asked for of late

	// A token is believed to last as long as its server says, within reason: one that says nothing means a minute
	// (the token specification's default), one that says less than half a minute would be asked for each request, and
	// an hour keeps a withdrawn permission from living on.
	defaultLife, shortestLife, longestLife = 60 * time.Second, 30 * time.Second, time.Hour
)

// get is the token for key, unless it is refused, which then is forgotten.
func (t *tokens) get(key tokenKey, refused Secret) token {
	t.mu.Lock()
	defer t.mu.Unlock()
	held := t.held[key]
	if held.pass != "" && held.pass == refused {
		delete(t.held, key)
		return token{}
	}
	return held
}

func (t *tokens) put(key tokenKey, held token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		t.held = map[tokenKey]token{}
	}
	for k := range t.held {
		if len(t.held) < maxTokens {
			break
		}
		delete(t.held, k) // any will do: a token is fetched again in no time
	}
	t.held[key] = held
}

// token is the pass for key, unless it is refused. fresh says that it was fetched just now. All who want the same token
// at the same time wait for one request.
func (h *hub) token(ctx context.Context, e *endpoint, key tokenKey, refused Secret) (pass Secret, fresh bool, err error) {
	realm, err := h.realm(e, key.realm, append(key.who.secrets(), secretsIn(refused)...))
	if err != nil {
		return "", false, err
	}
	held := h.tokens.get(key, refused)
	if time.Now().Before(held.soft) {
		return held.pass, false, nil
	}
	got, _, err := h.shared.tokens.Do(ctx, key, 0, func(ctx context.Context) (token, error) {
		got, err := h.fetchToken(ctx, e, realm, key)
		if err == nil {
			h.tokens.put(key, got)
		}
		return got, err
	})
	if err != nil && time.Now().Before(held.over) {
		return held.pass, false, nil // the token server is down; this one still is good
	}
	return got.pass, true, err
}

// realm is the token server that e's challenge names, if logins for e may go there: it is e's own host and port, or
// known to belong to it, or configured. A registry could name any other to get hold of them.
func (h *hub) realm(e *endpoint, s string, secrets []Secret) (*url.URL, error) {
	u, err := webURL(s)
	if err != nil {
		return nil, refused(cache.ErrUnavailable, "%s names %q as its token server: %v", e.origin, clean(s, secrets...), err)
	}
	o := originOf(u)
	what := "of another host"
	switch {
	case slices.Contains(h.realms, o), o == e.origin:
		return u, nil
	case o.scheme != "https":
		what = "without TLS"
	case o.host == e.origin.host && o.port == e.origin.port, o.port == "443" && slices.Contains(e.site().realms, o.host):
		return u, nil
	}
	return nil, refused(cache.ErrUnavailable, "%s names a token server %s; if that is meant, set realm: %s under upstreams.%s",
		e.origin, what, clean(o.key(), secrets...), h.name)
}

// fetchToken asks realm for the token of key (the distribution project's "Token Authentication Specification" and
// "OAuth2 Token Authentication").
func (h *hub) fetchToken(ctx context.Context, e *endpoint, realm *url.URL, key tokenKey) (token, error) {
	t := h.shared.Timeouts.Document
	ctx, cancel := context.WithTimeoutCause(ctx, t, broken("%s gave no token within %v", originOf(realm), t))
	defer cancel()
	asked := time.Now()
	r, err := h.tokenTrip(ctx, e, realm, key)
	if err != nil {
		return token{}, err
	}
	if r.StatusCode != http.StatusOK {
		return token{}, h.tokenRefusal(key.who, r)
	}
	b, err := h.readAll(r, maxToken)
	if errors.Is(err, errTooMuch) {
		return token{}, broken("%s sent a token larger than %d MiB", r.host, maxToken>>20)
	}
	if err != nil {
		return token{}, err
	}
	got, err := parseToken(b, asked)
	if err != nil {
		return token{}, broken("%s: %v", r.host, err)
	}
	h.keys.accept(key.who)
	return h.guests.shorten(got, asked), nil
}

// tokenTrip makes the request for a token. It follows no redirect: a login goes to the realm and nowhere else.
func (h *hub) tokenTrip(ctx context.Context, e *endpoint, realm *url.URL, key tokenKey) (*reply, error) {
	if err := h.offline.err(); err != nil {
		return nil, err
	}
	if err := h.turn(ctx, e); err != nil {
		return nil, err
	}
	r := newReply(ctx, originOf(realm), false, key.who.secrets())
	r.at = e
	h.count.requests.Add(1)
	own := originOf(realm) == e.origin
	if err := r.come(h.roads.pick(own, false), h.tokenRequest(r.ctx, e, realm, key)); err != nil {
		return nil, r.fail(err)
	}
	return r, nil
}

// tokenRequest asks with a password by GET, with an identity token by POST.
func (h *hub) tokenRequest(ctx context.Context, e *endpoint, realm *url.URL, key tokenKey) *http.Request {
	u := *realm
	form := u.Query()
	form.Set("service", cmp.Or(key.service, e.origin.host))
	form.Set("scope", key.scope)
	form.Set("client_id", "tidepool")
	if key.who.identity == "" {
		u.RawQuery = form.Encode()
		return h.request(ctx, query{method: http.MethodGet, accept: "application/json"}, &u, key.who.basic())
	}
	form.Set("grant_type", "refresh_token")
	form.Set("refresh_token", string(key.who.identity))
	u.RawQuery = ""
	return h.post(ctx, &u, form)
}

// post is a request that sends a form, which may hold secrets, to u.
func (h *hub) post(ctx context.Context, u *url.URL, form url.Values) *http.Request {
	r := h.request(ctx, query{method: http.MethodPost, accept: "application/json"}, u, "")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	body := form.Encode()
	r.ContentLength = int64(len(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil } // to send it again
	r.Body, _ = r.GetBody()
	return r
}

// tokenRefusal is the error for an answer that is no token. It says nothing of what the token was wanted for, unless the
// server means the repository.
func (h *hub) tokenRefusal(who login, r *reply) error {
	status := r.StatusCode
	err := h.refusal(r)
	switch {
	case errors.Is(err, cache.ErrLimited):
		return err
	case isRedirect(status):
		return refused(cache.ErrUnavailable, "%s redirects, which a token server must not", r.host)
	case h.guests != nil:
		return h.guests.tokenRefused(who, status, err)
	case status == http.StatusUnauthorized && !who.anonymous():
		return h.keys.park(who, err)
	case status == http.StatusForbidden && !who.anonymous() && !h.keys.accepted(who):
		// some say so of the repository, some of the login; of one that was never good nothing final is said
		return explain(refused(cache.ErrUnavailable, "%v", err), "is the login under upstreams.%s right?", h.name)
	case errors.Is(err, cache.ErrNotFound):
		return refused(cache.ErrUnavailable, "%v", err)
	}
	return err
}

// parseToken reads a token server's answer to a request made at asked.
func parseToken(b []byte, asked time.Time) (token, error) {
	var doc struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return token{}, fmt.Errorf("what should be a token is no JSON document")
	}
	text := doc.Token
	if text == "" {
		text = doc.AccessToken
	}
	visible := func(r rune) bool { return r > ' ' && r < 0x7f }
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !visible(r) }) {
		return token{}, fmt.Errorf("the answer holds no usable token")
	}
	life := tokenLife(doc.ExpiresIn)
	return token{pass: Secret("Bearer " + text), soft: asked.Add(life * 4 / 5), over: asked.Add(life)}, nil
}

// tokenLife reads expires_in, seconds as a number or, as some write it, a string.
func tokenLife(raw json.RawMessage) time.Duration {
	s, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil || s != s {
		return defaultLife
	}
	s = min(max(s, shortestLife.Seconds()), longestLife.Seconds())
	return time.Duration(s * float64(time.Second))
}
