package cluster

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// doingPath asks a member how it does: GET, a Doing as JSON.
const doingPath = "/v1/doing"

// Doing is how a member does, as it says itself.
type Doing struct {
	Busy   int64 `json:"busy"`   // answers to other members under way
	Disk   int64 `json:"disk"`   // bytes held
	Budget int64 `json:"budget"` // bytes
}

// doingTime is how long members have to say how they do: people wait for it.
const doingTime = 300 * time.Millisecond

// mostDoing is how many members are asked how they do: more fit on no screen.
const mostDoing = 100

// Doing asks other members how they do, all at once. Who does not say so in time is not in the answer.
func (r *Remotes) Doing(ctx context.Context, v *View) map[string]Doing {
	ctx, cancel := context.WithTimeout(ctx, doingTime)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	all, left := map[string]Doing{}, mostDoing
	for name, m := range v.Members {
		if left--; name == v.Self || m.Addr == "" || left < 0 {
			continue
		}
		asking.Go(func() {
			var d Doing
			if r.to(m).exchangeJSON(ctx, http.MethodGet, doingPath, nil, &d) == nil {
				mu.Lock()
				defer mu.Unlock()
				all[name] = d
			}
		})
	}
	asking.Wait()
	return all
}

// doing says how this member does.
func (p *Peer) doing(w http.ResponseWriter) {
	var d Doing
	if p.Doing != nil {
		d = p.Doing()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(d) // who is gone needs no answer
}
