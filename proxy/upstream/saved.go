package upstream

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
)

// saved is what is known of limits, as it is kept from one process to the next: one that starts must not ask again what
// the last one was refused.
type saved struct {
	Schema    int             `json:"schema"`
	Endpoints []savedEndpoint `json:"endpoints"`
}

// savedSchema is raised when a reader of the last one would take the next for something else.
const savedSchema = 1

type savedEndpoint struct {
	Registry string         `json:"registry"`
	URL      string         `json:"url"`
	Accounts []savedAccount `json:"accounts,omitempty"`
	Quiet    time.Time      `json:"quiet,omitzero"`
	Learnt   int            `json:"learnt,omitempty"` // requests a minute
	Refused  time.Time      `json:"refused,omitzero"`
	Sent     []savedSent    `json:"sent,omitempty"`
}

type savedAccount struct {
	Account   string    `json:"account"`
	Limit     int64     `json:"limit"`
	Remaining int64     `json:"remaining"`
	Window    int64     `json:"window"` // seconds
	Source    string    `json:"source,omitempty"`
	Said      time.Time `json:"said,omitzero"`
	Blocked   time.Time `json:"blocked,omitzero"`
	Refusals  int       `json:"refusals,omitempty"`
}

// savedSent are requests that a configured pace counts, the last of them at a time.
type savedSent struct {
	At time.Time `json:"at"`
	N  int       `json:"n"`
}

// Ledger is what is known of upstreams' limits, for Options.Ledger of the next process.
func (h *Hubs) Ledger() []byte {
	all := saved{Schema: savedSchema, Endpoints: []savedEndpoint{}}
	for _, name := range slices.Sorted(maps.Keys(h.configured)) {
		all.Endpoints = append(all.Endpoints, h.configured[name].saved()...)
	}
	all.Endpoints = append(all.Endpoints, h.onDemandSaved()...)
	b, err := json.Marshal(all)
	if err != nil { // a year beyond 9999, which no clock here says
		return nil
	}
	return b
}

// saved is what is known of each endpoint's limits, if anything is.
func (h *hub) saved() (all []savedEndpoint) {
	for _, e := range h.endpoints {
		if s := e.save(); s.says() { // most do not, and are asked again and again
			s.Registry, s.URL = h.name, e.base.String()
			all = append(all, s)
		}
	}
	return all
}

func (s savedEndpoint) says() bool {
	return len(s.Accounts) > 0 || len(s.Sent) > 0 || s.Learnt > 0
}

// restore takes what the last process knew. What is no such thing is no reason not to start.
func (h *Hubs) restore(b []byte) {
	if len(b) == 0 {
		return
	}
	var all saved
	err := json.Unmarshal(b, &all)
	if err == nil && all.Schema != savedSchema {
		err = fmt.Errorf("it has schema %d, and this version reads %d", all.Schema, savedSchema)
	}
	if err != nil {
		h.shared.Log.Warn("what was known of upstreams' limits cannot be read; they are learned anew", zap.Error(err))
		return
	}
	for _, s := range all.Endpoints {
		switch one := h.configured[s.Registry]; {
		case one != nil:
			for _, e := range one.endpoints {
				if e.base.String() == s.URL {
					e.restore(s)
				}
			}
		case h.shared.AnyUpstream:
			h.dormant.lay([]savedEndpoint{s}, time.Now())
		}
	}
}

func (e *endpoint) save() (s savedEndpoint) {
	e.books.mu.Lock()
	for name, l := range e.books.all {
		if isGuest(name) {
			continue
		}
		if l.said.IsZero() && l.blocked.IsZero() || l.lent && l.blocked.IsZero() {
			continue // it was asked, and said nothing of limits; or that was said to others, who know
		}
		s.Accounts = append(s.Accounts, savedAccount{
			Account: name, Limit: l.limit, Remaining: l.remaining, Window: int64(l.window / time.Second), Source: l.source,
			Said: l.said.UTC(), Blocked: l.blocked.UTC(), Refusals: l.refusals,
		})
	}
	e.books.mu.Unlock()
	slices.SortFunc(s.Accounts, func(a, b savedAccount) int { return cmp.Compare(a.Account, b.Account) })
	p := &e.pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Quiet, s.Learnt, s.Refused = p.asked.UTC(), p.learnt.Requests, p.refused.UTC()
	if p.set != (Pace{}) || p.learnt != (Pace{}) {
		s.Sent = p.sums(time.Now())
	}
	return s
}

func (e *endpoint) restore(s savedEndpoint) {
	s = s.believed(time.Now())
	e.books.mu.Lock()
	for _, a := range s.Accounts {
		*e.books.of(a.Account) = ledger{
			limit: a.Limit, remaining: a.Remaining, source: a.Source, window: time.Duration(a.Window) * time.Second,
			said: a.Said, blocked: a.Blocked, refusals: a.Refusals,
		}
	}
	e.books.mu.Unlock()
	p := &e.pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet, p.asked, p.refused = s.Quiet, s.Quiet, s.Refused
	if s.Learnt > 0 {
		p.learnt = Pace{s.Learnt, time.Minute}
	}
	for _, sum := range s.Sent {
		for range min(sum.N, maxPace-len(p.sent)) {
			p.sent = append(p.sent, sum.At)
		}
	}
	slices.SortFunc(p.sent, time.Time.Compare)
}

// believed is as much of what was written down as can be true: the file may be anything by now, and the clock may have
// been set back since.
func (s savedEndpoint) believed(now time.Time) savedEndpoint {
	s.Accounts = slices.Clone(s.Accounts[:min(len(s.Accounts), maxAccounts)])
	for i, a := range s.Accounts {
		s.Accounts[i] = savedAccount{
			Account: clean(a.Account), Source: clean(a.Source), Limit: min(max(0, a.Limit), 1e9), Remaining: min(max(0, a.Remaining), 1e9),
			Window: min(max(0, a.Window), int64(longestWindow/time.Second)), Refusals: max(0, a.Refusals),
			Said: notAfter(a.Said, now), Blocked: notAfter(a.Blocked, now.Add(longestWait)),
		}
	}
	s.Quiet, s.Refused = notAfter(s.Quiet, now.Add(longestWait)), notAfter(s.Refused, now)
	s.Learnt = min(max(0, s.Learnt), maxPace)
	s.Sent = slices.Clone(s.Sent[:min(len(s.Sent), maxPace)])
	for i, sum := range s.Sent {
		s.Sent[i] = savedSent{At: notAfter(sum.At, now), N: min(max(0, sum.N), maxPace)}
	}
	return s
}

// notAfter is t, unless the clock was set back since it was written.
func notAfter(t, latest time.Time) time.Time {
	if t.After(latest) {
		return latest
	}
	return t
}

// sums are the requests sent of late, in some sixty sums rather than one by one; each counts as late as its last. mu is
// held.
func (p *pacer) sums(now time.Time) []savedSent {
	p.forget(now)
	grain := max(time.Minute, p.set.Window) / 60
	var all []savedSent
	var began time.Time // of the last sum
	for _, t := range p.sent {
		if len(all) == 0 || t.Sub(began) >= grain {
			began, all = t, append(all, savedSent{})
		}
		last := &all[len(all)-1]
		last.At, last.N = t.UTC(), last.N+1
	}
	return all
}
