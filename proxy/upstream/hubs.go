// Package upstream is the world outside: the client for the registries that content is pulled from.
//
// Its invariant: a request is made from a Ref and the configuration alone, never from what a client wrote; a secret
// goes only to the host it is for; and whatever an upstream does, the answer is content, or one of the kinds of error
// of package cache, in bounded time and memory.
package upstream

import (
	"context"
	"errors"

	"github.com/tidepool-oci/tidepool/cache"
)

// Hubs is the cache.Source made of all upstream registries.
type Hubs struct{}

var _ cache.Source = (*Hubs)(nil)

// New makes the clients of the configured registries. It reports every fault of the configuration at once and needs
// no network: a registry that is down is no reason not to start.
func New(configs []Config, o Options) (*Hubs, error) {
	return nil, errors.New("upstream: being written")
}

// Resolve asks what a name is, or whether a digest is there. See cache.Source.
func (h *Hubs) Resolve(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	return cache.Answer{}, cache.ErrUnavailable
}

// Open brings content. See cache.Source.
func (h *Hubs) Open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	return cache.Answer{}, cache.ErrUnavailable
}

// Close gives up what runs in the background and closes idle connections. Bodies that are still being read stay good
// until their contexts end.
func (h *Hubs) Close() error { return nil }

// Stats are one upstream's counters since start, and how its endpoints and logins do.
type Stats struct {
	Registry  string
	Requests  uint64 // sent, to endpoints, token servers and where they redirect to
	Failures  uint64 // that an endpoint is to blame for
	Limited   uint64 // refused because of a limit
	Bytes     uint64 // of bodies received
	Fetches   int    // blob downloads under way
	Limit     int    // pulls that the registry grants in a window, as it last said; -1: it did not
	Remaining int    // of them; -1: it did not say
	Endpoints []EndpointStats
	Refused   []string // the usernames of logins that the registry refuses at present
}

// EndpointStats says how one endpoint does.
type EndpointStats struct {
	URL   string
	Up    bool
	Error string // the last failure of an endpoint that is not up
}

// Stats reads the counters of every upstream asked so far, by name.
func (h *Hubs) Stats() []Stats { return nil }
