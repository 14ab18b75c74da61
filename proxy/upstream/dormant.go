package upstream

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// dormant is what is known of the limits of registries without a Config that are not among those asked of late: of the
// last process's, or of this one's. Each endpoint takes what is its own when it is met again.
type dormant map[place]savedEndpoint

// place is an endpoint of a registry.
type place struct{ registry, url string }

// maxDormant is as many as are asked of late at most: clients name such registries, so that there must be a bound, and
// beyond it those go first whose limits end first. Forgetting one costs a refusal, after which it is known again.
const maxDormant = maxOther

// lay puts away what is known, as long as it may matter.
func (d *dormant) lay(known []savedEndpoint, now time.Time) {
	if *d == nil {
		*d = dormant{}
	}
	for _, s := range known {
		(*d)[place{s.Registry, s.URL}] = s.believed(now)
	}
	maps.DeleteFunc(*d, func(_ place, s savedEndpoint) bool { return !s.matters().After(now) })
	for len(*d) > maxDormant {
		delete(*d, slices.MinFunc(slices.Collect(maps.Keys(*d)), func(a, b place) int {
			return cmp.Or((*d)[a].matters().Compare((*d)[b].matters()), cmp.Compare(a.registry, b.registry))
		}))
	}
}

// wake gives an endpoint what is known of it.
func (d dormant) wake(registry string, e *endpoint) {
	at := place{registry, e.base.String()}
	if s, ok := d[at]; ok {
		delete(d, at)
		e.restore(s)
	}
}

// matters is until when: the longest of what is left of a window, a refusal, and a pace that was learned.
func (s savedEndpoint) matters() time.Time {
	last := s.Quiet
	if s.Learnt > 0 {
		last = later(last, s.Refused.Add(forgetPace))
	}
	for _, a := range s.Accounts {
		last = later(last, later(a.Blocked, a.Said.Add(time.Duration(a.Window)*time.Second)))
	}
	return last
}

// onDemandSaved is what is known of the limits of registries without a Config, asked of late or not, in a fixed order.
func (h *Hubs) onDemandSaved() (all []savedEndpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, one := range h.other {
		all = append(all, one.saved()...)
	}
	all = slices.AppendSeq(all, maps.Values(h.dormant))
	slices.SortFunc(all, func(a, b savedEndpoint) int {
		return cmp.Or(cmp.Compare(a.Registry, b.Registry), cmp.Compare(a.URL, b.URL))
	})
	return all
}
