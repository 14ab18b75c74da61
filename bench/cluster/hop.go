package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// Of the two members that matter here, one has clients come by plain http and is asked for what it does not own; the
// other owns that, and has clients come by TLS.
const (
	asked  = 0
	owning = 1
)

const hopRepo = "library/hop"

// hop measures what it costs to be sent on to the owner: until the first byte, and in bytes a second.
func hop(ctx context.Context, o options, r *report) error {
	p, err := gather(ctx, o, 3, owning)
	if err != nil {
		return err
	}
	defer p.stop()
	return errors.Join(p.firstBytes(ctx, o, r), p.throughput(ctx, o, r))
}

// owned are n new blobs that a member owns, in its store already.
func (p *pool) owned(ctx context.Context, by, n int, size int64, seed uint64) (all []*origintest.Content, err error) {
	for end := seed + uint64(100*n); len(all) < n; seed++ { // a third of them, give or take
		if seed == end {
			return nil, fmt.Errorf("%s owns %d of %d blobs", p.members[by].name, len(all), 100*n)
		}
		c := origintest.Synthetic(seed, size)
		if p.owner(cache.Ref{Registry: "docker.io", Repo: hopRepo, Kind: cache.KindBlob, Digest: c.Digest()}) != by {
			continue
		}
		p.origin.PutBlob(hopRepo, c)
		if _, err := get(ctx, p.client, p.blob(by, c), c.Digest().String()); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (p *pool) blob(at int, c *origintest.Content) string {
	return p.members[at].url + "/v2/" + hopRepo + "/blobs/" + c.Digest().String()
}

// firstBytes asks one member for what it owns and for what another does, in turn, each blob once.
func (p *pool) firstBytes(ctx context.Context, o options, r *report) error {
	n := 300
	if o.short {
		n = 100
	}
	const size = 256 << 10
	here, err := p.owned(ctx, asked, n, size, 1<<32)
	if err != nil {
		return err
	}
	there, err := p.owned(ctx, owning, n, size, 2<<32)
	if err != nil {
		return err
	}
	var local, hop []time.Duration
	for i := range n {
		a, err := p.measured(ctx, asked, here[i], "disk", "memory")
		if err != nil {
			return err
		}
		b, err := p.measured(ctx, asked, there[i], "peer")
		if err != nil {
			return err
		}
		local, hop = append(local, a.first), append(hop, b.first)
	}
	slices.Sort(local)
	slices.Sort(hop)
	added := middle(hop) - middle(local)
	r.add(atMost(figure{What: "first byte by a peer hop, added to local", Members: len(p.members), Value: ms(added), Unit: "ms", Digits: 2,
		Note: fmt.Sprintf("%.2f ms against %.2f; of 99 in 100 at most %.2f against %.2f", ms(middle(hop)), ms(middle(local)), ms(hop[n*99/100]), ms(local[n*99/100]))}, 1.5))
	return nil
}

// measured asks for what is not looked at but for its length, which was proven when it came, and checks where it was.
func (p *pool) measured(ctx context.Context, at int, c *origintest.Content, tiers ...string) (answer, error) {
	a, err := get(ctx, p.client, p.blob(at, c), "")
	if err == nil && (a.size != c.Size() || !slices.Contains(tiers, a.tier)) {
		err = fmt.Errorf("%s: %d bytes of %d, from %s", p.blob(at, c), a.size, c.Size(), a.tier)
	}
	return a, err
}

// throughput pulls large blobs from who owns them, over TLS, and from another, which has them from there by TLS.
func (p *pool) throughput(ctx context.Context, o options, r *report) error {
	n, size := 25, int64(64<<20) // of seven the medians of one program were 0.39 to 0.61 within a quarter of an hour
	if o.short {
		n = 3
	}
	blobs, err := p.owned(ctx, owning, n+1, size, 3<<32)
	if err != nil {
		return err
	}
	if _, err := get(ctx, p.client, p.blob(asked, blobs[n]), blobs[n].Digest().String()); err != nil {
		return err // and what comes that way is right
	}
	stop, err := p.record(o.profile)
	if err != nil {
		return err
	}
	var direct, hop []float64
	for _, c := range blobs[:n] {
		a, err := p.measured(ctx, owning, c, "disk", "memory")
		if err != nil {
			return err
		}
		b, err := p.measured(ctx, asked, c, "peer")
		if err != nil {
			return err
		}
		direct, hop = append(direct, float64(size)/a.took.Seconds()), append(hop, float64(size)/b.took.Seconds())
	}
	slices.Sort(direct)
	slices.Sort(hop)
	r.add(atLeast(figure{What: "throughput of a large blob by a peer hop / from its owner over TLS", Members: len(p.members), Value: middle(hop) / middle(direct), Digits: 2,
		Note: fmt.Sprintf("%.0f MB/s against %.0f", middle(hop)/1e6, middle(direct)/1e6)}, 0.5))
	return stop()
}

// record profiles the two members with perf into a directory, until it is called off.
func (p *pool) record(dir string) (stop func() error, err error) {
	if dir == "" {
		return func() error { return nil }, nil
	}
	var stops []func() error
	for _, i := range []int{asked, owning} {
		stop, err := record(filepath.Join(dir, p.members[i].name+".perf"), p.members[i].cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		stops = append(stops, stop)
	}
	return func() error { return errors.Join(stops[0](), stops[1]()) }, nil
}

// middle is the median of what is in order.
func middle[T any](sorted []T) T { return sorted[len(sorted)/2] }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
