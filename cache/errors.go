package cache

import (
	"errors"
	"fmt"
	"time"
)

// The kinds of failure. Rooms wrap them with what failed, on what and why; the door turns the kind into a status.
var (
	ErrNotFound    = errors.New("not found")       // the upstream says there is no such thing
	ErrDenied      = errors.New("denied")          // the upstream refuses this caller or this repository, for good
	ErrUnavailable = errors.New("unavailable")     // no answer, or none that can be used: down, broken, too slow
	ErrLimited     = errors.New("rate limited")    // asked too often; see LimitedError
	ErrCorrupt     = errors.New("corrupt")         // the bytes are not those that the digest names
	ErrUnsupported = errors.New("unsupported")     // there, but of a form that we refuse: schema 1, too large, no manifest
	ErrUnchanged   = errors.New("unchanged")       // the name still is Want.Known
	ErrNotHeld     = errors.New("not held")        // Want.HeldOnly, and it has not landed here
	ErrNoRoom      = errors.New("no room on disk") // for what is fetched to be kept, and for no client
	ErrClosed      = errors.New("shutting down")

	// ErrLooped: the way to the upstream leads back here. It is an ErrUnavailable too, and no sign of an outage.
	ErrLooped = fmt.Errorf("a loop, and so %w", ErrUnavailable)

	// ErrOffline: nobody may be asked, by the configuration or by an operator's word. It is an ErrUnavailable too.
	ErrOffline = fmt.Errorf("offline, and so %w", ErrUnavailable)
)

// LimitedError says whose limit was reached and until when.
type LimitedError struct {
	Registry string
	Of       string    // what is counted, as below; empty: not known
	Whose    string    // the address or account that the limit counts, where the upstream tells
	Until    time.Time // when to ask again; zero: not told
	Detail   string    // the upstream's own words, cleaned and shortened
}

// What a limit may be on.
const (
	LimitOnPulls    = "pulls"    // GETs of manifests
	LimitOnRequests = "requests" // of any kind
)

func (e *LimitedError) Error() string {
	s := e.Registry + " limits"
	switch {
	case e.Of != "" && e.Whose != "":
		s += " " + e.Of + " of " + e.Whose
	case e.Of != "" || e.Whose != "":
		s += " " + e.Of + e.Whose
	}
	if !e.Until.IsZero() {
		s += " until " + e.Until.UTC().Format(time.RFC3339)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Is makes a LimitedError an ErrLimited.
func (e *LimitedError) Is(target error) bool { return target == ErrLimited }

// OutageError says that a registry was not asked, because it has just failed others, and when it will be asked again.
type OutageError struct {
	Registry string
	Until    time.Time
	Why      string // the last failure
}

func (e *OutageError) Error() string {
	return e.Registry + " is not asked before " + e.Until.UTC().Format(time.RFC3339) + ": " + e.Why
}

// Is makes an OutageError an ErrUnavailable.
func (e *OutageError) Is(target error) bool { return target == ErrUnavailable }

// final reports whether err is an answer rather than a failure to get one: asking again at once changes nothing.
func final(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrLimited) ||
		errors.Is(err, ErrUnsupported) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotHeld) || errors.Is(err, ErrLooped) || errors.Is(err, ErrOffline)
}

// personal reports whether err concerns only the one who asked: others may be answered otherwise.
func personal(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrLimited)
}

func corrupt(ref Ref, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", ref, fmt.Sprintf(format, args...), ErrCorrupt)
}
