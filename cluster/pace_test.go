package cluster

import (
	"context"
	"sync"
	"testing"
	"time"
)

// TestPace: what waits for its turn goes at the rate, and who gives up holds nobody up: members that offer more than can
// be taken in their time would else have less taken each time, and in the end nothing.
func TestPace(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		p := pace{line: make(chan struct{}, 1)}
		began := time.Now()
		for range 4 {
			if err := p.wait(t.Context(), 100, 10); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("the fourth began after %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var waiting sync.WaitGroup
		for range 50 {
			waiting.Go(func() {
				if p.wait(ctx, 100, 10) == nil {
					t.Error("somebody did not wait")
				}
			})
		}
		waiting.Wait()
		if err := p.wait(t.Context(), 100, 10); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 40*time.Second {
			t.Errorf("the next one began after %s, and those before it had given up", took)
		}
	})
}
