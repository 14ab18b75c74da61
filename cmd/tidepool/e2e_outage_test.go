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
	paths []string // of all parts of the image: the tag, of which the registry is asked, and then what is held under digests
	http  *http.Client

	mu     sync.Mutex // guards all below
	took   map[string][]times
	phase  string
	failed []error
}

// times are how long the tag took in a pull, and the slowest of what no registry is asked about: what a busy machine does to
// the one at a moment, it does to the other.
type times struct{ tag, held time.Duration }

func (t times) String() string { return fmt.Sprintf("%v and %v", t.tag, t.held) }

// gap is between two pulls of a client: a hundred of them are busy, and the machine is not.
const gap = 250 * time.Millisecond

func (p *pulling) client(ctx context.Context) {
	tick := time.NewTicker(gap)
	defer tick.Stop()
	for {
		took, err := p.pull()
		p.mu.Lock()
		p.took[p.phase] = append(p.took[p.phase], took)
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

func (p *pulling) pull() (took times, err error) {
	for i, path := range p.paths {
		began := time.Now()
		if err := p.get(path); err != nil {
			return took, err
		}
		if one := time.Since(began); i == 0 {
			took.tag = one
		} else {
			took.held = max(took.held, one)
		}
	}
	return took, nil
}

func (p *pulling) get(path string) error {
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
	return nil
}

// during lets the clients pull for a while, and returns the p99 of either.
func (p *pulling) during(phase string, d time.Duration) (p99 times) {
	p.mu.Lock()
	p.phase = phase
	p.mu.Unlock()
	<-time.After(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	var tag, held []time.Duration
	for _, one := range p.took[phase] {
		tag, held = append(tag, one.tag), append(held, one.held)
	}
	if len(tag) == 0 {
		return p99
	}
	slices.Sort(tag)
	slices.Sort(held)
	return times{tag[len(tag)*99/100], held[len(held)*99/100]}
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
		url: "http://" + s.pool.addr + "/v2/library/outage/", paths: []string{"manifests/latest"}, took: map[string][]times{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}, phase: "warming up",
	}
	for _, digest := range img.blobs() {
		p.paths = append(p.paths, "blobs/"+digest)
	}
	_, err := p.pull()
	must(t, err)

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
	t.Logf("p99 of the tag and of what is held, of %d pulls: %v before, %v during the outage, %v after, %v offline", pulls, before, outage, after, offline)
	if len(p.failed) > 0 {
		t.Errorf("%d pulls of held content failed, the first: %v", len(p.failed), p.failed[0])
	}
	for phase, p99 := range map[string]times{"during the outage": outage, "offline": offline} {
		if p99.tag > 10*p99.held+50*time.Millisecond { // a busy machine's slack: as long is meant
			t.Errorf("%s, p99 is %v where the registry would be asked, %v where not", phase, p99.tag, p99.held)
		}
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
