package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Lied notes that what a member has sent turned out to be something else.
func (r *Router) Lied(ref cache.Ref, member string) {
	if v := r.View(); v != nil {
		if m, there := v.Members[member]; there {
			r.Remotes.to(m).temper.lied(ref.Digest, time.Now())
			r.log().Warn("another member has sent something else", zap.String("member", member), zap.Stringer("ref", ref))
		}
	}
}

// outage says that nobody can reach a registry: each has tried as often as it does, and who asked need not begin anew.
func outage(registry string, err error) error {
	if already := (*cache.OutageError)(nil); errors.As(err, &already) {
		return err
	}
	return &cache.OutageError{Registry: registry, Until: time.Now(), Why: err.Error()}
}

// accused reports whether a member that may have a thing has sent something else in its place of late, and so is not
// asked for it.
func (r *Router) accused(v *View, ref cache.Ref) bool {
	return slices.ContainsFunc(v.Ring.Owners(KeyOf(ref), near), func(m Member) bool {
		return r.Remotes.to(m).temper.liedAbout(ref.Digest, time.Now())
	})
}

// doubted asks the members for a blob that one of them has sent other bytes of, where the registry cannot be reached: each
// time another one, for who did is not known. err is what the registry said. A manifest is doubted for one answer only.
func (r *Router) doubted(ctx context.Context, v *View, q question, err error) (cache.Answer, error) {
	q.anyhow = true
	order := v.Ring.Owners(KeyOf(q.ref), near)
	for i := range order {
		m := order[(i+q.doubts)%len(order)]
		if m.Name == v.Self {
			continue
		}
		if a, e := r.askHeld(ctx, m, q); e == nil {
			r.count.held.Add(1)
			return a, nil
		}
	}
	return cache.Answer{}, err
}

// cutOff reports whether a member says that it cannot reach the registry: another one may, and its clients need not go
// without because of that. Where the registry is down, each member finds out for itself, and then leaves it alone for a
// while, as it does without others.
func cutOff(err error) bool {
	return errors.Is(err, cache.ErrUnavailable) && !errors.Is(err, errMember) &&
		!errors.Is(err, cache.ErrOffline) && !errors.Is(err, cache.ErrLooped)
}
