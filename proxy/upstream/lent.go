package upstream

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"
)

// Several processes that are asked as one share what registries say of their limits: what one was refused the others
// need not ask for. Such a word is a hint. It is about one endpoint and one account, which are named; it holds back for
// a bounded time; and of a limit that counts by address it counts only for those whose address may be the same.

const (
	// longestLent bounds for how long a word of others holds pulls back: the longest window that is customary.
	longestLent = 6 * time.Hour
	// longestLentQuiet is the same for requests of every kind. Such limits do not say whom they count, and who shares
	// no address with the one who was refused must not be silent for long.
	longestLentQuiet = 5 * time.Minute
	// tellEvery is how often there is a new word on one limit at most.
	tellEvery = time.Second
	// maxLent bounds the words of others on one endpoint.
	maxLent = maxAccounts
	// maxWord is as much as finds room in a message between members, beside what is said of it.
	maxWord = 800
)

// lentWord is what one process tells the others of an endpoint: of the pulls that it grants an account, or, where none
// is named, of requests of every kind.
type lentWord struct {
	Registry  string    `json:"registry"`
	URL       string    `json:"url"`
	Account   string    `json:"account,omitempty"` // see opaque
	Limit     int64     `json:"limit,omitempty"`
	Remaining int64     `json:"remaining,omitempty"`
	Window    int64     `json:"window,omitempty"` // seconds
	Source    string    `json:"source,omitempty"`
	Said      time.Time `json:"said,omitzero"`
	Blocked   time.Time `json:"blocked,omitzero"`
	Quiet     time.Time `json:"quiet,omitzero"`
}

// same reports whether w says nothing that o did not. That the same was said later is no news.
func (w lentWord) same(o lentWord) bool {
	w.Said, o.Said = time.Time{}, time.Time{}
	return w == o
}

// opaque stands for an account where its name is nobody's business: all who have the account find the same.
func (e *endpoint) opaque(registry, account string) string {
	sum := sha256.Sum256([]byte("tidepool limit\x00" + registry + "\x00" + e.base.String() + "\x00" + account))
	return hex.EncodeToString(sum[:16])
}

// TellLimits calls tell with what is new of the limits that registries put on this process, at once and then at most once
// a second, until ctx ends. limit names the one that a word is about, of which a later word takes the place of an earlier,
// and says nothing to others.
func (h *Hubs) TellLimits(ctx context.Context, tell func(limit string, word []byte)) {
	told := map[string]lentWord{}
	for {
		now := map[string]lentWord{}
		for _, one := range h.all() {
			one.words(now)
		}
		for _, limit := range slices.Sorted(maps.Keys(now)) {
			b, err := json.Marshal(now[limit])
			if was, ok := told[limit]; ok && was.same(now[limit]) || err != nil || len(b) > maxWord {
				continue
			}
			tell(limit, b)
		}
		told = now
		if !pause(ctx, tellEvery) {
			return
		}
		select {
		case <-h.shared.limits:
		case <-ctx.Done():
			return
		}
	}
}

// words are what there is to tell of h's endpoints, by limit: nothing that others have told us.
func (h *hub) words(all map[string]lentWord) {
	for _, e := range h.endpoints {
		head := lentWord{Registry: h.name, URL: e.base.String()}
		e.books.mu.Lock()
		for account, l := range e.books.all {
			if isGuest(account) || l.lent && l.blocked.IsZero() || l.said.IsZero() && l.blocked.IsZero() {
				continue
			}
			w := head
			w.Account, w.Blocked = e.opaque(h.name, account), l.blocked.UTC()
			if !l.lent {
				w.Limit, w.Remaining, w.Window, w.Source, w.Said = l.limit, l.remaining, int64(l.window/time.Second), l.source, l.said.UTC()
			}
			all[w.Account] = w
		}
		e.books.mu.Unlock()
		w := head
		if w.Quiet = e.pacer.said(time.Now()); !w.Quiet.IsZero() {
			all[e.opaque(h.name, "\x00")] = w
		}
	}
}

// news says that there is something to tell of limits.
func (s *shared) news() {
	select {
	case s.limits <- struct{}{}:
	default:
	}
}

var errWord = errors.New("what another member says of a limit cannot be read")

// HearLimit takes what another process tells: a word of its TellLimits. One about a registry that is not asked here is
// passed over.
func (h *Hubs) HearLimit(word []byte) error {
	var w lentWord
	if len(word) > maxWord || json.Unmarshal(word, &w) != nil {
		return errWord
	}
	now := time.Now()
	w = w.believed(now)
	for _, one := range h.all() {
		for _, e := range one.endpoints {
			if one.name == w.Registry && e.base.String() == w.URL {
				one.lend(e, w, now)
			}
		}
	}
	return nil
}

// believed is as much of a word as can be true, and may count here.
func (w lentWord) believed(now time.Time) lentWord {
	w.Limit, w.Remaining = min(max(0, w.Limit), 1e9), min(max(0, w.Remaining), 1e9)
	w.Window = min(max(0, w.Window), int64(longestWindow/time.Second))
	w.Source = clean(w.Source)
	w.Said, w.Blocked = notAfter(w.Said, now), notAfter(w.Blocked, now.Add(longestLent))
	w.Quiet = notAfter(w.Quiet, now.Add(longestLentQuiet))
	return w
}

// lend notes what was told of e.
func (h *hub) lend(e *endpoint, w lentWord, now time.Time) {
	if w.Account == "" {
		e.pacer.hear(w.Quiet, now)
		return
	}
	b := &e.books
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opaque = func(account string) string { return e.opaque(h.name, account) }
	b.take(w)
	for _, account := range append(h.keys.accounts(), "") { // so that it is shown, though it may never be asked here
		if b.opaque(account) == w.Account {
			b.of(account)
		}
	}
}

// take notes a word of another process. That one of them may pull, for all it knows, is no word against another's
// refusal. mu is held.
func (b *books) take(w lentWord) {
	i := slices.IndexFunc(b.lent, func(o lentWord) bool { return o.Account == w.Account && o.Source == w.Source })
	if i < 0 {
		b.lent = append(b.lent[max(0, len(b.lent)+1-maxLent):], w)
		return
	}
	was := b.lent[i]
	if was.Said.After(w.Said) {
		w, was = was, w
	}
	w.Blocked = later(w.Blocked, was.Blocked)
	b.lent[i] = w
}

// accounts are those of the logins that are written in the configuration.
func (k *keys) accounts() (all []string) {
	for _, c := range k.credentials {
		if c.Username != "" {
			all = append(all, login{username: c.Username, password: "…"}.account())
		}
	}
	return all
}

// borrow brings l, an account's, up to what others have told, and returns until when they were granted no pulls and whose
// limit that is; zero: some are. Whom a limit counts may be known here only later: so that is looked at each time. mu is
// held.
func (b *books) borrow(account string, l *ledger, now time.Time) (until time.Time, source string) {
	if len(b.lent) == 0 || isGuest(account) {
		return until, ""
	}
	own := l.source
	if l.lent {
		own = ""
	}
	name := b.opaque(account)
	for _, w := range b.lent {
		if w.Account != name || own != "" && w.Source != "" && own != w.Source {
			continue
		}
		if w.Said.After(l.said) {
			l.limit, l.remaining, l.window = w.Limit, max(0, w.Remaining-l.flying), time.Duration(w.Window)*time.Second
			l.said, l.lent, l.source = w.Said, true, cmp.Or(w.Source, own)
		}
		if now.Before(w.Blocked) && w.Blocked.After(until) {
			until, source = w.Blocked, cmp.Or(w.Source, own)
		}
	}
	return until, source
}

// said is until when the endpoint said to us that it wants to be left alone; zero: it did not, or that is over.
func (p *pacer) said(now time.Time) (until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked.After(now) {
		until = p.asked.UTC()
	}
	return until
}

// hear leaves the endpoint alone until then, because another was refused. What pace that would teach is not known here.
func (p *pacer) hear(until, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until.After(now) && until.After(p.quiet) {
		p.hold(until)
	}
}

// Among has the paces that are configured kept by several processes together: each keeps to its part. A pace that would
// be none is one request in the window.
func (h *Hubs) Among(n int) {
	for _, one := range h.configured {
		for _, e := range one.endpoints {
			e.pacer.share(n)
		}
	}
}

func (p *pacer) share(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.whole.Requests == 0 {
		return
	}
	p.set.Requests = max(1, p.whole.Requests/max(1, n))
	p.serve()
}
