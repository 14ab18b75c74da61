package main

import (
	"context"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// An uplink's budget is used and not exceeded, and slows nobody down who does not need it.
func TestUplinkBudget(t *testing.T) {
	t.Parallel()
	bubble(t, "20 MB/s of 100", func(t *testing.T) {
		const budget, seconds = 20_000_000, 8
		o := origintest.New()
		held := o.PutBlob(repo, origintest.Synthetic(1, 4<<20))
		large := o.PutBlob(repo, origintest.Synthetic(2, 2*budget*seconds))
		other := o.PutBlob(repo, origintest.Synthetic(3, 2*budget*seconds))
		w := inBubble(t, o, plan{file: "uplink: {limit: 20MB/s, windows: [{from: '01:00', to: '02:00', limit: off}]}"})
		for time.Now().Hour() < 2 { // outside the window
			time.Sleep(time.Hour)
		}
		if err := w.fetch(t.Context(), held, 0, -1); err != nil {
			t.Fatal(err)
		}
		o.When(origintest.Blob).Pace(100_000_000)
		before := w.received()
		ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second)
		defer cancel()
		for _, blob := range []*origintest.Content{large, other} {
			go func() { _ = w.fetch(ctx, blob, 0, -1) }()
		}
		time.Sleep(time.Second)
		began := time.Now()
		crowd(50, func(int) {
			if err := w.fetch(t.Context(), held, 0, -1); err != nil {
				t.Error(err)
			}
		})
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("50 clients of what is held waited %v", took)
		}
		<-ctx.Done()
		got := float64(w.received()-before) / seconds / 1e6
		t.Logf("%.2f MB/s", got)
		if got < 19 || got > 20.1 {
			t.Errorf("%.2f MB/s of 20", got)
		}
	})
}

// received are the bytes that came from all upstreams.
func (w *pool) received() (bytes uint64) {
	for _, s := range w.hubs.Stats() {
		bytes += s.Bytes
	}
	return bytes
}
