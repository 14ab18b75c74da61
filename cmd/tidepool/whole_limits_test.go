package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// town is a thousand clients that pull what a tidepool holds.
type town struct {
	*pool
	images []*origintest.Image // by tag: "t0", "t1", …

	mu     sync.Mutex // guards what follows
	pulls  int
	failed int
	oldest time.Duration
}

// settle puts images into o, a tidepool with a configuration before it, and all of them into that.
func settle(t *testing.T, o *origintest.Origin, tags int, file string) *town {
	t.Helper()
	w := &town{pool: inBubble(t, o, plan{file: file})}
	for i := range tags {
		w.images = append(w.images, o.PutImage(repo, fmt.Sprintf("t%d", i), origintest.Spec{
			Seed: uint64(i), Layers: []origintest.Layer{{Size: 1 << 10, Form: origintest.Raw}},
		}))
	}
	deadline := time.Now().Add(30 * time.Minute)
	for i, img := range w.images {
		for w.pull(fmt.Sprintf("t%d", i), img) != nil {
			if time.Now().After(deadline) {
				t.Fatalf("tag %d of %d is not held after half an hour", i, tags)
			}
			time.Sleep(10 * time.Second)
		}
	}
	return w
}

// lives has everybody pull at random times, each pulling every six minutes.
func (w *town) lives(long time.Duration) {
	const clients, each = 1000, 6 * time.Minute
	end := time.Now().Add(long)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 9))
			for {
				time.Sleep(time.Duration(rng.Int64N(int64(2 * each))))
				if !time.Now().Before(end) {
					return
				}
				w.visit(rng.IntN(len(w.images)))
			}
		})
	}
	all.Wait()
}

// visit pulls a tag, as far as that can cost anything: what was pulled by digest is asked for no more.
func (w *town) visit(i int) {
	a := w.get(manifestPath(fmt.Sprintf("t%d", i)))
	age, _ := strconv.Atoi(a.header.Get("Age"))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pulls++
	w.oldest = max(w.oldest, time.Duration(age)*time.Second)
	if a.status != http.StatusOK || a.err != nil {
		if w.failed++; w.failed < 5 {
			w.t.Errorf("t%d: %v; %.300s", i, a, a.body)
		}
	}
}

// An origin that bans an address for a minute after 100 requests of any kind in a minute never has to, and nobody
// notices that it would.
func TestNeverBanned(t *testing.T) {
	t.Parallel()
	bubble(t, "an hour", func(t *testing.T) {
		o := origintest.New()
		o.Ban(100, time.Minute, time.Minute)
		w := settle(t, o, 200, "upstreams: {docker.io: {requests: 100/m}}\ntags: [{match: '**', fresh: 5m}]\n")
		before := o.Count()
		w.lives(time.Hour)
		t.Logf("%d pulls of 200 tags by 1000 clients in an hour: %d requests upstream, %d bans, %d failed, the oldest answer %v old",
			w.pulls, o.Count()-before, o.Bans(), w.failed, w.oldest)
		if o.Bans() > 0 || w.failed > 0 || w.oldest > 5*time.Minute+2*time.Minute {
			t.Error("want no bans, no failures, and nothing older than 7m")
		}
	})
}

// Without a configured pace one ban teaches it.
func TestBannedOnce(t *testing.T) {
	bubble(t, "twenty minutes", func(t *testing.T) {
		o := origintest.New()
		w := settle(t, o, 200, "tags: [{match: '**', fresh: 1m}]\n")
		o.Ban(100, time.Minute, time.Minute)
		w.lives(20 * time.Minute)
		t.Logf("%d pulls: %d bans, %d failed, the oldest answer %v old", w.pulls, o.Bans(), w.failed, w.oldest)
		if o.Bans() != 1 || w.failed > 0 {
			t.Error("want one ban and no failures")
		}
	})
}

// A thousand clients cost a HEAD for each tag every five minutes, and each manifest once; where the origin limits pulls
// nobody notices.
func TestTownOfPullers(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{-1, 10} {
		bubble(t, fmt.Sprintf("limit %d", limit), func(t *testing.T) {
			o := origintest.New()
			w := settle(t, o, 20, "tags: [{match: '**', fresh: 5m}]\n")
			o.RateLimit(limit, 6*time.Hour, "192.0.2.7")
			if limit >= 0 {
				time.AfterFunc(10*time.Minute, func() { // then some tags move: more than the limit lets through
					for i := range 15 {
						o.PutImage(repo, fmt.Sprintf("t%d", i), origintest.Spec{Seed: uint64(100 + i)})
					}
				})
			}
			w.lives(time.Hour)
			heads, gets := o.Count(origintest.Manifest, origintest.HEAD), o.Count(origintest.Manifest, origintest.GET)
			t.Logf("%d pulls of 20 tags by 1000 clients in an hour: %d HEADs, %d GETs of manifests, %d failed, the oldest answer %v old",
				w.pulls, heads, gets, w.failed, w.oldest)
			for i := range w.images {
				if n := o.Count(origintest.HEAD, origintest.Ref(fmt.Sprintf("t%d", i))); limit < 0 && n > 12 {
					t.Errorf("t%d: %d HEADs", i, n)
				}
			}
			if w.failed > 0 || limit < 0 && gets != 20 || limit >= 0 && gets > 20+limit {
				t.Error("want no failures, each manifest once, and no more than the limit")
			}
		})
	}
}

// A restart forgets no limit; a file that cannot be read is no reason not to start.
func TestLimitsOutliveARestart(t *testing.T) {
	bubble(t, "limit", func(t *testing.T) {
		o := origintest.New()
		o.PutImage(repo, "a", origintest.Spec{Seed: 1})
		o.PutImage(repo, "b", origintest.Spec{Seed: 2})
		o.RateLimit(1, 6*time.Hour, "192.0.2.7")
		o.RetryAfter()
		w := inBubble(t, o)
		w.get(manifestPath("a")).is(t, http.StatusOK)
		w.get(manifestPath("b")).refuses(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
		file := filepath.Join(w.plan.dir, limitsFile)
		for _, damaged := range []bool{false, true} {
			w.close()
			if damaged {
				if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			w.open()
			o.Forget()
			w.get(manifestPath("b")).refuses(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
			if n := o.Count(); n != 0 != damaged {
				t.Errorf("damaged %v: %d requests after the restart", damaged, n)
			}
		}
		health := string(w.admin("/healthz?verbose").body)
		numbers := string(w.admin("/metrics").body)
		for text, want := range map[string]string{
			health:  "grants no pulls (192.0.2.7) until 2000-01-01T06:00:0",
			numbers: `tidepool_upstream_pulls_remaining{account="",endpoint="http://hub.test",upstream="docker.io"} 0`,
		} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
		time.Sleep(6*time.Hour + time.Minute)
		w.get(manifestPath("b")).is(t, http.StatusOK)
	})
}
