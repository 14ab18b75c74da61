package upstream

import (
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// offline is an operator's word that nobody is to be asked. It is looked at before a request is made, so that nothing
// waits, and again before a connection is opened, so that there is no way round it. What is under way when it is given
// may end. The zero value lets everything pass.
type offline struct {
	registry string
	all, own *atomic.Bool
}

// err is the refusal to ask anybody; nil: anybody may be asked.
func (o offline) err() error {
	switch {
	case o.all == nil:
	case o.all.Load():
		return refused(cache.ErrOffline, "tidepool is offline, and does not hold this")
	case o.own.Load():
		return refused(cache.ErrOffline, "tidepool is offline for %s, and does not hold this", o.registry)
	}
	return nil
}

// SetOffline says from now on whether anybody may be asked: of one configured upstream, or of all for "". An upstream
// is offline where either was said. It reports false where there is no such upstream. A restart forgets it: then the
// configuration decides again.
func (h *Hubs) SetOffline(registry string, on bool) (known bool) {
	to, affected := &h.shared.offline, h.all()
	if registry != "" {
		one := h.configured[registry]
		if one == nil {
			return false
		}
		to, affected = &one.own, []*hub{one}
	}
	if to.Swap(on) == on {
		return true
	}
	if registry == "" {
		registry = "all"
	}
	h.shared.Log.Info("offline mode was switched", zap.String("registry", registry), zap.Bool("offline", on))
	for _, one := range affected {
		if one.offline.err() != nil {
			one.roads.closeIdle()
		}
	}
	return true
}

// Offline is what was last said: of all upstreams, and of each that is configured.
func (h *Hubs) Offline() (all bool, upstreams map[string]bool) {
	upstreams = map[string]bool{}
	for name, one := range h.configured {
		upstreams[name] = one.own.Load()
	}
	return h.shared.offline.Load(), upstreams
}
