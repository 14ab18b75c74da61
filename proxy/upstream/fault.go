package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tidepool-oci/tidepool/cache"
)

// fault is why an endpoint gave no content: one of the kinds of package cache, in words, and whether the endpoint is to
// blame, so that others are asked before it for a while.
type fault struct {
	kind   error
	cause  error // more that errors.Is should find; may be nil
	blame  bool
	silent bool // nothing came within a time-out: who asks again at once waits as long
	status int  // of the answer that said no; 0 where there was none
	text   string
}

func (f *fault) Error() string { return f.text }

func (f *fault) Unwrap() []error {
	if f.cause != nil {
		return []error{f.kind, f.cause}
	}
	return []error{f.kind}
}

// broken is a fault of an endpoint that is to blame.
func broken(format string, args ...any) *fault {
	return &fault{kind: cache.ErrUnavailable, blame: true, text: fmt.Sprintf(format, args...)}
}

// refused is a fault that says nothing about the endpoint's health.
func refused(kind error, format string, args ...any) *fault {
	return &fault{kind: kind, text: fmt.Sprintf(format, args...)}
}

// toBlame reports whether err speaks against the endpoint that it came from.
func toBlame(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.blame
}

// isSilent reports whether err is that nothing came at all.
func isSilent(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.silent
}

// timedOut reports whether err is that of a wait that took too long.
func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// doubtful reports whether err may be a server's trouble with the way it was asked and not with what it was asked for:
// with a HEAD, with an API that it does not have. Another way should decide.
func doubtful(err error) bool {
	var f *fault
	if !errors.As(err, &f) || errors.Is(err, cache.ErrDenied) {
		return false
	}
	return f.status >= 400 && f.status < 500 || f.status == http.StatusNotImplemented
}

const (
	maxError  = 64 << 10 // bytes of an answer that is read for its error text
	maxPhrase = 256      // bytes of it that are passed on
)

// clean makes one harmless line of what a stranger wrote: secrets that it may repeat are masked, line breaks and
// control characters (which could forge a log line or steer a terminal) escaped, the rest cut.
func clean(s string, secrets ...Secret) string {
	for _, x := range secrets {
		if len(x) >= 4 { // masking less would garble the text, and tell how short the secret is
			s = strings.ReplaceAll(s, string(x), masked)
		}
	}
	var b strings.Builder
	for _, r := range strings.Join(strings.Fields(s), " ") {
		if b.Len()+utf8.UTFMax > maxPhrase-len("…") {
			b.WriteString("…")
			break
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// verdict gathers why endpoint after endpoint gave no content, and then says what that means in all.
type verdict struct {
	missing, denied, limited, failed error // the first of each sort
}

func (v *verdict) add(err error) {
	keep := func(at *error) {
		if *at == nil {
			*at = err
		}
	}
	switch {
	case errors.Is(err, cache.ErrNotFound):
		keep(&v.missing)
	case errors.Is(err, cache.ErrDenied):
		keep(&v.denied)
	case errors.Is(err, cache.ErrLimited):
		keep(&v.limited)
	default:
		keep(&v.failed)
	}
}

// err is the verdict on ref: "not found" is believed only where nobody failed to answer.
func (v *verdict) err(ref cache.Ref) error {
	for _, err := range []error{v.limited, v.failed, v.denied, v.missing} {
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
	}
	return fmt.Errorf("%s: no endpoint to ask: %w", ref, cache.ErrUnavailable)
}

// final reports whether err is an answer that another endpoint would only repeat.
func final(err error) bool {
	return errors.Is(err, cache.ErrUnchanged) || errors.Is(err, cache.ErrUnsupported) || errors.Is(err, cache.ErrClosed) ||
		errors.Is(err, cache.ErrOffline)
}
