// Package upstream is the world outside: the client for the registries that content is pulled from.
//
// Its invariant: a request is made from a Ref and the configuration alone, never from what a client wrote; a secret
// goes only to the host it is for; and whatever an upstream does, the answer is content, or one of the kinds of error
// of package cache, in bounded time and memory.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Hubs is the cache.Source made of all upstream registries.
type Hubs struct {
	shared     *shared
	configured map[string]*hub

	mu      sync.Mutex // guards what follows
	other   []*hub     // registries without a Config, the one asked last at the end
	dormant dormant    // what is known of the limits of those that were among them
}

var _ cache.Source = (*Hubs)(nil)

// maxOther bounds the registries without a Config that are remembered.
const maxOther = 64

// New makes the clients of the configured registries. It reports every fault of the configuration at once, each a
// *ConfigError, and needs no network: a registry that is down is no reason not to start.
func New(configs []Config, o Options) (*Hubs, error) {
	h := &Hubs{shared: &shared{Options: o.withDefaults(), limits: make(chan struct{}, 1)}, configured: map[string]*hub{}}
	h.shared.offline.Store(o.Offline)
	h.shared.uplink.rate = h.shared.Uplink
	var faults []error
	for _, c := range configs {
		one, err := newHub(c, h.shared, true)
		if h.configured[c.Name] != nil {
			err = errors.Join(err, &ConfigError{c.Name, "", errors.New("is there twice")})
		}
		h.configured[c.Name] = one
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	h.restore(o.Ledger)
	return h, nil
}

func (o Options) withDefaults() Options {
	orElse := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	orElse(&o.Timeouts.Connect, 5*time.Second)
	orElse(&o.Timeouts.TLS, 10*time.Second)
	orElse(&o.Timeouts.Headers, 15*time.Second)
	orElse(&o.Timeouts.Stall, 15*time.Second)
	orElse(&o.Timeouts.Document, time.Minute)
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	if o.Uplink == nil {
		o.Uplink = func(time.Time) int64 { return 0 }
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.ID == "" {
		o.ID = "tidepool"
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	return o
}

// Resolve asks what a name is, or whether a digest is there. See cache.Source.
func (h *Hubs) Resolve(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	one, err := h.hubFor(ref, want)
	if err != nil {
		return cache.Answer{}, err
	}
	return one.resolve(ctx, ref, want)
}

// Open brings content. Manifests and lists come whole, whatever part is wanted. See cache.Source.
func (h *Hubs) Open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	one, err := h.hubFor(ref, want)
	if err != nil {
		return cache.Answer{}, err
	}
	return one.open(ctx, ref, want)
}

// hubFor is the hub to ask for ref, if it may be asked.
func (h *Hubs) hubFor(ref cache.Ref, want cache.Want) (*hub, error) {
	one, err := h.hubOf(ref, want)
	if err != nil {
		return nil, err
	}
	if err := one.offline.err(); err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	return one, nil
}

// hubOf is the hub of ref's registry.
func (h *Hubs) hubOf(ref cache.Ref, want cache.Want) (*hub, error) {
	if want.HeldOnly {
		return nil, fmt.Errorf("%s: an upstream holds nothing here: %w", ref, cache.ErrNotHeld)
	}
	if err := check(ref); err != nil {
		return nil, err
	}
	if one := h.configured[ref.Registry]; one != nil {
		return one, nil
	}
	if !h.shared.AnyUpstream {
		return nil, fmt.Errorf("%s: there is no upstream %s; add it under upstreams, or set any_upstream: true: %w",
			ref, ref.Registry, cache.ErrDenied)
	}
	return h.onDemand(ref.Registry)
}

// onDemand is the hub of a registry that nobody has configured.
func (h *Hubs) onDemand(name string) (*hub, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.other, func(one *hub) bool { return one.name == name })
	if i >= 0 {
		one := h.other[i]
		h.other = append(slices.Delete(h.other, i, i+1), one)
		return one, nil
	}
	if u, err := url.Parse("https://" + name); err != nil || u.Host != name || strings.ToLower(name) != name {
		return nil, fmt.Errorf("%q is not the name of a registry: %w", clean(name), cache.ErrDenied)
	}
	one, err := newHub(Config{Name: name}, h.shared, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, cache.ErrDenied)
	}
	if len(h.other) >= maxOther {
		h.dormant.lay(h.other[0].saved(), time.Now())
		h.other[0].roads.closeIdle()
		h.other = slices.Delete(h.other, 0, 1)
	}
	for _, e := range one.endpoints {
		h.dormant.wake(name, e)
	}
	h.other = append(h.other, one)
	return one, nil
}

// Close ends everything: what runs in the background, and every connection, so that bodies still being read break off.
func (h *Hubs) Close() error {
	h.shared.tokens.Close()
	h.shared.helpers.Close()
	h.shared.makers.Close()
	h.shared.conns.close()
	return nil
}

// Stats reads the counters of every configured registry and of those asked on demand of late, by name.
func (h *Hubs) Stats() []Stats {
	var all []Stats
	for _, one := range h.all() {
		all = append(all, one.stats(time.Now()))
	}
	slices.SortFunc(all, func(a, b Stats) int { return strings.Compare(a.Registry, b.Registry) })
	return all
}

func (h *Hubs) all() []*hub {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.other)
	for _, one := range h.configured {
		all = append(all, one)
	}
	return all
}

// check makes sure that ref can be written into a URL's path and nowhere else. What comes from the door is well formed
// already; nothing here relies on it.
func check(ref cache.Ref) error {
	ok := ref.Repo != "" && len(ref.Repo) <= 255
	for part := range strings.SplitSeq(ref.Repo, "/") {
		ok = ok && strings.Trim(part, ".") != "" && only(part, "-._")
	}
	switch ref.Kind {
	case cache.KindManifest:
		ok = ok && ref.Digest.IsZero() != (ref.Tag == "") && (ref.Tag == "" || isTag(ref.Tag))
	case cache.KindTags:
	default:
		ok = ok && !ref.Digest.IsZero()
	}
	if !ok {
		return fmt.Errorf("%q is not the name of anything in a registry: %w", clean(ref.String()), cache.ErrUnsupported)
	}
	return nil
}

// isTag reports whether s is a tag (spec, "Pulling manifests").
func isTag(s string) bool {
	return s != "" && len(s) <= 128 && s[0] != '.' && s[0] != '-' && only(s, "-._")
}

// only reports whether s has only ASCII letters, digits and what is in more.
func only(s, more string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(more, c) >= 0) {
			return false
		}
	}
	return true
}
