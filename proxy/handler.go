// Package proxy is the door: the pull side of the OCI distribution API (version 1.1), spoken to any client, over
// content that a Store holds or brings.
//
// Its invariant: the only way from a client to an upstream is a cache.Ref that the grammar made. Nothing else of a
// request, neither its text nor its headers, ever leaves, selects other bytes or names a host to dial.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Store is what the door serves from. *cache.Cache is one.
type Store interface {
	Stat(ctx context.Context, ref cache.Ref) (cache.Found, error)
	Open(ctx context.Context, ref cache.Ref, want cache.Want) (*cache.Blob, error)
}

// Handler answers the API. It must not change once it serves.
type Handler struct {
	Store Store
	Names Names

	// Candidates says under which names a thing is to be looked for, in order: aliases and virtual upstreams. None: under
	// its own. An error says, to the client too, why it is looked for nowhere. nil: every name stands for itself.
	Candidates func(asked cache.Ref) ([]cache.Ref, error)
	// DeniedIsMissing reports whether a registry that says denied may mean that there is no such thing; nil: none does.
	DeniedIsMissing func(registry string) bool
	Memory          Memory   // of what was found where; nil: every place is asked each time
	Tunnels         *Tunnels // for clients that take us for their proxy; nil: we are none
	Stead           Stead    // which logins stand in for clients that send none; nil: none do

	// ID is this instance in Via headers, a token without spaces or commas: a request that names it already came
	// through here and is refused, or it would go round for ever. "": loops are not looked for.
	ID string

	// Hold is for how long a request waits for the end of an upstream's limit, where that is known to be so near; 0:
	// it does not.
	Hold time.Duration

	Log     *zap.Logger    // gets one line per request; nil: silence
	Observe func(Exchange) // is told of each request when it is over, by the goroutine that served it; nil: nobody is

	waiting atomic.Int32 // for the end of a limit
}

// Exchange is what there is to say of a request when it is over.
type Exchange struct {
	Began     time.Time
	Took      time.Duration
	First     time.Duration // until the first byte of the answer; 0: there was none
	Method    string
	Ref       cache.Ref // the name that answered, or that was asked last; zero where the request named nothing
	Asked     string    // the repository, its registry first, as the client called it; "": as Ref does
	Digest    string    // of what was served; "" where nothing was
	Status    int       // 499: the client left before there was an answer
	Sent      int64     // bytes of body
	Tier      string    // where content came from, as cache.Tier spells it; "" where none was served
	Client    string    // the address that asked
	UserAgent string
	ID        string        // the request's, as in X-Request-Id
	Err       error         // why the answer is no success, or was cut off; nil: it went well
	Limited   *Refused      // who was refused because an upstream limits us, by whatever status; nil: nobody was
	Held      time.Duration // of Took: waiting for the end of a limit
	Torn      bool          // the connection was cut in the middle of the answer
	Panicked  bool          // the fault is ours: Err is what was recovered
}

// ServeHTTP answers one request. It panics with http.ErrAbortHandler where an answer had to be cut off, so that
// nobody takes a part for the whole.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := newAnswer(w, r)
	defer h.conclude(a)
	a.err = h.serve(a)
}

// conclude tells what went wrong, if it still can be told, and writes the request's line.
func (h *Handler) conclude(a *answer) {
	if v := recover(); v != nil {
		a.panicked = true
		a.err = fmt.Errorf("panic: %v", v)
		if h.Log != nil {
			h.Log.Error("panic", zap.Any("value", v), zap.String("request_id", a.id),
				zap.ByteString("stack", debug.Stack()))
		}
	}
	a.finish()
	h.record(a)
	if a.torn {
		panic(http.ErrAbortHandler)
	}
}

// serve reads the request and answers it. The error says why it is no success.
func (h *Handler) serve(a *answer) error {
	if over, err := h.forward(a); over {
		return err
	}
	if err := admit(a.r); err != nil {
		return err
	}
	ctx, err := h.hops(a.r)
	if err != nil {
		return err
	}
	if err := h.read(a); err != nil {
		return err
	}
	err = h.reply(ctx, a)
	if !errors.Is(err, cache.ErrLimited) {
		return err
	}
	if again, err := h.sitOut(ctx, a, err); !again {
		return err
	}
	return h.reply(ctx, a)
}

// reply answers what was asked.
func (h *Handler) reply(ctx context.Context, a *answer) error {
	switch {
	case a.ask.root:
		if err := h.knock(a); err != nil {
			return err
		}
		return a.root()
	case a.ask.ref.Kind == cache.KindTags:
		return h.tags(ctx, a)
	case a.ask.ref.Kind == cache.KindReferrers:
		return h.referrers(ctx, a)
	case len(a.ask.places) > 0:
		return h.pick(ctx, a)
	default:
		ctx, err := h.turn(ctx, a, a.ask.ref)
		if err != nil {
			return err
		}
		return h.content(ctx, a)
	}
}

// read is no part of serve, whose frame stays on the stack of every client while it reads its answer.
//
//go:noinline
func (h *Handler) read(a *answer) (err error) {
	if a.ask, err = h.Names.read(a.r); err != nil {
		return err
	}
	return h.place(a)
}

// admit refuses what is no pull, whatever it is about.
func admit(r *http.Request) error {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return errMethod
	case r.ContentLength != 0:
		return errBody
	}
	return nil
}

// A chain of proxies longer than this is a loop of ones that do not know each other.
const maxHops = 16

// hops passes the proxies that a request came through on to whoever asks an upstream, or finds that it came round.
func (h *Handler) hops(r *http.Request) (context.Context, error) {
	lines := r.Header["Via"]
	if len(lines) == 0 {
		return r.Context(), nil
	}
	via := strings.Join(lines, ", ")
	n := 0
	for hop := range strings.SplitSeq(via, ",") {
		by := strings.Fields(hop) // the protocol, then who received by it (RFC 9110, section 7.6.3)
		if n++; n > maxHops || len(by) > 1 && by[1] == h.ID {
			return nil, refuse(looped, "the request came here in a loop, by way of %s: "+
				"an upstream of this tidepool leads back to it", via)
		}
	}
	return cache.WithHops(r.Context(), via), nil
}

// record writes the one line of a request.
func (h *Handler) record(a *answer) {
	if h.Log == nil && h.Observe == nil {
		return
	}
	x := a.exchange()
	if h.Observe != nil {
		h.Observe(x)
	}
	if h.Log == nil {
		return
	}
	level := zap.InfoLevel
	if x.Status >= 500 {
		level = zap.WarnLevel
	}
	if line := h.Log.Check(level, "request"); line != nil {
		line.Write(x.fields(a.r.URL.Path)...)
	}
}

// Texts that strangers choose are cut in the log: an address or a name of a client is longer than this only to annoy.
const maxLogged = 256

// fields are x as the log has it. path stands for the names where there are none.
func (x *Exchange) fields(path string) []zap.Field {
	f := make([]zap.Field, 0, 17)
	f = append(f, zap.String("method", x.Method))
	if x.Ref.Registry == "" {
		f = append(f, zap.String("path", short(path)))
	} else {
		f = append(f, zap.String("registry", x.Ref.Registry), zap.String("repo", x.Ref.Repo),
			zap.Stringer("kind", x.Ref.Kind), zap.String("ref", x.Ref.Tag), zap.String("digest", x.Digest))
	}
	if x.Asked != "" {
		f = append(f, zap.String("asked", x.Asked))
	}
	f = append(f, zap.Int("status", x.Status), zap.Int64("bytes", x.Sent),
		zap.Float64("duration_s", x.Took.Seconds()), zap.Float64("ttfb_s", x.First.Seconds()),
		zap.String("tier", x.Tier), zap.String("client", x.Client),
		zap.String("user_agent", short(x.UserAgent)), zap.String("request_id", x.ID))
	if x.Torn {
		f = append(f, zap.Bool("torn", true))
	}
	if x.Held > 0 {
		f = append(f, zap.Float64("held_s", x.Held.Seconds()))
	}
	if x.Limited != nil {
		f = append(f, zap.Bool("limited", true), zap.String("fallback", string(x.Limited.Fallback)))
	}
	if x.Err != nil {
		f = append(f, zap.Error(x.Err))
	}
	return f
}

func short(s string) string { return s[:min(len(s), maxLogged)] }

// peer is the address that asked, without its port.
func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
