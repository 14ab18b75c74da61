package cache

import (
	"context"
	"sync"
	"time"
)

// group lets one asker ask for all who want the same at the same time. The asking belongs to the group and not to the
// first who came: it goes on when he leaves, and ends with the cache.
type group[K comparable, V any] struct {
	mu      sync.Mutex
	asking  map[K]*asking[V]
	closed  bool
	pending sync.WaitGroup
	stops   map[*asking[V]]context.CancelFunc
}

type asking[V any] struct {
	done   chan struct{}
	answer V
	err    error
}

// longestAsk bounds one asking of a name or a manifest: a few megabytes, over a very slow line.
const longestAsk = 2 * time.Minute

// do returns what fn answers, having called it or having waited for another's call. joined reports the latter.
func (g *group[K, V]) do(ctx context.Context, key K, fn func(context.Context) (V, error)) (v V, joined bool, err error) {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return v, false, ErrClosed
	}
	a, joined := g.asking[key]
	if !joined {
		a = g.ask(ctx, key, fn)
	}
	g.mu.Unlock()
	select {
	case <-a.done:
		return a.answer, joined, a.err
	case <-ctx.Done():
		return v, joined, ctx.Err()
	}
}

// ask starts an asking. g.mu is held.
func (g *group[K, V]) ask(ctx context.Context, key K, fn func(context.Context) (V, error)) *asking[V] {
	a := &asking[V]{done: make(chan struct{})}
	if g.asking == nil {
		g.asking, g.stops = map[K]*asking[V]{}, map[*asking[V]]context.CancelFunc{}
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), longestAsk)
	g.asking[key], g.stops[a] = a, stop
	g.pending.Add(1)
	go func() {
		defer g.pending.Done()
		defer close(a.done)
		a.answer, a.err = fn(ctx)
		g.mu.Lock()
		defer g.mu.Unlock()
		stop()
		delete(g.asking, key)
		delete(g.stops, a)
	}()
	return a
}

// close ends what is being asked and waits for it.
func (g *group[K, V]) close() {
	g.mu.Lock()
	g.closed = true
	for _, stop := range g.stops {
		stop()
	}
	g.mu.Unlock()
	g.pending.Wait()
}
