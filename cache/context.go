package cache

import (
	"context"
	"fmt"
	"io"
)

// Who asks, how urgently and over how many hops travel beside the Ref, as values of the context. A flight keeps the
// values of the one who began it, but not his cancellation.

// Caller names an identity whose permission counts; "" is anyone, served with tidepool's own credentials. It is no
// secret: nothing can be learned from it but whether two who asked were the same.
type Caller string

// Login is what a caller shows of itself, for the registry that is asked in its name and for nobody else. It never
// prints. The zero Login is that of one who shows nothing.
type Login struct{ Username, Password string }

// Format hides the login from every verb of package fmt.
func (l Login) Format(f fmt.State, _ rune) {
	if l != (Login{}) {
		_, _ = io.WriteString(f, "***")
	}
}

// MarshalText hides the login from JSON, YAML and the like.
func (l Login) MarshalText() ([]byte, error) { return fmt.Append(nil, l), nil }

// Urgency orders who goes first where the uplink is short.
type Urgency uint8

// The urgencies, the most urgent first.
const (
	Interactive  Urgency = iota // a client waits
	Revalidation                // a name has aged, and was served all the same
	Warming                     // content is fetched ahead
	Repair                      // a copy is missing where another one is
)

type (
	callerKey  struct{}
	loginKey   struct{}
	urgencyKey struct{}
	hopsKey    struct{}
	doubtsKey  struct{}
	spareKey   struct{}
	directKey  struct{}
	waitKey    struct{}
	keepKey    struct{}
)

// WithCaller returns ctx with c as the one who asks.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf is who asks; "" where nobody in particular does.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// WithLogin returns ctx with what the caller shows of itself. It lives as long as what is asked for with ctx, and is kept
// nowhere else.
func WithLogin(ctx context.Context, l Login) context.Context {
	return context.WithValue(ctx, loginKey{}, l)
}

// LoginOf is what WithLogin set.
func LoginOf(ctx context.Context) Login {
	l, _ := ctx.Value(loginKey{}).(Login)
	return l
}

// WithUrgency returns ctx for an asker of some urgency.
func WithUrgency(ctx context.Context, u Urgency) context.Context {
	return context.WithValue(ctx, urgencyKey{}, u)
}

// UrgencyOf is how urgent the asker is, now: what several wait for is as urgent as it is to the most urgent of them.
func UrgencyOf(ctx context.Context) Urgency {
	switch u := ctx.Value(urgencyKey{}).(type) {
	case Urgency:
		return u
	case func() Urgency:
		return u()
	}
	return Interactive
}

// withLiveUrgency returns ctx for what others come and go to wait for.
func withLiveUrgency(ctx context.Context, urgency func() Urgency) context.Context {
	return context.WithValue(ctx, urgencyKey{}, urgency)
}

// WithHops returns ctx with the proxies that a request came through so far, nearest last, in the form of HTTP's Via
// header ("1.1 name, 1.1 name"): an upstream hears of them, and one that finds itself among them breaks the loop.
func WithHops(ctx context.Context, via string) context.Context {
	return context.WithValue(ctx, hopsKey{}, via)
}

// HopsOf is what WithHops set; "" for a request that came straight from its client.
func HopsOf(ctx context.Context) string {
	v, _ := ctx.Value(hopsKey{}).(string)
	return v
}

// WithSpare returns ctx for an asker who has something that will do: what is scarce, as the pulls that a registry
// grants, is not to be spent on it.
func WithSpare(ctx context.Context) context.Context {
	return context.WithValue(ctx, spareKey{}, true)
}

// SpareOf reports whether what is held will do.
func SpareOf(ctx context.Context) bool {
	spare, _ := ctx.Value(spareKey{}).(bool)
	return spare
}

// WithDirect returns ctx for an asker who must be answered without another member of the cluster being asked to fetch
// anything: it is one itself, and may be waiting for that one.
func WithDirect(ctx context.Context) context.Context {
	return context.WithValue(ctx, directKey{}, true)
}

// DirectOf reports whether no other member may be asked to fetch anything, now: of what several wait for, that is so if
// it is so for one of them.
func DirectOf(ctx context.Context) bool {
	switch d := ctx.Value(directKey{}).(type) {
	case bool:
		return d
	case func() bool:
		return d()
	}
	return false
}

// MayWait tells those who wait for an answer that another member is asked for it, or with "" that none is any more, and
// reports whether that may be: not for those whom DirectOf is about, who are told so before they are heard of here.
func MayWait(ctx context.Context, member string) bool {
	if tell, ok := ctx.Value(waitKey{}).(func(member string) bool); ok {
		return tell(member)
	}
	return member == "" || !DirectOf(ctx)
}

// withWait returns ctx for what MayWait is told.
func withWait(ctx context.Context, tell func(member string) bool) context.Context {
	return context.WithValue(ctx, waitKey{}, tell)
}

// withLiveDirect returns ctx for what others come and go to wait for.
func withLiveDirect(ctx context.Context, direct func() bool) context.Context {
	return context.WithValue(ctx, directKey{}, direct)
}

// WithKeep returns ctx for an asker who wants what is opened to stay here, held or fetched, whoever else keeps it.
func WithKeep(ctx context.Context) context.Context {
	return context.WithValue(ctx, keepKey{}, true)
}

// KeepOf is what WithKeep set.
func KeepOf(ctx context.Context) bool {
	keep, _ := ctx.Value(keepKey{}).(bool)
	return keep
}

// WithDoubts returns ctx for content of which so many of the last answers turned out to be something else: a source
// that has several places to ask should begin with another one each time.
func WithDoubts(ctx context.Context, times int) context.Context {
	return context.WithValue(ctx, doubtsKey{}, times)
}

// DoubtsOf is what WithDoubts set; 0 where nothing is in doubt.
func DoubtsOf(ctx context.Context) int {
	n, _ := ctx.Value(doubtsKey{}).(int)
	return n
}
