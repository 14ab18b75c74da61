package upstream_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// most is how many requests came in the fullest stretch of time of some length.
func (l *limiting) most(window time.Duration) (most int) {
	var came []time.Time
	for _, r := range l.Requests() {
		for came = append(came, r.Time); r.Time.Sub(came[0]) >= window; {
			came = came[1:]
		}
		most = max(most, len(came))
	}
	return most
}

// Whatever is asked, and by how many, the pace is never exceeded, and is used; tokens count.
func TestPaceIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitingIn(t)
		l.RequireToken(origintest.TokenServer{})
		l.conf.Requests = upstream.Pace{Requests: 100, Window: time.Minute}
		h := l.hubs(t, nil)
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 1))
				ctx := cache.WithUrgency(t.Context(), cache.Urgency(i%4))
				for range 30 {
					time.Sleep(rand.N(10 * time.Second))
					for _, err := range everyPath(ctx, h, l.img.Blobs[rng.IntN(2)].Digest) {
						if errors.Is(err, cache.ErrLimited) {
							time.Sleep(5 * time.Second)
						}
					}
				}
			})
		}
		all.Wait()
		took := time.Since(l.Requests()[0].Time)
		if n := l.most(time.Minute); n > 100 || float64(l.Count()) < 70*took.Minutes() {
			t.Errorf("%d in a minute, %d in %v", n, l.Count(), took)
		}
		if s := h.Stats()[0]; s.LimitedRequests != 0 || !s.Endpoints[0].Up {
			t.Errorf("%+v", s)
		}
	})
}

// Who has a client waiting goes first; who leaves is not waited for; who would wait too long is told so at once.
func TestPaceByUrgency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitingIn(t)
		l.conf.Requests = upstream.Pace{Requests: 4, Window: time.Minute}
		h := l.hubs(t, nil)
		for range 4 {
			mustSlurp(t, h, tagRef("latest"))
			time.Sleep(3 * time.Second) // so that their places become free one by one
		}
		time.Sleep(33 * time.Second)
		var mu sync.Mutex
		var order []cache.Urgency
		var all sync.WaitGroup
		ask := func(ctx context.Context, u cache.Urgency) {
			all.Go(func() {
				if _, err := h.Resolve(cache.WithUrgency(ctx, u), tagRef("latest"), cache.Whole); err == nil {
					mu.Lock()
					defer mu.Unlock()
					order = append(order, u)
				}
			})
			synctest.Wait()
		}
		gone, leave := context.WithCancel(t.Context())
		ask(gone, cache.Interactive)
		ask(t.Context(), cache.Repair)
		leave()
		ask(t.Context(), cache.Interactive)
		began := time.Now()
		all.Wait()
		if took := time.Since(began); !slices.Equal(order, []cache.Urgency{cache.Interactive, cache.Repair}) || took > 25*time.Second {
			t.Errorf("%v in %v", order, took)
		}
		for range 2 {
			ask(t.Context(), cache.Interactive)
		}
		all.Wait()
		began = time.Now()
		_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrLimited, "limits requests until", "requests")
		if time.Since(began) != 0 {
			t.Errorf("told after %v", time.Since(began))
		}
	})
}

// A refusal of requests of every kind is followed by quiet, and teaches a pace that is not refused again.
func TestPaceIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitingIn(t)
		l.Ban(50, time.Minute, time.Minute)
		h := l.hubs(t, nil)
		head := func() error {
			_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
			return err
		}
		for range 50 {
			if err := head(); err != nil {
				t.Fatal(err)
			}
		}
		wantErr(t, head(), cache.ErrLimited, "reg.test limits requests until")
		s := h.Stats()[0]
		if e := s.Endpoints[0]; e.Pace != (upstream.Pace{Requests: 45, Window: time.Minute}) || time.Until(e.Quiet) < time.Minute || s.LimitedRequests != 1 || s.LimitedPulls != 0 {
			t.Errorf("%+v", s)
		}
		for range 2 {
			for _, err := range everyPath(t.Context(), h, l.img.Blobs[0].Digest) {
				wantErr(t, err, cache.ErrLimited, "requests")
			}
			if n := l.Count(); n != 51 {
				t.Errorf("asked %d times more", n-51)
			}
			h = l.hubs(t, h.Ledger())
		}
		time.Sleep(66 * time.Second)
		for range 1000 {
			if head() != nil {
				time.Sleep(time.Second)
			}
		}
		if l.Bans() != 1 {
			t.Errorf("banned %d times", l.Bans())
		}
		time.Sleep(5 * time.Hour)
		if p := h.Stats()[0].Endpoints[0].Pace; p.Requests <= 45 {
			t.Errorf("after five hours: %+v", p)
		}
		time.Sleep(12 * time.Hour)
		if p := h.Stats()[0].Endpoints[0].Pace; p != (upstream.Pace{}) {
			t.Errorf("after half a day: %+v", p)
		}
	})
}
