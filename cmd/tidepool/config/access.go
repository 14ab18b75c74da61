package config

import (
	"fmt"
	"slices"
	"time"
)

// Access says whose permission counts at an upstream.
type Access string

// The two sorts of Access.
const (
	Shared Access = "shared" // ours
	Caller Access = "caller" // each client's own
)

// Words lists what may be said, the usual first.
func (Access) Words() []string { return []string{string(Shared), string(Caller)} }

// UnmarshalText takes one of Words.
func (a *Access) UnmarshalText(b []byte) error { return choose(a, b) }

// Term is how long somebody's permission is believed: at least a second, and at most longestTerm.
type Term time.Duration

// longestTerm bounds what somebody who was locked out elsewhere may still have here.
const longestTerm = Term(24 * time.Hour)

// UnmarshalText reads a Duration within the bounds.
func (t *Term) UnmarshalText(text []byte) error {
	var d Duration
	if err := d.UnmarshalText(text); err != nil {
		return err
	}
	if *t = Term(d); *t < Term(time.Second) || *t > longestTerm {
		return fmt.Errorf("%q: want 1s to %s", text, longestTerm)
	}
	return nil
}

// MarshalText writes t as String does.
func (t Term) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

func (t Term) String() string { return Duration(t).String() }

// defaultAccessFor is how long a pull with all its layers takes, mostly, and as soon as anybody is locked out elsewhere.
const defaultAccessFor = Term(5 * time.Minute)

// Callers is how long a registry's yes to a client's own login is good; 0: it is not asked with those.
func (c Config) Callers(registry string) time.Duration {
	if u := c.Upstreams[registry]; u != nil && u.Access == Caller {
		return time.Duration(u.AccessFor)
	}
	return 0
}

func (l *layers) checkAccess(key string, u *Upstream) {
	_, said := l.origins[key+".access_for"]
	switch {
	case u.Access == Caller && u.hasOwnLogin():
		l.wrong(key+".access", "with access: caller each client's own login is shown to the upstream, and none of ours: "+
			"take its credentials, docker_config or TIDEPOOL_PASSWORD_ variable out, or say access: shared")
	case u.Access != Caller && said:
		l.wrong(key+".access_for", "only with access: caller is anybody's permission remembered: say that too, or leave this out")
	}
}

// AsksCallers reports whether what is asked for by a registry's name may be asked for with the client's own login: there,
// at its members, or where an alias leads.
func (c Config) AsksCallers(registry string) bool {
	if u := c.Upstreams[registry]; u != nil && !u.isVirtual() {
		return u.Access == Caller
	} else if u != nil {
		return slices.ContainsFunc(u.Of, c.AsksCallers)
	}
	return slices.ContainsFunc(c.Aliases, func(a Alias) bool {
		from, _ := a.From.cut()
		to, _ := a.To.cut()
		return from == registry && c.AsksCallers(to)
	})
}
