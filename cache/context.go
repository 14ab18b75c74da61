package cache

import "context"

// Who asks, how urgently and over how many hops travel beside the Ref, as values of the context. A flight keeps the
// values of the one who began it, but not his cancellation.

// Caller names an identity whose permission counts; "" is anyone, served with tidepool's own credentials.
type Caller string

// Urgency orders who goes first where the uplink is short.
type Urgency uint8

// Interactive is a client that waits. It is the only urgency so far.
const Interactive Urgency = 0

type (
	callerKey  struct{}
	urgencyKey struct{}
	hopsKey    struct{}
	doubtsKey  struct{}
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

// UrgencyOf is how urgent the asker is.
func UrgencyOf(ctx context.Context) Urgency {
	u, _ := ctx.Value(urgencyKey{}).(Urgency)
	return u
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
