package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// hub is the client for one registry: its endpoints, its logins, and the ways there.
type hub struct {
	name  string
	agent string // User-Agent

	endpoints []*endpoint
	keys      *keys
	guests    *guests // nil: asked with our keys
	tokens    tokens
	realms    []origin // configured
	guard     *guard
	roads     *roads
	slots     chan struct{} // one for each blob download
	lines     lines         // that bodies come by

	shared  *shared
	own     atomic.Bool // this upstream's own word on being offline
	offline offline
	count   counters
	reserve int // percent of a pull limit
}

// shared is what all hubs have in common.
type shared struct {
	Options
	uplink  line
	tokens  cache.Group[tokenKey, token]
	helpers cache.Group[helperKey, login]
	makers  cache.Group[madeKey, login]
	conns   conns
	offline atomic.Bool
	limits  chan struct{} // full where there is something new to tell of limits
}

// try asks one endpoint after the other until one has an answer.
func (h *hub) try(ctx context.Context, ref cache.Ref, ask func(*endpoint) (cache.Answer, error)) (cache.Answer, error) {
	var v verdict
	endpoints, skipped := order(h.endpoints, time.Now())
	if len(endpoints) > 1 { // an endpoint may have a damaged copy and be well otherwise
		n := cache.DoubtsOf(ctx) % len(endpoints)
		endpoints = slices.Concat(endpoints[n:], endpoints[:n])
	}
	for _, e := range endpoints {
		a, err := h.attempt(ctx, e, ask)
		switch {
		case err == nil:
			return a, nil
		case ctx.Err() != nil:
			return cache.Answer{}, fmt.Errorf("%s: %w", ref, context.Cause(ctx))
		case final(err):
			return cache.Answer{}, fmt.Errorf("%s: %w", ref, err)
		}
		v.add(err)
	}
	for _, e := range skipped {
		v.add(h.outage(e))
	}
	err := v.err(ref)
	if ref.Kind == cache.KindReferrers && errors.Is(err, cache.ErrNotFound) {
		return listAnswer(typeIndex, newIndex(nil)) // as a registry that has the API says of what nobody refers to
	}
	return cache.Answer{}, err
}

// attempt asks e, unless its circuit is open, and notes what that says of it.
func (h *hub) attempt(ctx context.Context, e *endpoint, ask func(*endpoint) (cache.Answer, error)) (cache.Answer, error) {
	leave, err := h.admit(ctx, e)
	if err != nil {
		return cache.Answer{}, err
	}
	defer leave()
	began := time.Now()
	a, err := ask(e)
	_, coming := a.Body.(*body)
	if !coming && (err == nil || ctx.Err() == nil) { // a caller who leaves speaks against nobody
		h.settle(e, began, err)
	}
	return a, err
}

// settle notes how a request at e that began at a time ended: a refusal is an answer, and nothing else that is no content speaks for e.
func (h *hub) settle(e *endpoint, began time.Time, err error) {
	log := h.shared.Log
	var known *unasked
	switch {
	case errors.As(err, &known):
	case toBlame(err):
		h.count.failures.Add(1)
		first, opens := e.health.blame(began, time.Now(), err.Error(), isSilent(err))
		if first || opens {
			log.Warn("an upstream fails", zap.String("registry", h.name), zap.Stringer("endpoint", e.origin), zap.Bool("refusing", opens), zap.Error(err))
		}
	case err == nil, errors.Is(err, cache.ErrNotFound), errors.Is(err, cache.ErrDenied), errors.Is(err, cache.ErrLimited),
		errors.Is(err, cache.ErrUnchanged):
		if e.health.worked() {
			log.Info("an upstream works again", zap.String("registry", h.name), zap.Stringer("endpoint", e.origin))
		}
	}
}

// hurry bounds the time for something small.
func (h *hub) hurry(ctx context.Context, e *endpoint) (context.Context, context.CancelFunc) {
	t := h.shared.Timeouts.Document
	return context.WithTimeoutCause(ctx, t, broken("%s did not finish its answer within %v", e.origin, t))
}

// resolve says what ref is.
func (h *hub) resolve(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	switch ref.Kind {
	case cache.KindBlob:
		return h.try(ctx, ref, func(e *endpoint) (cache.Answer, error) { return h.statBlob(ctx, e, ref) })
	case cache.KindManifest:
		return h.try(ctx, ref, func(e *endpoint) (cache.Answer, error) { return h.statManifest(ctx, e, ref, want) })
	default:
		return h.list(ctx, ref, want)
	}
}

// open brings ref's content.
func (h *hub) open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	switch ref.Kind {
	case cache.KindBlob:
		if err := h.acquire(ctx); err != nil {
			return cache.Answer{}, err
		}
		a, err := h.try(ctx, ref, func(e *endpoint) (cache.Answer, error) { return h.openBlob(ctx, e, ref, want) })
		if err != nil {
			h.release()
		}
		return a, err
	case cache.KindManifest:
		return h.try(ctx, ref, func(e *endpoint) (cache.Answer, error) { return h.openManifest(ctx, e, ref, want) })
	default:
		return h.list(ctx, ref, want)
	}
}

// acquire waits for a slot to download a blob in.
func (h *hub) acquire(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for one of %d downloads from %s to end: %w", cap(h.slots), h.name, context.Cause(ctx))
	}
}

func (h *hub) release() { <-h.slots }
