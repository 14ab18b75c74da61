package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// A watchdog is answered at least twice within its patience, and not at all while nothing but the ticker works.
func TestWatchdogBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const within = time.Minute
		var stuck atomic.Bool
		beats := make(chan struct{}, 100)
		ctx, stop := context.WithCancel(t.Context())
		go watchdog(ctx, within, func(one context.Context) {
			if stuck.Load() {
				<-one.Done()
				return
			}
			beats <- struct{}{}
		})
		<-beats
		for range 10 {
			began := time.Now()
			<-beats
			if took := time.Since(began); took > within/2 {
				t.Errorf("no beat for %v", took)
			}
		}
		stuck.Store(true)
		time.Sleep(3 * within) // virtual
		if n := len(beats); n > 0 {
			t.Errorf("%d beats while all was stuck", n)
		}
		stuck.Store(false)
		<-beats
		stop()
		synctest.Wait()
	})
}

// Every answer of the door shows that it is at work, a reset too; none does not.
func TestServes(t *testing.T) {
	answering := func(h http.HandlerFunc) *running {
		door := httptest.NewServer(h)
		t.Cleanup(door.Close)
		return &running{addr: door.Listener.Addr(), secret: "s", log: zap.NewNop()}
	}
	login := answering(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	if err := login.serves(t.Context()); err != nil {
		t.Errorf("a door that wants a login: %v", err)
	}
	full := answering(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = c.(interface{ SetLinger(int) error }).SetLinger(0)
		_ = c.Close()
	})
	if err := full.serves(t.Context()); err != nil {
		t.Errorf("a door with too many from here: %v", err)
	}
	release := make(chan struct{})
	stuck := answering(func(http.ResponseWriter, *http.Request) { <-release })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := stuck.serves(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a door that is stuck: %v", err)
	}
	close(release)
	closed := httptest.NewServer(nil)
	closed.Close()
	gone := &running{addr: closed.Listener.Addr(), secret: "s"}
	if err := gone.serves(t.Context()); err == nil {
		t.Error("a door that is not there")
	}
}
