package containerdtest

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/plugins/content/local"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// client pulls in containerd's way, by its resolver and its handlers, into its store, which proves each digest.
type client struct {
	certs   string // the directory of hosts.toml
	pool    string // the address of tidepool
	hub     *hub   // what any other address leads to
	store   content.Store
	options []transfer.ImageResolverOption
	warned  docker.WarningHandler

	mu         sync.Mutex
	asked      map[string]int // of tidepool: requests for manifests, by the image's name without its registry
	transports []*http.Transport

	ranged atomic.Int32 // requests for a part of a blob
}

func newClient(t *testing.T, p *tidepool, certs string) *client {
	t.Helper()
	store, err := local.NewStore(t.TempDir())
	must(t, err)
	c := &client{certs: certs, pool: p.addr, hub: newHub(t), store: store, asked: map[string]int{}}
	t.Cleanup(func() { // or tidepool would wait for requests on them
		for _, t := range c.transports {
			t.CloseIdleConnections()
		}
	})
	return c
}

// resolver is one pull's, as containerd makes them.
func (c *client) resolver(ctx context.Context) remotes.Resolver {
	r := docker.NewResolver(docker.ResolverOptions{
		Hosts: config.ConfigureHosts(ctx, config.HostOptions{
			HostDir:      config.HostDirFromRoot(c.certs),
			UpdateClient: func(h *http.Client) error { h.Transport = c.lead(h.Transport.(*http.Transport)); return nil },
		}),
		WarningHandler: c.warned,
	})
	r.(remotes.ResolverWithOptions).SetOptions(c.options...)
	return r
}

// lead counts what is asked, and has every connection that is not for tidepool come to the hub.
func (c *client) lead(t *http.Transport) http.RoundTripper {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transports = append(c.transports, t)
	t.Proxy = nil
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != c.pool {
			addr = c.hub.addr
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	return counted(func(r *http.Request) (*http.Response, error) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/"); ok && r.URL.Host == c.pool {
			c.mu.Lock()
			c.asked[name]++
			c.mu.Unlock()
		}
		if r.Header.Get("Range") != "" && strings.Contains(r.URL.Path, "/blobs/") {
			c.ranged.Add(1)
		}
		return t.RoundTrip(r)
	})
}

type counted func(*http.Request) (*http.Response, error)

func (f counted) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// pull brings the whole image, for all platforms.
func (c *client) pull(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	r := c.resolver(ctx)
	name, top, err := r.Resolve(ctx, ref)
	if err != nil {
		return top, err
	}
	fetcher, err := r.Fetcher(ctx, name)
	if err != nil {
		return top, err
	}
	each := images.Handlers(remotes.FetchHandler(c.store, fetcher), images.ChildrenHandler(c.store))
	return top, images.Dispatch(ctx, each, nil, top)
}

// hub is a fake one at a second loopback address that counts who comes.
type hub struct {
	addr  string
	conns atomic.Int32
}

func newHub(t *testing.T) *hub {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.2:0")
	must(t, err)
	h := &hub{addr: l.Addr().String()}
	s := &http.Server{ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			h.conns.Add(1)
		}
	}, Handler: http.NotFoundHandler()}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return h
}
