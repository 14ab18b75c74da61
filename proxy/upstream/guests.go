package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// guests are those in whose names a registry is asked, each with a login of his own, or none. The login itself comes
// with the question and stays with it; all that is kept is which callers were refused a moment ago.
type guests struct {
	last time.Duration // how long a token is used that was made from a guest's login

	mu      sync.Mutex // guards refused
	refused map[cache.Caller]time.Time
}

const (
	// A login that was refused is not shown again for this long: registries lock accounts that fail too often, and a
	// node that pulls twenty images with a wrong password fails twenty times. Who has mended it waits no longer.
	guestPark = 30 * time.Second
	// mostRefused bounds what strangers can make us remember.
	mostRefused = 4096
	// mostGuests bounds the ledgers of guests at one endpoint.
	mostGuests = 1024
	// guestAccount begins the accounts of guests. No username does: they are cleaned of what cannot be printed.
	guestAccount = "\x00"
)

// guest is who asks, as the registry is to see him. Nobody is told from anybody else.
func guest(ctx context.Context) login {
	l, c := cache.LoginOf(ctx), cache.CallerOf(ctx)
	if l == (cache.Login{}) || c == "" {
		return login{}
	}
	return login{caller: c, username: l.Username, password: Secret(l.Password)}
}

// identify is who is to make q at e, and the number of the pull that is taken for it, where it counts as one.
func (h *hub) identify(ctx context.Context, e *endpoint, q query) (who login, pull uint64, err error) {
	grant := func(l login) (err error) {
		pull, err = h.grant(ctx, e, q, l)
		return err
	}
	if h.guests == nil {
		who, err = h.keys.pick(ctx, e, grant)
		return who, pull, err
	}
	who = guest(ctx)
	if until := h.guests.parked(who.caller); !until.IsZero() {
		return login{}, 0, refused(cache.ErrDenied, "%s refused the login %s a moment ago; it is tried again at %s",
			e.origin, who.name(), until.UTC().Format(time.RFC3339))
	}
	err = grant(who)
	return who, pull, err
}

func (g *guests) parked(c cache.Caller) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until := g.refused[c]; c != "" && time.Now().Before(until) {
		return until
	}
	return time.Time{}
}

// park notes that a guest's login was refused. It is final for him, and nobody's outage.
func (g *guests) park(who login, err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for c, until := range g.refused {
		if len(g.refused) < mostRefused && now.Before(until) {
			continue
		}
		delete(g.refused, c) // over, or one of too many: he is asked about once more
	}
	if g.refused == nil {
		g.refused = map[cache.Caller]time.Time{}
	}
	g.refused[who.caller] = now.Add(guestPark)
	return explain(refused(cache.ErrDenied, "%v", err), "the login %s is refused", who.name())
}

// turnedDown is hub.turnedDown for a guest. Whether he or the repository is refused decides only what is remembered.
func (g *guests) turnedDown(ctx context.Context, h *hub, e *endpoint, who login, p pass, r *reply) error {
	wrong := r.StatusCode == http.StatusUnauthorized && p.answer.scheme == basic && p.header != ""
	err := h.refusal(r)
	switch {
	case errors.Is(err, cache.ErrLimited):
		return err
	case who.anonymous():
		return explain(err, "it does not exist there, or needs a login, and none came")
	case !wrong: // a token server has accepted the login, or it is a word on the repository
		return err
	}
	switch welcome, gone := h.welcome(ctx, e, p); {
	case gone != nil:
		return gone
	case !welcome:
		return g.park(who, err)
	}
	return err
}

// tokenRefused is the error for a token server's refusal of a guest's login.
func (g *guests) tokenRefused(who login, status int, err error) error {
	switch {
	case status == http.StatusUnauthorized && !who.anonymous():
		return g.park(who, err)
	case errors.Is(err, cache.ErrNotFound):
		return refused(cache.ErrUnavailable, "%v", err)
	}
	return err
}

// shorten has a token that was made from a guest's login end in time: what it allows may have been withdrawn.
func (g *guests) shorten(t token, asked time.Time) token {
	if g != nil {
		t.soft, t.over = notAfter(t.soft, asked.Add(g.last)), notAfter(t.over, asked.Add(g.last))
	}
	return t
}

// isGuest reports whether an account is a guest's: nothing of those is written down or shown.
func isGuest(account string) bool { return strings.HasPrefix(account, guestAccount) }

// guests is how many of the accounts are guests'. mu is held.
func (b *books) guests() (n int) {
	for account := range b.all {
		if isGuest(account) {
			n++
		}
	}
	return n
}

// room makes room for one more guest's ledger. mu is held.
func (b *books) room() {
	n := b.guests()
	for account := range b.all {
		if n < mostGuests {
			return
		}
		if isGuest(account) {
			delete(b.all, account) // any will do: the registry says it again with the next answer
			n--
		}
	}
}
