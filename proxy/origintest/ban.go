package origintest

import (
	"net/http"
	"time"
)

// ban is the other limit: it counts requests of every kind, as if all came from one address, and says nothing of what
// is left.
type ban struct {
	most         int
	window, last time.Duration
	came         []time.Time // within the window
	until        time.Time
	times        int
}

// Ban answers 429 to everything for the time called last once more than most requests of any kind came in any stretch
// of time as long as the window. 0 requests end it.
func (o *Origin) Ban(most int, window, last time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ban = ban{most: most, window: window, last: last}
}

// Bans is how often a ban began.
func (o *Origin) Bans() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ban.times
}

// take counts a request; the answer is not nil where it is refused. Registries do not say when to come back.
func (b *ban) take(now time.Time) *answer {
	if b.most == 0 {
		return nil
	}
	for len(b.came) > 0 && now.Sub(b.came[0]) >= b.window {
		b.came = b.came[1:]
	}
	b.came = append(b.came, now)
	if len(b.came) > b.most && !now.Before(b.until) {
		b.until = now.Add(b.last)
		b.times++
	}
	if now.Before(b.until) {
		return refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests from this address")
	}
	return nil
}
