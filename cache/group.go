package cache

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Group lets one asker ask for all who want the same at the same time. The asking belongs to the group and not to the
// first who came: it goes on when he leaves, and ends with Close, or after two minutes. The zero value is ready.
type Group[K comparable, V any] struct {
	mu      sync.Mutex
	asking  map[K]*asking[V]
	closed  bool
	pending sync.WaitGroup
}

type asking[V any] struct {
	began  time.Time
	stop   context.CancelFunc
	done   chan struct{}
	answer V
	err    error
}

// longestAsk bounds one asking of a name or a manifest: a few megabytes, over a very slow line.
const longestAsk = 2 * time.Minute

// errSlow says that an answer takes longer than somebody had patience.
var errSlow = errors.New("no answer yet")

// Do returns what fn answers, having called it or having waited for another's call. joined reports the latter. It
// waits until the asking is as old as patience, and then returns errSlow; 0: for as long as it takes, which ctx may cut
// short. After Close the error is ErrClosed.
func (g *Group[K, V]) Do(ctx context.Context, key K, patience time.Duration,
	fn func(context.Context) (V, error)) (v V, joined bool, err error) {
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
	var late <-chan time.Time
	if patience > 0 {
		t := time.NewTimer(time.Until(a.began.Add(patience)))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-a.done:
		return a.answer, joined, a.err
	case <-late:
		return v, joined, errSlow
	case <-ctx.Done():
		return v, joined, context.Cause(ctx)
	}
}

// Start has fn called, unless the same is being asked already, and does not wait for it.
func (g *Group[K, V]) Start(ctx context.Context, key K, fn func(context.Context) (V, error)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asking[key] == nil && !g.closed {
		g.ask(ctx, key, fn)
	}
}

// ask starts an asking. g.mu is held.
func (g *Group[K, V]) ask(ctx context.Context, key K, fn func(context.Context) (V, error)) *asking[V] {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), longestAsk)
	a := &asking[V]{began: time.Now(), stop: stop, done: make(chan struct{})}
	if g.asking == nil {
		g.asking = map[K]*asking[V]{}
	}
	g.asking[key] = a
	g.pending.Go(func() {
		defer close(a.done)
		defer stop()
		a.answer, a.err = fn(ctx)
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.asking, key)
		if g.closed && a.err != nil {
			a.err = ErrClosed
		}
	})
	return a
}

// Close ends what is being asked and waits for it.
func (g *Group[K, V]) Close() {
	g.mu.Lock()
	g.closed = true
	for _, a := range g.asking {
		a.stop()
	}
	g.mu.Unlock()
	g.pending.Wait()
}
