package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// noticed is how soon it is seen that an upstream is back.
const noticed = 15 * time.Second

// outage pulls an image, has the upstream fail, and checks that what is held is served, soon also where the tag has
// aged, and that what is not held is refused within patience. Then the upstream is well again.
func outage(t *testing.T, patience time.Duration, p plan, fail func(o *origintest.Origin) (heal func())) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	other := o.PutImage(repo, "other", origintest.Spec{Seed: 1})
	w := inBubble(t, o, p)
	w.pulls("latest", img)
	heal := fail(o)
	w.client.CloseIdleConnections()
	for _, pause := range []time.Duration{0, 10 * time.Minute, 0, 3 * time.Second, time.Minute, time.Hour} {
		time.Sleep(pause)
		began := time.Now()
		w.pulls("latest", img)
		if took := time.Since(began); took > 2500*time.Millisecond {
			t.Errorf("what is held took %v", took)
		}
		for _, path := range []string{manifestPath("other"), digestPath(other.Top.Digest), blobPath(other.Blobs[len(other.Blobs)-1].Digest)} {
			a := w.get(path)
			a.refuses(t, http.StatusBadGateway, "UNAVAILABLE")
			if a.took > patience {
				t.Errorf("%s: refused after %v", path, a.took)
			}
		}
	}
	heal()
	time.Sleep(noticed)
	w.pulls("other", other)
	w.keepsOnlyTruth()
}

func refusedBy(problem func(addr string) error) func(t *testing.T) {
	return func(t *testing.T) {
		var broken atomic.Bool
		n := new(origintest.Net)
		p := plan{net: n, world: world{dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if broken.Load() {
				return nil, problem(addr)
			}
			return n.DialContext(ctx, network, addr)
		}}}
		outage(t, 5*time.Second, p, func(o *origintest.Origin) func() {
			broken.Store(true)
			o.When().Drop() // on the connections that are open already
			return func() { o.Heal(); broken.Store(false) }
		})
	}
}

func rowConnectionRefused(t *testing.T) {
	refusedBy(func(addr string) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: net.UnknownNetworkError(addr)}
	})(t)
}

func rowNoSuchName(t *testing.T) {
	refusedBy(func(addr string) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: addr, IsNotFound: true}}
	})(t)
}

// Nobody answers at all, not even that nobody is there.
func rowBlackHole(t *testing.T) {
	var hole atomic.Bool
	n := new(origintest.Net)
	p := plan{net: n, world: world{dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !hole.Load() {
			return n.DialContext(ctx, network, addr)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}}}
	outage(t, 25*time.Second, p, func(o *origintest.Origin) func() {
		hole.Store(true)
		o.When().Hang() // the connections that are open already
		return func() { o.Heal(); hole.Store(false) }
	})
}

// The upstream takes every request and answers none.
func rowNoAnswer(t *testing.T) {
	outage(t, 65*time.Second, plan{}, func(o *origintest.Origin) func() {
		o.When().Hang()
		return o.Heal
	})
}

// The upstream fails for an hour and more; it is asked seldom, and used again soon after.
func rowServerErrors(t *testing.T) {
	outage(t, 5*time.Second, plan{}, func(o *origintest.Origin) func() {
		o.When().Status(503)
		o.Forget()
		return func() {
			if n := o.Count(); n > 80 {
				t.Errorf("asked %d times while it failed", n)
			}
			o.Heal()
		}
	})
}

// A hub that grants few pulls: what was pulled once is never refused again, and the hub is asked for no more pulls
// than there are tags. What is new is refused with the hub's own words.
func rowRateLimit(t *testing.T) {
	const tags, hours = 20, 12
	o := origintest.New()
	var images []*origintest.Image
	for i := range tags {
		images = append(images, o.PutImage(repo, fmt.Sprintf("v%d", i), origintest.Spec{Seed: uint64(i)}))
	}
	fresh := o.PutImage(repo, "new", origintest.Spec{Seed: tags})
	o.RateLimit(tags, 30*24*time.Hour, "192.0.2.1")
	w := inBubble(t, o)
	for range hours * 6 {
		for i, img := range images {
			w.get(manifestPath(fmt.Sprintf("v%d", i))).brings(t, img.Top.Content)
		}
		time.Sleep(10 * time.Minute)
	}
	if n := o.Count(origintest.Manifest, origintest.GET); n != tags {
		t.Errorf("%d pulls were counted", n)
	}
	a := w.get(manifestPath("new"))
	a.refuses(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if wait, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || wait < 1 {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
	if !strings.Contains(string(a.body), "docker.io limits pulls of 192.0.2.1") {
		t.Errorf("does not say whose limit: %s", a.body)
	}
	o.When().Status(http.StatusTooManyRequests).Header("Retry-After", "3600") // now HEAD is limited too
	time.Sleep(10 * time.Minute)
	for i, img := range images {
		a := w.get(manifestPath(fmt.Sprintf("v%d", i)))
		a.brings(t, img.Top.Content)
		if a.header.Get("Warning") == "" {
			t.Errorf("v%d: does not say that it is stale", i)
		}
	}
	o.Heal()
	o.RateLimit(-1, 0, "")
	time.Sleep(time.Hour + time.Minute) // until the time it named it is not asked
	w.pulls("new", fresh)
}

// Our login is refused from one day to the next. That is an outage: what is held is served, what is not says whose
// login it was; and once the file with the password is right, so is all.
func rowCredentials(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	other := o.PutImage(repo, "other", origintest.Spec{Seed: 1})
	o.RequireToken(origintest.TokenServer{})
	o.Private()
	o.Account("acme", "first-secret")
	secret := write(t, "first-secret")
	w := inBubble(t, o, plan{file: login(secret)})
	w.pulls("latest", img)

	o.Account("acme", "second-secret")
	o.RevokeTokens()
	time.Sleep(10 * time.Minute)
	w.pulls("latest", img)
	a := w.get(manifestPath("other"))
	a.refuses(t, http.StatusBadGateway, "UNAVAILABLE")
	if !strings.Contains(string(a.body), "acme") || strings.Contains(string(a.body), "secret") {
		t.Errorf("does not name the login, or tells too much: %s", a.body)
	}
	if err := os.WriteFile(secret, []byte("second-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.pulls("other", other)

	// The login is good, the repository is no longer for it: that is an answer, and final.
	o.Account("acme", "second-secret", "library/another")
	o.RevokeTokens()
	time.Sleep(10 * time.Minute)
	w.get(manifestPath("latest")).refuses(t, http.StatusForbidden, "DENIED")
	// What the tag was known to be goes with it; what was granted by digest alone holds for a day.
	w.get(digestPath(img.Top.Digest)).refuses(t, http.StatusForbidden, "DENIED")
	time.Sleep(24 * time.Hour)
	w.get(digestPath(img.Top.Digest)).refuses(t, http.StatusForbidden, "DENIED")
	w.get(blobPath(img.Blobs[0].Digest)).refuses(t, http.StatusForbidden, "DENIED")
}

// login is a configuration with a login at docker.io.
func login(passwordFile string) string {
	return "upstreams: {docker.io: {cleartext_login: true, credentials: [{username: acme, password_file: " + passwordFile + "}]}}"
}

// write writes a file and returns its name.
func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
