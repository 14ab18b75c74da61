package upstream_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// pit is a network that may swallow every attempt to connect, and counts them.
type pit struct {
	origintest.Net
	open  atomic.Bool
	dials atomic.Int64
}

func (p *pit) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	p.dials.Add(1)
	if p.open.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return p.DialContext(ctx, network, addr)
}

// overPit is a hub with one image, at the other side of a pit.
func overPit(t *testing.T) (*pit, *origintest.Origin, *upstream.Hubs) {
	p, o := new(pit), origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	return p, o, hubs(t, upstream.Options{Dial: p.dial}, at(origintest.ServeIn(t, &p.Net, "hub.test:80", o)))
}

// together asks n times at once for a tag and returns the longest that one took, and how many failed.
func together(ctx context.Context, h *upstream.Hubs, n int) (longest time.Duration, failed int) {
	var all sync.WaitGroup
	var mu sync.Mutex
	for range n {
		all.Go(func() {
			began := time.Now()
			_, err := h.Resolve(ctx, tagRef("latest"), cache.Whole)
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, time.Since(began))
			if err != nil {
				failed++
			}
		})
	}
	all.Wait()
	return longest, failed
}

func circuitOf(h *upstream.Hubs) upstream.EndpointStats { return h.Stats()[0].Endpoints[0] }

// Of all who ask a hub that swallows every packet, the first waits for the time-out. Those who come after it are told
// at once; each trial lets one of them wait, and the hub is used again within the longest pause.
func TestBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, h := overPit(t)
		p.open.Store(true)
		if took, _ := together(t.Context(), h, 1); took != 5*time.Second {
			t.Errorf("the first took %v", took)
		}
		if c := circuitOf(h); c.Circuit != "open" || c.Up || time.Until(c.Until) > time.Second {
			t.Errorf("%+v", c)
		}
		if took, failed := together(t.Context(), h, 100); took != 0 || failed != 100 || p.dials.Load() != 1 {
			t.Errorf("the next took up to %v, %d failed, %d attempts to connect", took, failed, p.dials.Load())
		}
		_, err := h.Open(t.Context(), blobRef(cache.Sum(nil)), cache.Whole)
		var outage *cache.OutageError
		wantErr(t, err, cache.ErrUnavailable, "is down, and is asked again at 2000-01-01T00:00:0", "no connection to hub.test:80 within 5s")
		if !errors.As(err, &outage) || !outage.Until.Equal(circuitOf(h).Until) {
			t.Errorf("%v", err)
		}

		for began := time.Now(); time.Since(began) < 10*time.Minute; time.Sleep(100 * time.Millisecond) {
			before := p.dials.Load()
			if took, _ := together(t.Context(), h, 2); took > time.Second && p.dials.Load() != before+1 {
				t.Fatalf("waited %v, for %d attempts", took, p.dials.Load()-before)
			}
		}
		if n := p.dials.Load(); n < 30 || n > 60 { // each takes 5 s and makes a pause of up to 15 s
			t.Errorf("%d attempts to connect in ten minutes", n)
		}
		p.open.Store(false)
		time.Sleep(15 * time.Second)
		if c := circuitOf(h); c.Circuit != "half-open" || c.Up {
			t.Errorf("%+v", c)
		}
		if _, failed := together(t.Context(), h, 100); failed > 0 {
			t.Errorf("%d of 100 failed when the hub was back", failed)
		}
		if c := circuitOf(h); c.Circuit != "closed" || !c.Up || c.Error != "" {
			t.Errorf("%+v", c)
		}
	})
}

// While a trial is under way, who holds something that will do does not wait for it, and who does not waits briefly.
func TestTrialHoldsUpNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, h := overPit(t)
		p.open.Store(true)
		together(t.Context(), h, 1)
		time.Sleep(time.Second)
		go together(t.Context(), h, 1)
		synctest.Wait()
		if took, failed := together(cache.WithSpare(t.Context()), h, 10); took != 0 || failed != 10 {
			t.Errorf("with something that will do: up to %v", took)
		}
		if took, failed := together(t.Context(), h, 10); took != time.Second || failed != 10 {
			t.Errorf("with nothing: up to %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.Resolve(ctx, tagRef("latest"), cache.Whole); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		p.open.Store(false)
		if _, failed := together(t.Context(), h, 1); failed > 0 {
			t.Error("the circuit stays open")
		}
	})
}

// A hundred requests that one outage strikes at the same time are one failure, not a hundred in a row.
func TestOneTroubleCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, h := overPit(t)
		p.open.Store(true)
		together(t.Context(), h, 100)
		if c := circuitOf(h); c.Circuit != "open" || time.Until(c.Until) > time.Second {
			t.Errorf("%+v", c)
		}
	})
}

// A hub that is silent on one question and answers others is not shut out for that.
func TestSilenceOnOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, o, h := overPit(t)
		o.When(origintest.Tags).Hang()
		go h.Resolve(t.Context(), tagsRef(), cache.Whole)
		time.Sleep(10 * time.Second)
		mustSlurp(t, h, tagRef("latest"))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if s := h.Stats()[0]; s.Failures != 1 || s.Endpoints[0].Circuit != "closed" {
			t.Errorf("%+v", s)
		}
		mustSlurp(t, h, tagRef("latest"))
	})
}

// A trial whose asker leaves decides nothing, and holds up nobody after it.
func TestTrialIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, h := overPit(t)
		p.open.Store(true)
		together(t.Context(), h, 1)
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := h.Resolve(ctx, tagRef("latest"), cache.Whole)
		if !errors.Is(err, context.DeadlineExceeded) || circuitOf(h).Circuit != "half-open" {
			t.Errorf("%v, %+v", err, circuitOf(h))
		}
		p.open.Store(false)
		mustSlurp(t, h, tagRef("latest"))
		time.Sleep(5 * time.Second) // the attempt to connect that was left ends too
	})
}

// One large answer that has begun to come closes the circuit: nobody waits for its end.
func TestTrialOfALargeBlob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, o, h := overPit(t)
		blob := o.PutBlob(repo, origintest.Synthetic(1, 1<<20))
		stalled := o.When(origintest.Blob).StallAt(1 << 19)
		p.open.Store(true)
		together(t.Context(), h, 1)
		p.open.Store(false)
		time.Sleep(time.Second)
		a, err := h.Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		if took, failed := together(t.Context(), h, 10); took != 0 || failed > 0 {
			t.Errorf("%d failed, after up to %v", failed, took)
		}
		stalled.Release()
		if err := copyAll(a.Body); err != nil {
			t.Error(err)
		}
	})
}
