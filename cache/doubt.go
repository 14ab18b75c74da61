package cache

import (
	"context"
	"sync"
	"time"
)

// doubts remember of which content something else came of late, so that a source that has several places to ask
// begins with another: else one mirror with a damaged copy would keep it from everybody.
type doubts struct {
	mu sync.Mutex
	of map[flightKey]doubt
}

type doubt struct {
	times int
	last  time.Time
}

const (
	// doubtLasts is for how long: by then a mirror may have been mended.
	doubtLasts = time.Hour
	// mostDoubts bounds what a hub that sends nothing right costs.
	mostDoubts = 1024
)

// add notes that something else came.
func (d *doubts) add(key flightKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of == nil || len(d.of) >= mostDoubts {
		d.of = map[flightKey]doubt{}
	}
	d.of[key] = doubt{d.of[key].times + 1, time.Now()}
}

// tell returns ctx with what there is to say of key.
func (d *doubts) tell(ctx context.Context, key flightKey) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if x, ok := d.of[key]; ok && time.Since(x.last) < doubtLasts {
		return WithDoubts(ctx, x.times)
	}
	return ctx
}
