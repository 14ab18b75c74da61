package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// load is one kind of work: what is done to a server, and what is read off it.
type load struct {
	key     string // what -rows calls it; several loads may share one
	name    string // SIZE stands for that of the large blobs
	fresh   bool   // wants a server that has done nothing before but the verified pulls
	most    int    // repetitions; 0: as many as are asked for
	metrics []metric
	run     func(ctx context.Context, b *bench, s *server) ([]float64, error) // one value a metric
	needs   string                                                            // a program that must be installed
}

// metric is one figure, and what tidepool is to reach in it.
type metric struct {
	name, unit string
	digits     int                // after the point
	atLeast    map[string]float64 // times the contestant of that name
	atMost     float64            // where not zero
}

const (
	stormClients   = 20
	stormPace      = 200_000_000            // bytes per second: a good uplink's single connection
	throughputTime = 700 * time.Millisecond // several whole pulls at least, so that none weighs much
	stoppedClients = 1000
)

var loads = []load{hotBlob(1), hotBlob(4), hotManifest("digest", (*bench).manifestPath),
	hotManifest("fresh tag", (*bench).manifestByName), storm, cold, stopped}

func loadKeys() (keys []string) {
	for _, l := range loads {
		if len(keys) == 0 || keys[len(keys)-1] != l.key {
			keys = append(keys, l.key)
		}
	}
	return keys
}

// hotBlob pulls a blob that is held, over and over, on some connections at once.
func hotBlob(conns int) load {
	return load{
		key: "hot", name: "hot SIZE blob, " + plural(conns, "connection"),
		metrics: []metric{
			{name: "throughput", unit: "GB/s", digits: 2, atLeast: map[string]float64{"docker-registry": 1.5, "nginx": 1.2}},
			{name: "server's processor time", unit: "s/GB", digits: 2},
		},
		run: func(_ context.Context, b *bench, s *server) ([]float64, error) {
			var pulls atomic.Int64
			used, began := cpuTime(s.cmd.Process.Pid), time.Now()
			err := together(s, conns, func(_ int, c *conn) error {
				for time.Since(began) < throughputTime {
					if _, err := c.get(b.hot.path(), b.hot.size); err != nil {
						return err
					}
					pulls.Add(1)
				}
				return nil
			})
			took, gb := time.Since(began), float64(pulls.Load()*b.hot.size)/1e9
			used = cpuTime(s.cmd.Process.Pid) - used
			return []float64{gb / took.Seconds(), used.Seconds() / gb}, err
		},
	}
}

// hotManifest asks for a manifest that is held as often as 64 connections can.
func hotManifest(by string, path func(*bench) string) load {
	return load{
		key: "manifest", name: "hot 1 KiB manifest by " + by + ", 64 connections", needs: "wrk",
		metrics: []metric{
			{name: "rate", unit: "requests/s", atLeast: map[string]float64{"docker-registry": 20, "nginx": 0.75}},
			{name: "server's processor time", unit: "µs/request", digits: 1},
		},
		run: func(ctx context.Context, b *bench, s *server) ([]float64, error) {
			used := cpuTime(s.cmd.Process.Pid)
			answers, took, err := wrk(ctx, b.dir, "http://"+s.listen+path(b))
			used = cpuTime(s.cmd.Process.Pid) - used
			return []float64{answers / took.Seconds(), used.Seconds() / answers * 1e6}, err
		},
	}
}

// storm is a deployment: many want what nobody has yet. What one client alone takes is measured beside it.
var storm = load{
	key: "storm", name: "20 clients, one cold SIZE blob at 200 MB/s",
	metrics: []metric{
		{name: "fetches from upstream", atMost: 1},
		{name: "slowest first byte after upstream's", unit: "ms", digits: 1, atMost: 5},
		{name: "all done / one pull alone", unit: "x", digits: 3, atMost: 1.05},
		{name: "one pull alone", unit: "s", digits: 3},
	},
	run: func(ctx context.Context, b *bench, s *server) ([]float64, error) {
		alone, err := b.coldPull(ctx, s, 1, stormPace)
		if err != nil {
			return nil, err
		}
		all, err := b.coldPull(ctx, s, stormClients, stormPace)
		if err != nil {
			return nil, err
		}
		return []float64{float64(all.fetches), ms(all.lag), all.took.Seconds() / alone.took.Seconds(), alone.took.Seconds()}, nil
	},
}

// cold is one client's pull of what nobody has yet, as fast as the origin gives. It counts only if the content was
// kept: asked again, the origin must hear nothing of it.
var cold = load{
	key: "cold", name: "one cold SIZE blob",
	metrics: []metric{
		{name: "throughput", unit: "MB/s", atLeast: map[string]float64{"nginx": 1}},
		{name: "server's processor time", unit: "s/GB", digits: 2},
	},
	run: func(ctx context.Context, b *bench, s *server) ([]float64, error) {
		p, err := b.coldPull(ctx, s, 1, 0)
		return []float64{float64(b.size) / p.took.Seconds() / 1e6, p.used.Seconds() / float64(b.size) * 1e9}, err
	},
}

// pull is how clients fared with a blob that their server had not seen before.
type pull struct {
	fetches int64         // GETs that the origin saw
	lag     time.Duration // from the origin's first byte to the last client's first
	took    time.Duration // until the last client had its last byte
	used    time.Duration // of the processors, by the server, until then
}

// coldPull gives the origin a new blob and lets clients pull it at once.
func (b *bench) coldPull(ctx context.Context, s *server, clients int, pace int64) (pull, error) {
	what, err := b.origin.add(b.size, pace)
	if err != nil {
		return pull{}, err
	}
	defer b.origin.drop(what)
	unix.Sync() // nobody is to pay for what another left to be written
	times := make([]timing, clients)
	used, began := cpuTime(s.cmd.Process.Pid), time.Now()
	err = together(s, clients, func(i int, c *conn) (err error) {
		times[i], err = c.get(what.path(), what.size)
		return err
	})
	if err != nil {
		return pull{}, err
	}
	p := pull{fetches: what.gets.Load(), used: cpuTime(s.cmd.Process.Pid) - used}
	first := b.origin.start.Add(time.Duration(what.first.Load()))
	for _, t := range times {
		p.lag = max(p.lag, t.first.Sub(first))
		p.took = max(p.took, t.last.Sub(began))
	}
	return p, b.kept(ctx, s, what)
}

// kept waits until what is served without the origin. Some fetch it once more to keep it: ten seconds are enough.
func (b *bench) kept(ctx context.Context, s *server, what *blob) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		before := what.gets.Load()
		if err := verify(ctx, s.listen, what.path(), what.digest); err != nil {
			return err
		}
		if what.gets.Load() == before {
			return nil
		}
	}
	return errors.New("it did not keep the blob")
}

// together dials n connections, and only then lets each do its work, all at once.
func together(s *server, n int, work func(i int, c *conn) error) error {
	conns, err := connect(s, n)
	defer hangUp(conns)
	if err != nil {
		return err
	}
	return atOnce(conns, work)
}

// connect dials n connections, each from an address of its own, as clients have; those that it returns are to be
// closed, also with an error.
func connect(s *server, n int) (conns []*conn, err error) {
	for i := range n {
		c, err := dial(s.listen, net.IPv4(127, 1, byte(i/250), byte(1+i%250)))
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func hangUp(conns []*conn) {
	for _, c := range conns {
		c.close()
	}
}

func atOnce(conns []*conn, work func(i int, c *conn) error) error {
	errs := make([]error, len(conns))
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() { errs[i] = work(i, c) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (l load) title(b *bench) string {
	return strings.ReplaceAll(l.name, "SIZE", fmt.Sprintf("%d MiB", b.size>>20))
}

// possible is nil where l can be run.
func (l load) possible() error {
	if l.needs == "" {
		return nil
	}
	_, err := installed(l.needs)
	return err
}

func (l load) reps(b *bench) int {
	if l.most > 0 {
		return min(b.reps, l.most)
	}
	return b.reps
}

func (l load) results(b *bench) (all []*result) {
	for _, m := range l.metrics {
		all = append(all, &result{Load: l.title(b), metric: m, Metric: m.name, Unit: m.unit,
			Samples: map[string][]float64{}, Failed: map[string]string{}})
	}
	return all
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
