package cluster

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"sync"
	"time"
)

// sounding asks a member that was silent how it does, until it says so. Meanwhile nobody asks it for anything: clients
// wait once for a member that is gone, and not again each time that it might be back.
type sounding struct {
	mu   sync.Mutex
	stop context.CancelFunc // nil: nobody asks
	over bool               // nobody will any more
}

// silent notes that the member did not answer.
func (x *remote) silent(ctx context.Context) {
	rest, first := x.temper.failed()
	if first {
		x.of.leaves(x.member.Name)
	}
	s := &x.sounding
	s.mu.Lock()
	defer s.mu.Unlock()
	if !first || s.over || s.stop != nil {
		return
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	x.of.soundings.Go(func() { x.sound(ctx, rest) })
}

// LeftAlone is how often each member was left alone for a while because it did not answer, by name, since it came. All that
// it owns may have been fetched once more each time.
func (r *Remotes) LeftAlone() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.left)
}

func (r *Remotes) leaves(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == nil {
		r.left = map[string]uint64{}
	}
	r.left[name]++
}

// sound leaves the member alone for a while, and has it be asked again when it says how it does.
func (x *remote) sound(ctx context.Context, rest time.Duration) {
	for ; ; rest = min(2*rest, longRest) {
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
		if x.there(ctx) {
			x.sounding.done() // first: who finds it silent again begins anew
			x.temper.open()
			return
		}
		if x.of.drop(x) {
			return
		}
	}
}

// there reports whether the member says how it does, in as long as it is waited for.
func (x *remote) there(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, x.temper.patience())
	defer cancel()
	return !errors.Is(x.exchangeJSON(ctx, http.MethodGet, doingPath, nil, new(Doing)), errMember)
}

func (s *sounding) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.stop = nil
}

// end is for a member that is gone.
func (s *sounding) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over = true; s.stop != nil {
		s.stop()
	}
}

// rouse finds out which members answer, of all at once: where one is silent others may be, and whoever waits for one of
// them after the other waits for long. Of all who waited for the same silent one, one asks.
func (r *Remotes) rouse(ctx context.Context, members []Member) {
	var asking sync.WaitGroup
	for _, m := range members {
		asking.Go(func() {
			_, _, _ = r.rousing.Do(m.Name, func() (any, error) {
				r.to(m).rouse(ctx)
				return nil, nil
			})
		})
	}
	asking.Wait()
}

// rouse finds out whether the member answers, where that is not known from a moment ago.
func (x *remote) rouse(ctx context.Context) {
	switch {
	case x.temper.known(time.Now()):
	case x.there(ctx):
		x.temper.sign(time.Now())
	case ctx.Err() == nil:
		x.silent(ctx)
	}
}
