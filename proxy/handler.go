// Package proxy is the door: the pull side of the OCI distribution API (version 1.1), spoken to any client, over
// content that a Store holds or brings.
//
// Its invariant: the only way from a client to an upstream is a cache.Ref that the grammar made. Nothing else of a
// request, neither its text nor its headers, ever leaves, selects other bytes or names a host to dial.
package proxy

import (
	"context"
	"net/http"
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

	// ID is this instance in Via headers, a token without spaces or commas: a request that names it already came
	// through here and is refused, or it would go round for ever. "": loops are not looked for.
	ID string

	Log     *zap.Logger    // gets one line per request; nil: silence
	Observe func(Exchange) // is told of each request when it is over, from its own goroutine; nil: nobody is
}

// Names says which upstreams there are, and by which names requests mean them.
type Names struct {
	Upstreams map[string]Upstream // by configured name, in lower case: "docker.io", "registry.corp:5000", "all"
	Default   string              // the upstream of names without a host; "": such names are refused
	Hosts     map[string]string   // Host headers, in lower case, with or without a port, and the upstream each means
	Any       bool                // registries that are not configured may be asked for by their host name too
}

// Upstream is what the grammar needs to know of one.
type Upstream struct {
	Library bool // a name of one component lives under library/, as on Docker Hub
	Prefix  bool // its name may begin a path although it does not look like a host
}

// Exchange is what there is to say of a request when it is over.
type Exchange struct {
	Began     time.Time
	Took      time.Duration
	First     time.Duration // until the first byte of the answer; 0: there was none
	Method    string
	Ref       cache.Ref // zero where the request named nothing
	Digest    string    // of what was served; "" where nothing was
	Status    int       // 499: the client left before there was an answer
	Sent      int64     // bytes of body
	Tier      string    // where content came from, as cache.Tier spells it; "" where none was served
	Client    string    // the address that asked
	UserAgent string
	ID        string // the request's, as in X-Request-Id
	Err       error  // why the answer is no success, or was cut off; nil: it went well
	Torn      bool   // the connection was cut in the middle of the answer
	Panicked  bool   // the fault is ours: Err is what was recovered
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
