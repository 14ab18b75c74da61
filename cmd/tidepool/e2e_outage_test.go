package main_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// pulling is many clients that pull the same image again and again.
type pulling struct {
	url   string
	paths []string // of all parts of the image
	http  *http.Client

	mu     sync.Mutex // guards all below
	took   map[string][]time.Duration
	phase  string
	failed []error
}

// gap is between two pulls of a client: a hundred of them are busy, and the machine is not.
const gap = 250 * time.Millisecond

func (p *pulling) client(ctx context.Context) {
	tick := time.NewTicker(gap)
	defer tick.Stop()
	for {
		began := time.Now()
		err := p.pull()
		p.mu.Lock()
		p.took[p.phase] = append(p.took[p.phase], time.Since(began))
		if err != nil {
			p.failed = append(p.failed, fmt.Errorf("%s: %w", p.phase, err))
		}
		p.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *pulling) pull() error {
	for _, path := range p.paths {
		res, err := p.http.Get(p.url + path)
		if err != nil {
			return err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, res.Body)
		res.Body.Close()
		_, digest, _ := strings.Cut(path, "blobs/")
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", path, err)
		case res.StatusCode != http.StatusOK:
			return fmt.Errorf("%s: %s", path, res.Status)
		case digest != "" && digest != fmt.Sprintf("sha256:%x", sum.Sum(nil)):
			return fmt.Errorf("%s: other bytes", path)
		}
	}
	return nil
}

// during lets the clients pull for a while, and returns the p99 of their pulls.
func (p *pulling) during(phase string, d time.Duration) time.Duration {
	p.mu.Lock()
	p.phase = phase
	p.mu.Unlock()
	<-time.After(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Sorted(slices.Values(p.took[phase]))
	if len(all) == 0 {
		return 0
	}
	return all[len(all)*99/100]
}

// TestOutage stops the registry for ten seconds under a hundred clients whose image is held and whose tag is asked for
// again every second: not one pull fails, none waits for the registry, and when that is back, it is asked again.
func TestOutage(t *testing.T) {
	s := newScene(t, "tags: [{match: \"**\", fresh: 1s}]\n")
	k := &kitchen{t: t, repo: "library/outage", seed: 17 << 32}
	content := k.oci(own(), types.OCILayer, 2, 20<<10)
	img := k.tag("docker.io", "latest", content, content)
	push(t, s.hub.addr, img)
	p := &pulling{
		url: "http://" + s.pool.addr + "/v2/library/outage/", paths: []string{"manifests/latest"}, took: map[string][]time.Duration{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}, phase: "warming up",
	}
	for _, digest := range img.blobs() {
		p.paths = append(p.paths, "blobs/"+digest)
	}
	must(t, p.pull())

	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 100 {
		clients.Go(func() { p.client(ctx) })
	}
	p.during("warming up", time.Second)
	before := p.during("before", 5*time.Second)
	s.hub.stop(t)
	outage := p.during("outage", 10*time.Second)
	s.hub.restart()
	after := p.during("after", 3*time.Second)
	eventually(t, "the registry is asked again", func() bool { return len(s.hub.reached()) > 0 })
	goOffline(t, s.pool.admin)
	s.hub.reached()
	offline := p.during("offline", 3*time.Second)
	cancel()
	clients.Wait()
	if r := s.hub.reached(); len(r) > 1 { // one may have been under way
		t.Errorf("offline, and asked the registry: %v", r)
	}
	p.http.CloseIdleConnections()

	pulls := len(p.took["before"]) + len(p.took["outage"]) + len(p.took["after"])
	t.Logf("p99 of %d pulls: %v before, %v during the outage, %v after, %v offline", pulls, before, outage, after, offline)
	if len(p.failed) > 0 {
		t.Errorf("%d pulls of held content failed, the first: %v", len(p.failed), p.failed[0])
	}
	if most := 10*before + 50*time.Millisecond; outage > most || offline > most { // a busy machine's slack: 1.5 times is meant
		t.Errorf("p99 %v before the outage, %v during it, %v offline", before, outage, offline)
	}
}

func goOffline(t *testing.T, admin string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, "http://"+admin+"/api/v1/offline", strings.NewReader(`{"offline": true}`))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("offline mode: %s", res.Status)
	}
}
