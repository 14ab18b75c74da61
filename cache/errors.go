package cache

import (
	"errors"
	"fmt"
	"time"
)

// The kinds of failure. Rooms wrap them with what failed, on what and why; the door turns the kind into a status.
var (
	ErrNotFound    = errors.New("not found")    // the upstream says there is no such thing
	ErrDenied      = errors.New("denied")       // the upstream refuses this caller or this repository, for good
	ErrUnavailable = errors.New("unavailable")  // no answer, or none that can be used: down, broken, too slow
	ErrLimited     = errors.New("rate limited") // asked too often; see LimitedError
	ErrCorrupt     = errors.New("corrupt")      // the bytes are not those that the digest names
	ErrUnsupported = errors.New("unsupported")  // there, but of a form that we refuse: schema 1, too large, no manifest
	ErrUnchanged   = errors.New("unchanged")    // the name still is Want.Known
	ErrNotHeld     = errors.New("not held")     // Want.HeldOnly, and it has not landed here
	ErrClosed      = errors.New("shutting down")

	// ErrOffline: nobody may be asked, by the configuration or by an operator's word. It is an ErrUnavailable too.
	ErrOffline = fmt.Errorf("offline, and so %w", ErrUnavailable)
)

// LimitedError says whose limit was reached and until when.
type LimitedError struct {
	Registry string
	Of       string    // what is counted, "pulls" or "requests" of any kind; empty: not known
	Whose    string    // the address or account that the limit counts, where the upstream tells
	Until    time.Time // when to ask again; zero: not told
	Detail   string    // the upstream's own words, cleaned and shortened
}

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

// final reports whether err is an answer rather than a failure to get one: asking again at once changes nothing.
func final(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrLimited) ||
		errors.Is(err, ErrUnsupported) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotHeld)
}

// personal reports whether err concerns only the one who asked: others may be answered otherwise.
func personal(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrLimited)
}

func corrupt(ref Ref, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", ref, fmt.Sprintf(format, args...), ErrCorrupt)
}
