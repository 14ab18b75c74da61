package upstream

import (
	"context"
	"sync"

	"github.com/tidepool-oci/tidepool/cache"
)

// calls runs a slow piece of work once for all who want its result at the same time. The work is nobody's in
// particular: it goes on when the one who began it leaves, and ends at the latest with close. Work must be bounded in
// time by itself.
type calls[K comparable, V any] struct {
	mu      sync.Mutex // guards all below
	running map[K]*call[V]
	closed  bool
	wg      sync.WaitGroup
}

type call[V any] struct {
	done   chan struct{}
	cancel context.CancelFunc
	value  V
	err    error
}

// do returns what work returns, or the end of ctx, whichever comes first.
func (c *calls[K, V]) do(ctx context.Context, key K, work func(context.Context) (V, error)) (V, error) {
	var none V
	one, err := c.join(ctx, key, work)
	if err != nil {
		return none, err
	}
	select {
	case <-one.done:
		return one.value, one.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

func (c *calls[K, V]) join(ctx context.Context, key K, work func(context.Context) (V, error)) (*call[V], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, cache.ErrClosed
	}
	if one := c.running[key]; one != nil {
		return one, nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	one := &call[V]{done: make(chan struct{}), cancel: cancel}
	if c.running == nil {
		c.running = map[K]*call[V]{}
	}
	c.running[key] = one
	c.wg.Go(func() {
		defer cancel()
		one.value, one.err = work(ctx)
		c.mu.Lock()
		delete(c.running, key)
		c.mu.Unlock()
		close(one.done)
	})
	return one, nil
}

// close cancels what runs and waits for it.
func (c *calls[K, V]) close() {
	c.mu.Lock()
	c.closed = true
	for _, one := range c.running {
		one.cancel()
	}
	c.mu.Unlock()
	c.wg.Wait()
}
