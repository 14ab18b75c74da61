package cluster

import (
	"net/http"
	"sync"
	"time"
)

// A member that has to ask its registry says so at once, and goes on saying so: else who waits could not tell a slow
// registry from a member whose host has died meanwhile, whose connections do not even break.
const (
	// signEvery is how often.
	signEvery = 3 * time.Second
	// signLate is how long after a sign the next one, or the answer, is waited for: three may be held up.
	signLate = 10 * time.Second
	// mostSigns are believed of one question: that is five minutes, and a registry is given up long before.
	mostSigns = 100
)

// busily runs f, with signs of life to who waits for its outcome.
func busily(w http.ResponseWriter, f func()) {
	w.WriteHeader(http.StatusEarlyHints)
	done := make(chan struct{})
	var signs sync.WaitGroup
	signs.Go(func() {
		tick := time.NewTicker(signEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.WriteHeader(http.StatusEarlyHints)
			case <-done:
				return
			}
		}
	})
	defer signs.Wait()
	defer close(done)
	f()
}
