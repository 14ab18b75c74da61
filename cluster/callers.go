package cluster

import (
	"context"
	"errors"

	"github.com/tidepool-oci/tidepool/cache"
)

// forCaller answers one whose own login counts. The login goes to no other member: where one of them holds the content,
// the registry is asked by this one whether the caller may have it, and that is all it is asked for.
func (r *Router) forCaller(ctx context.Context, v *View, q question) (cache.Answer, error) {
	if q.resolve || q.ref.Mutable() || q.doubts > 0 {
		return r.hub(ctx, q)
	}
	vouched := q
	vouched.vouched = true
	others := without(r.order(v, q.ref), v.Self)
	a, err := r.held(ctx, others[:min(len(others), former)], vouched)
	if err != nil {
		return r.hub(ctx, q)
	}
	if _, err := r.Next.Resolve(ctx, q.ref, cache.Whole); err != nil {
		return cache.Answer{}, errors.Join(err, a.Body.Close())
	}
	return a, nil
}
