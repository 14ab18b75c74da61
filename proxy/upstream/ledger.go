package upstream

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// ledger is what an endpoint said of the pulls that it grants one account, or nobody in particular, at our address.
type ledger struct {
	limit, remaining int64 // pulls; both 0 where it said nothing
	window           time.Duration
	source           string    // whom it counts: an address or an account, in its own words
	said             time.Time // when; zero: never
	blocked          time.Time // until then it grants none
	refusals         int       // in a row
	last             uint64    // number of the last pull that was sent
	flying           int64     // pulls that are not answered yet
	lent             bool      // what was said was said to another process
}

const (
	// defaultWindow is Docker Hub's, for those who name a limit and no window.
	defaultWindow = 6 * time.Hour
	// An endpoint that grants no pull and does not say until when is asked again after firstBlock, and later each time:
	// such windows open slowly, and who asks too often meets the other limit.
	firstBlock, longBlock = time.Minute, 15 * time.Minute
	maxAccounts           = 64 // logins change with their files, seldom
)

// books are the ledgers of one endpoint, by account.
type books struct {
	mu  sync.Mutex // guards all
	all map[string]*ledger

	lent   []lentWord // what others told: one word for an account and a source
	opaque func(account string) string
}

// account is whom pulls with l are counted for; "" is nobody in particular.
func (l login) account() string {
	switch {
	case l.anonymous():
		return ""
	case l.caller != "":
		return guestAccount + string(l.caller)
	case l.username == "":
		return "(a token)"
	}
	return clean(l.username)
}

// called is the account as it is told to the one whose it is.
func (l login) called() string {
	if l.caller != "" {
		return clean(l.username)
	}
	return l.account()
}

// of is the ledger of an account. mu is held.
func (b *books) of(account string) *ledger {
	l := b.all[account]
	if l != nil {
		return l
	}
	if isGuest(account) {
		b.room()
	}
	if b.all == nil || !isGuest(account) && len(b.all)-b.guests() >= maxAccounts {
		b.all = map[string]*ledger{}
	}
	l = new(ledger)
	b.all[account] = l
	return l
}

// spend takes a pull of an account's, if it has one that may be used: none before the time that a refusal named, and
// none of the reserve where something that is held will do. It returns the pull's number, for over and note; 0: it may
// not, whose limit that is and until when; zero: not known.
func (b *books) spend(account string, reserve int, spare bool) (number uint64, source string, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, now := b.of(account), time.Now()
	others, whose := b.borrow(account, l, now)
	switch {
	case others.After(l.blocked):
		return 0, whose, others
	case now.Before(l.blocked):
		return 0, l.source, l.blocked
	case l.counts(now) && spare && (l.remaining-1)*100 < l.limit*int64(reserve):
		return 0, l.source, time.Time{}
	case l.counts(now):
		l.remaining = max(0, l.remaining-1) // of several at once each sees what the others leave; the answer corrects it
	}
	l.last++
	l.flying++
	return l.last, "", time.Time{}
}

// over says that a pull is answered, or will not be.
func (b *books) over(account string, number uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.all[account]; l != nil && number > 0 {
		l.flying = max(0, l.flying-1)
	}
}

// counts reports whether what was said of the limit still may be true.
func (l *ledger) counts(now time.Time) bool {
	return !l.said.IsZero() && now.Sub(l.said) < l.window
}

// note reads the headers that Docker Hub made customary: "ratelimit-limit: 100;w=21600", "ratelimit-remaining: 76",
// "docker-ratelimit-source: 192.0.2.7". number is that of the pull which was answered; 0: it was none.
func (b *books) note(account string, number uint64, header http.Header) {
	limit, window, ok := quantity(header.Get("Ratelimit-Limit"))
	if !ok {
		return
	}
	remaining, _, ok := quantity(header.Get("Ratelimit-Remaining"))
	if !ok {
		return
	}
	if window == 0 {
		window = defaultWindow
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l, now := b.of(account), time.Now()
	// What is under way has been counted or will be. Of answers that overtake each other the least is right.
	others := l.flying
	if number > 0 {
		others--
	}
	remaining = max(0, remaining-others)
	if l.counts(now) && limit == l.limit && number < l.last && l.flying > 0 {
		remaining = min(remaining, l.remaining)
	}
	l.limit, l.remaining, l.window, l.said, l.lent = limit, remaining, window, now, false
	l.source = clean(header.Get("Docker-Ratelimit-Source"))
}

// quantity reads "100;w=21600".
func quantity(s string) (n int64, window time.Duration, ok bool) {
	first, more, _ := strings.Cut(s, ";")
	n, ok = number(strings.TrimSpace(first))
	for param := range strings.SplitSeq(more, ";") {
		if v, found := strings.CutPrefix(strings.TrimSpace(param), "w="); found {
			seconds, _ := number(v)
			window = min(time.Duration(min(seconds, 1e9))*time.Second, longestWindow)
		}
	}
	return n, window, ok && n < 1e9 // more is no limit, and would overflow
}

// longestWindow bounds what an endpoint may say of its window: nobody counts pulls by more than the month.
const longestWindow = 31 * 24 * time.Hour

// block notes that no pull is granted until then; zero: the endpoint did not say.
func (b *books) block(account string, until time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.of(account)
	if until.IsZero() {
		until = time.Now().Add(min(longBlock, firstBlock<<min(l.refusals, 10)))
	}
	l.refusals++
	l.blocked = later(l.blocked, until)
	return l.blocked
}

// granted notes a pull that was.
func (b *books) granted(account string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.all[account]; l != nil {
		l.refusals = 0
	}
}
