package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

const (
	// clients ask at the same time, each any member for each request, as behind a balancer.
	clients = 32
	// mostLoad is how much the busiest member may be asked, in times the mean, and mostAway the part of all requests that
	// may be served by one that does not own what is asked for.
	mostLoad, mostAway = 1.25, 0.10
)

// load plays traces to ten members, and to a model of fifty.
func load(ctx context.Context, o options, r *report) error {
	n, within := 30_000, 30*time.Second
	if o.short {
		n, within = 6_000, 8*time.Second
	}
	traces := map[string][]ask{"Zipf(1.0)": zipf(n)}
	if o.trace == "" {
		r.skip("the requests of a real trace, of which none was given by -trace FILE")
	} else {
		real, err := readTrace(o.trace, 400_000)
		if err != nil {
			return err
		}
		traces["the trace"] = real
	}
	for _, name := range slices.Sorted(maps.Keys(traces)) {
		trace := traces[name]
		if err := play(ctx, o, r, name, trace[:min(n, len(trace))], within); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		model(r, name, trace)
	}
	return nil
}

// played is what came of a trace.
type played struct {
	requests  int            // that were answered
	blobs     int            // of these, by who was asked, from what it holds and does not own
	manifests int            // the same: who has served one keeps it in memory, by design
	owned     map[string]int // by who owns what was asked for
}

// play has ten members asked for a trace, and reads at each how much it has served that no other had.
func play(ctx context.Context, o options, r *report, name string, trace []ask, within time.Duration) error {
	p, err := gather(ctx, o, 10)
	if err != nil {
		return err
	}
	defer p.stop()
	things := stock(p.origin, trace)
	before, err := p.served()
	if err != nil {
		return err
	}
	done, err := p.ask(ctx, things, within)
	if err != nil {
		return err
	}
	after, err := p.served()
	if err != nil {
		return err
	}
	by := map[string]int{}
	for m := range after.by {
		by[m] = int(after.by[m] - before.by[m])
	}
	spread(r, "requests served by the busiest member / mean, "+name, len(p.members), by, fmt.Sprintf("%d requests; by owner alone it were %.2f", done.requests, unevenness(done.owned)))
	away := (float64(done.blobs) + after.elsewhere - before.elsewhere) / float64(done.requests)
	r.add(atMost(figure{What: "blobs served by who does not own them, of all requests, " + name, Members: len(p.members), Value: 100 * away, Unit: "%", Digits: 1,
		Note: fmt.Sprintf("and %.1f %% manifests, from memory", 100*float64(done.manifests)/float64(done.requests))}, 100*mostAway))
	return nil
}

func spread(r *report, what string, members int, by map[string]int, note string) {
	r.add(atMost(figure{What: what, Members: members, Value: unevenness(by), Digits: 2, Note: note}, mostLoad))
}

// unevenness is the largest of some counts in times their mean.
func unevenness(by map[string]int) float64 {
	most, sum := 0, 0
	for _, n := range by {
		most, sum = max(most, n), sum+n
	}
	return float64(most) * float64(len(by)) / float64(max(1, sum))
}

// ask asks for things in order until all are answered or the time is over.
func (p *pool) ask(ctx context.Context, things []thing, within time.Duration) (played, error) {
	end := time.Now().Add(within)
	var next atomic.Int64
	all, errs := make([]played, clients), make([]error, clients)
	var crowd sync.WaitGroup
	for i := range clients {
		crowd.Go(func() {
			random := rand.New(rand.NewPCG(5, uint64(i)))
			all[i].owned = map[string]int{}
			for time.Now().Before(end) && errs[i] == nil {
				n := int(next.Add(1) - 1)
				if n >= len(things) {
					return
				}
				errs[i] = p.askOne(ctx, &all[i], random.IntN(len(p.members)), things[n])
			}
		})
	}
	crowd.Wait()
	sum := played{owned: map[string]int{}}
	for _, m := range p.members {
		sum.owned[m.name] = 0
	}
	for _, one := range all {
		sum.requests, sum.blobs, sum.manifests = sum.requests+one.requests, sum.blobs+one.blobs, sum.manifests+one.manifests
		for m, n := range one.owned {
			sum.owned[m] += n
		}
	}
	return sum, errors.Join(errs...)
}

func (p *pool) askOne(ctx context.Context, count *played, at int, x thing) error {
	a, err := get(ctx, p.client, p.members[at].url+x.path, x.content.Digest().String())
	if err != nil {
		return err
	}
	owner := p.owner(x.ref)
	count.requests++
	count.owned[p.members[owner].name]++
	if owner == at || a.tier != cache.FromMemory.String() && a.tier != cache.FromDisk.String() {
		return nil
	}
	if x.ref.Kind == cache.KindBlob {
		count.blobs++
	} else {
		count.manifests++
	}
	return nil
}

// served is what members have served so far.
type served struct {
	by        map[string]float64 // from their own: what they hold, are fetching, or ask a registry for
	elsewhere float64            // by one that was asked though it does not own it
}

func (p *pool) served() (served, error) {
	s := served{by: map[string]float64{}}
	for _, m := range p.members {
		all, err := p.metrics(m)
		if err != nil {
			return s, err
		}
		for _, tier := range []cache.Tier{cache.FromMemory, cache.FromDisk, cache.FromFlight, cache.FromUpstream} {
			s.by[m.name] += all[`tidepool_cache_opened_total{tier="`+tier.String()+`"}`]
		}
		s.elsewhere += all["tidepool_cluster_held_elsewhere_total"]
	}
	return s, nil
}
