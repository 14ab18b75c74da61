package upstream

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

func steady(rate int64) func(time.Time) int64 { return func(time.Time) int64 { return rate } }

// pull takes pieces from a line until ctx ends and counts what came.
func pull(ctx context.Context, l *line, piece int, came *atomic.Int64) {
	for {
		came.Add(int64(piece))
		if l.take(ctx, piece) != nil {
			return
		}
	}
}

// TestLine: all together get what there is, to a hundredth.
func TestLine(t *testing.T) {
	for _, n := range []int{1, 50} {
		synctest.Test(t, func(t *testing.T) {
			const rate, seconds = 20_000_000, 30
			l := &line{rate: steady(rate)}
			ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second)
			defer cancel()
			var came atomic.Int64
			for range n {
				go pull(ctx, l, 128<<10, &came)
			}
			<-ctx.Done()
			synctest.Wait()
			if got := came.Load() - int64(n)*128<<10; got < rate*seconds*99/100 || got > rate*seconds*1005/1000 {
				t.Errorf("%d downloads: %d bytes in %d s", n, got, seconds)
			}
		})
	}
}

// TestUrgentFirst: a client that comes while the line is busy with less urgent things has nearly all of it at once.
func TestUrgentFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 20_000_000
		l := &line{rate: steady(rate)}
		var warmed, pulled, repaired atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		for range 20 {
			go pull(cache.WithUrgency(ctx, cache.Warming), l, 512<<10, &warmed)
			go pull(cache.WithUrgency(ctx, cache.Repair), l, 512<<10, &repaired)
		}
		time.Sleep(10 * time.Second)
		if got := repaired.Load(); got > 20*512<<10 {
			t.Errorf("%d bytes of repair before the warming", got)
		}
		client, leave := context.WithTimeout(ctx, time.Second)
		defer leave()
		before := warmed.Load()
		go pull(client, l, 512<<10, &pulled)
		<-client.Done()
		synctest.Wait()
		if got := pulled.Load(); got < rate*9/10 {
			t.Errorf("the client had %d of %d bytes in its first second, warming %d", got, rate, warmed.Load()-before)
		}
		time.Sleep(10 * time.Second)
		if got := warmed.Load() - before; got < rate*9 {
			t.Errorf("warming had %d bytes in the ten seconds after", got)
		}
		cancel()
		synctest.Wait()
	})
}

// TestLineByTheHour: the rate may change while somebody waits, and end.
func TestLineByTheHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		night := time.Now().Add(time.Hour)
		l := &line{rate: func(now time.Time) int64 {
			if now.Before(night) {
				return 10
			}
			return 0
		}}
		for range 100 {
			go func() { _ = l.take(t.Context(), 1<<20) }()
		}
		time.Sleep(time.Hour + 2*time.Second)
		began := time.Now()
		if err := l.take(t.Context(), 1<<30); err != nil || time.Since(began) > 0 {
			t.Errorf("waited %v, %v", time.Since(began), err)
		}
		synctest.Wait()
		if len(l.waiting) > 0 {
			t.Errorf("%d still wait", len(l.waiting))
		}
	})
}

// TestLineLeft: who has lost patience holds up nobody.
func TestLineLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{rate: steady(1000)}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("no patience"))
		defer cancel()
		_ = l.take(ctx, 1000)
		if err := l.take(ctx, 1000); err == nil || err.Error() != "no patience" {
			t.Errorf("%v", err)
		}
		began := time.Now()
		if err := l.take(t.Context(), 1); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
	var none *line
	if err := none.take(t.Context(), 1<<40); err != nil {
		t.Error(err)
	}
}
