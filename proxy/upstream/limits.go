package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// Registries limit in two ways. The pull limit counts GETs of manifests for an account or an address, in windows of
// hours, and says how many are left: a ledger follows it. The other limit counts requests of every kind from an
// address, by the minute, and says nothing but no: a pacer keeps below it.

// unasked is a limit that is known without asking once more: it says nothing new of the endpoint.
type unasked struct{ *cache.LimitedError }

func (u *unasked) Unwrap() error { return u.LimitedError }

// counted reports whether q counts as a pull.
func (q query) counted() bool {
	return q.method == http.MethodGet && strings.HasPrefix(q.tail, "manifests/")
}

// grant takes a pull of a login's at e for q, where that counts as one, and returns its number.
func (h *hub) grant(ctx context.Context, e *endpoint, q query, who login) (number uint64, err error) {
	if !q.counted() {
		return 0, nil
	}
	number, source, until := e.books.spend(who.account(), h.reserve, cache.SpareOf(ctx))
	if number > 0 {
		return number, nil
	}
	l := &cache.LimitedError{Registry: h.name, Of: cache.LimitOnPulls, Whose: whose(source, who), Until: until}
	if until.IsZero() {
		l.Detail = "what is left of them is kept for what is not held here (reserve)"
	}
	return 0, h.unasked(l)
}

func (h *hub) unasked(l *cache.LimitedError) error {
	h.count.unasked.Add(1)
	return &unasked{l}
}

// whose limit it is: as the registry says, else by the login.
func whose(source string, who login) string {
	if source == "" {
		return who.called()
	}
	return source
}

// sooner is the one of two limits, either of which may be nil, that ends first.
func sooner(a, b error) error {
	var x, y *cache.LimitedError
	switch {
	case !errors.As(b, &y):
		return a
	case !errors.As(a, &x), !y.Until.IsZero() && y.Until.Before(x.Until):
		return b
	}
	return a
}

// turn waits until a request of any kind may be sent to e or its token server.
func (h *hub) turn(ctx context.Context, e *endpoint) error {
	until, ok := e.pacer.pass(ctx)
	if ok {
		return nil
	}
	l := &cache.LimitedError{Registry: h.name, Of: cache.LimitOnRequests, Until: until}
	if _, quiet := e.pacer.kept(time.Now()); quiet.IsZero() {
		l.Detail = "more of them wait than its pace lets out (requests)"
	}
	return h.unasked(l)
}

// note reads what an answer to q says of the pull limit of who asked.
func (e *endpoint) note(who login, q query, number uint64, r *reply) {
	r.who = who
	if r.foreign || r.StatusCode == http.StatusUnauthorized { // that was not asked as anybody
		return
	}
	e.books.note(who.account(), number, r.Header)
	if q.counted() && r.StatusCode < 400 {
		e.books.granted(who.account())
	}
}

// limit is the error that a 429 stands for.
func (h *hub) limit(r *reply, text string) error {
	defer h.shared.news()
	l := &cache.LimitedError{
		Registry: h.name, Of: cache.LimitOnRequests, Until: retryAfter(r.Header, time.Now()), Detail: text,
		Whose: r.clean(r.Header.Get("Docker-Ratelimit-Source")),
	}
	switch {
	case r.refusesPull(text):
		h.count.limitedPulls.Add(1)
		l.Of, l.Whose = cache.LimitOnPulls, whose(l.Whose, r.who)
		l.Until = r.at.books.block(r.who.account(), l.Until)
	default:
		h.count.limitedRequests.Add(1)
		if !r.foreign { // another's limit is no reason to leave the endpoint alone
			l.Until = r.at.pacer.hush(l.Until)
		}
	}
	return l
}

// refusesPull reports whether a refusal is that of a pull: only what counts as one is refused as one, in an answer that
// names the limit.
func (r *reply) refusesPull(text string) bool {
	named := r.Header.Get("Ratelimit-Limit") != "" || r.Header.Get("Docker-Ratelimit-Source") != "" ||
		strings.Contains(text, "pull rate limit") // Docker Hub's words
	return r.counted && !r.foreign && named
}

// another reports whether another login may be granted the pull that this one was not: only where the configuration
// says that they are used together.
func (h *hub) another(q query, err error) bool {
	var known *unasked
	return h.keys.together && q.counted() && errors.Is(err, cache.ErrLimited) && !errors.As(err, &known)
}
