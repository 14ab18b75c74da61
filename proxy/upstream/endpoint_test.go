package upstream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// pair is an upstream of two endpoints, in memory.
type pair struct {
	origintest.Net
	first, second *origintest.Origin
	image         *origintest.Image
	hubs          *upstream.Hubs
}

func newPair(t *testing.T) *pair {
	p := &pair{first: origintest.New(), second: origintest.New()}
	p.image = p.first.PutImage(repo, "latest", origintest.Spec{})
	p.second.Put(repo, "latest", p.image)
	c := at(origintest.ServeIn(t, &p.Net, "first.test:80", p.first), origintest.ServeIn(t, &p.Net, "second.test:80", p.second))
	p.hubs = hubs(t, upstream.Options{Dial: p.DialContext}, c)
	return p
}

// What fails before its body is asked of the next endpoint in the same call, whatever is asked.
func TestNextEndpoint(t *testing.T) {
	for name, spoil := range map[string]func(*origintest.Rule){
		"hangs up":     func(r *origintest.Rule) { r.Drop() },
		"hangs":        func(r *origintest.Rule) { r.Hang() },
		"500":          func(r *origintest.Rule) { r.Status(500) },
		"503":          func(r *origintest.Rule) { r.Status(503) },
		"404":          func(r *origintest.Rule) { r.Status(404) },
		"403":          func(r *origintest.Rule) { r.Status(403) },
		"429":          func(r *origintest.Rule) { r.Status(429) },
		"HTML":         func(r *origintest.Rule) { r.HTML() },
		"other 401s":   func(r *origintest.Rule) { r.Status(401).Header("WWW-Authenticate", `Bearer realm="http://evil.test/"`) },
		"a redirect":   func(r *origintest.Rule) { r.Redirect("http://down.test/") },
		"a loop":       func(r *origintest.Rule) { r.Redirect("") },
		"gzip, though": func(r *origintest.Rule) { r.Header("Content-Encoding", "gzip") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				spoil(p.first.When())
				for path, err := range everyPath(t.Context(), p.hubs, p.image.Top.Digest) {
					if err != nil && !strings.HasSuffix(path, "blob") {
						t.Errorf("%s: %v", path, err)
					}
				}
				mustSlurp(t, p.hubs, blobRef(p.image.Blobs[0].Digest))
				if p.first.Count() == 0 {
					t.Error("the first endpoint was not asked")
				}
			})
		})
	}
}

// A manifest that comes broken from one endpoint comes whole from the next, in the same call.
func TestNextEndpointForBrokenManifest(t *testing.T) {
	for name, spoil := range map[string]func(*origintest.Rule){
		"cut":     func(r *origintest.Rule) { r.CutAt(20) },
		"stalled": func(r *origintest.Rule) { r.StallAt(20) },
		"flipped": func(r *origintest.Rule) { r.Flip(20) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				spoil(p.first.When())
				if got := mustSlurp(t, p.hubs, tagRef("latest")); !p.image.Top.Digest.Names(got) {
					t.Error("other bytes")
				}
			})
		})
	}
}

// An endpoint that is down is passed over, for longer each time, and used again when it is back.
func TestDownEndpointIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		down := p.first.When().Drop()
		mustSlurp(t, p.hubs, tagRef("latest"))
		s := p.hubs.Stats()[0].Endpoints
		if s[0].Up || s[0].Error == "" || s[0].URL != "http://first.test:80" || !s[1].Up {
			t.Errorf("%+v", s)
		}
		for began := time.Now(); time.Since(began) < 10*time.Minute; time.Sleep(time.Second) {
			mustSlurp(t, p.hubs, tagRef("latest"))
		}
		// pauses of 1, 2, 4, … 60 s, of which jitter takes up to a half
		if n := down.Seen(); n < 12 || n > 30 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		down.End()
		time.Sleep(time.Minute)
		mustSlurp(t, p.hubs, tagRef("latest"))
		p.second.Forget()
		mustSlurp(t, p.hubs, tagRef("latest"))
		if n := p.second.Count(); n != 0 || !p.hubs.Stats()[0].Endpoints[0].Up {
			t.Errorf("%d requests at the second when the first was back", n)
		}
	})
}

// When all are down, the one whose failure is the oldest is tried, at the latest after a quarter of a minute: that is
// how soon it is seen that one is back.
func TestAllDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		first, second := p.first.When().Drop(), p.second.When().Drop()
		tried := func() int { return first.Seen() + second.Seen() }
		for range 20 {
			before := tried()
			_, err := p.hubs.Resolve(t.Context(), tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable)
			if tried() == before {
				t.Fatal("refused without a try")
			}
			time.Sleep(15 * time.Second)
		}
		second.End()
		time.Sleep(15 * time.Second)
		_, err := p.hubs.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		if err != nil {
			_, err = p.hubs.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		}
		if err != nil {
			t.Error("one is back:", err)
		}
	})
}

// A thousand clients' retries are a few requests at a hub that fails them all.
func TestFailingHubIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := origintest.New()
		down := o.When().Status(500)
		var n origintest.Net
		h := hubs(t, upstream.Options{Dial: n.DialContext}, at(origintest.ServeIn(t, &n, "hub.test:80", o)))
		for range 1000 {
			_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable, "answered 500")
			time.Sleep(10 * time.Millisecond)
		}
		if n := down.Seen(); n < 5 || n > 8 { // three, and then after 1, 2, 4, … s less jitter
			t.Errorf("%d requests in ten seconds", n)
		}
	})
}

// A single failure is no reason to refuse the next request.
func TestOneFailureBarsNobody(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.When().Once().Status(502)
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable)
	mustSlurp(t, h, tagRef("latest"))
}

// "Not found" is believed when every endpoint says so, and none failed to.
func TestNotFoundNeedsEveryEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		_, err := p.hubs.Resolve(t.Context(), tagRef("nothing"), cache.Whole)
		wantErr(t, err, cache.ErrNotFound)
		down := p.first.When().Status(500)
		for range 2 { // failing, and then passed over
			_, err = p.hubs.Resolve(t.Context(), tagRef("nothing"), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable)
			if errors.Is(err, cache.ErrNotFound) {
				t.Error(err)
			}
		}
		down.End()
		time.Sleep(time.Minute)
		p.first.When().Status(403)
		_, err = p.hubs.Resolve(t.Context(), tagRef("nothing"), cache.Whole)
		wantErr(t, err, cache.ErrDenied)
	})
}

// A caller who leaves speaks against nobody.
func TestLeavingBlamesNobody(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	hang := o.When().Hang()
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-hang.Reached(); cancel() }()
	_, err := h.Resolve(ctx, tagRef("latest"), cache.Whole)
	if !errors.Is(err, context.Canceled) || errors.Is(err, cache.ErrUnavailable) {
		t.Error(err)
	}
	if s := h.Stats()[0]; s.Failures != 0 || !s.Endpoints[0].Up {
		t.Errorf("%+v", s)
	}
}

// The time-outs tell a hub that is slow from one that is dead.
func TestTimeouts(t *testing.T) {
	took := func(t *testing.T, want time.Duration, f func() error, says string) {
		t.Helper()
		began := time.Now()
		wantErr(t, f(), cache.ErrUnavailable, says)
		if got := time.Since(began); got < want || got > want+100*time.Millisecond {
			t.Errorf("took %v, want %v", got, want)
		}
	}
	t.Run("a connection that is never made", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hole := func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
			h := hubs(t, upstream.Options{Dial: hole}, upstream.Config{})
			took(t, 5*time.Second, func() error { return second(h.Resolve(t.Context(), tagRef("x"), cache.Whole)) }, "no connection to reg.test:443 within 5s")
		})
	})
	t.Run("a handshake that does not come", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := hubs(t, upstream.Options{Dial: silent}, upstream.Config{})
			took(t, 10*time.Second, func() error { return second(h.Resolve(t.Context(), tagRef("x"), cache.Whole)) }, "TLS handshake timeout")
		})
	})
	t.Run("headers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := hubs(t, upstream.Options{Dial: silent}, upstream.Config{Endpoints: []string{"http://reg.test"}})
			took(t, 15*time.Second, func() error { return second(h.Resolve(t.Context(), tagRef("x"), cache.Whole)) }, "timeout awaiting response headers")
		})
	})
	t.Run("a body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := origintest.New()
			blob := o.PutBlob(repo, origintest.Synthetic(1, 1<<20))
			o.When(origintest.Blob).StallAt(1 << 19)
			var n origintest.Net
			h := hubs(t, upstream.Options{Dial: n.DialContext}, at(origintest.ServeIn(t, &n, "hub.test:80", o)))
			a, err := h.Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Body.Close()
			if _, err := io.CopyN(io.Discard, a.Body, 1<<18); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // a reader may pause as long as he likes
			took(t, 15*time.Second, func() error { return second(cache.Answer{}, copyAll(a.Body)) }, "no byte for 15s")
			if h.Stats()[0].Endpoints[0].Up || h.Stats()[0].Fetches != 0 {
				t.Errorf("%+v", h.Stats()[0])
			}
		})
	})
	t.Run("a manifest that trickles", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := origintest.New()
			o.PutImage(repo, "latest", origintest.Spec{Pad: 10_000})
			o.When(origintest.GET).Pace(10)
			var n origintest.Net
			h := hubs(t, upstream.Options{Dial: n.DialContext}, at(origintest.ServeIn(t, &n, "hub.test:80", o)))
			took(t, time.Minute, func() error { return second(h.Open(t.Context(), tagRef("latest"), cache.Whole)) }, "did not finish its answer within 1m0s")
		})
	})
}

func copyAll(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// silent is a network whose servers take everything and say nothing.
func silent(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	go io.Copy(io.Discard, server)
	return client, nil
}

// A blob that comes slowly comes: nothing limits the whole.
func TestSlowBlob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := origintest.New()
		blob := o.PutBlob(repo, origintest.Synthetic(1, 20<<10))
		o.When(origintest.Blob).Pace(100)
		var n origintest.Net
		h := hubs(t, upstream.Options{Dial: n.DialContext}, at(origintest.ServeIn(t, &n, "hub.test:80", o)))
		began := time.Now()
		a, err := h.Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		if err := copyAll(a.Body); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 3*time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

// Downloads from one hub are limited; who waits may leave, and every end of a body gives its slot back.
func TestFetchesAreLimited(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1<<20))
	s := origintest.Serve(t, o)
	c := at(s)
	c.Fetches = 2
	h := hubs(t, upstream.Options{}, c)
	open := func() io.ReadCloser {
		a, err := h.Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
		if err != nil {
			t.Fatal(err)
		}
		return a.Body
	}
	for name, end := range map[string]func(io.ReadCloser){
		"closed":       func(r io.ReadCloser) { r.Close() },
		"closed twice": func(r io.ReadCloser) { r.Close(); r.Close() },
		"read":         func(r io.ReadCloser) { copyAll(r) },
		"read, closed": func(r io.ReadCloser) { copyAll(r); r.Close() },
	} {
		a, b := open(), open()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // it comes to where it waits, also on a busy machine
		_, err := h.Open(ctx, blobRef(blob.Digest()), cache.Whole)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 downloads") {
			t.Errorf("a third at once: %v", err)
		}
		end(a)
		end(b)
		if n := h.Stats()[0].Fetches; n != 0 {
			t.Fatalf("%s: %d fetches", name, n)
		}
	}
	o.When(origintest.Blob).Status(404)
	for range 5 {
		_, err := h.Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
		wantErr(t, err, cache.ErrNotFound)
	}
}

// Nothing is asked of anybody before somebody wants something.
func TestStartWithoutNetwork(t *testing.T) {
	var dials atomic.Int64
	h := hubs(t, upstream.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
		dials.Add(1)
		return nil, errors.New("the network is unreachable")
	}}, upstream.Config{})
	if dials.Load() != 0 || len(h.Stats()) != 1 {
		t.Error("the network was used at the start")
	}
	_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, "the network is unreachable")
}

// An address that changes is found: each connection resolves anew.
func TestHubMoves(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	s := origintest.Serve(t, o)
	w := &world{routes: map[string]string{"10.0.0.2:80": s.Addr()}}
	d := &dns{answers: map[string][]string{"hub.corp": {"10.0.0.1", "10.0.0.2"}}}
	h := hubs(t, upstream.Options{Dial: w.Dial, Resolver: d.resolver()}, upstream.Config{Endpoints: []string{"http://hub.corp"}})
	_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable)
	mustSlurp(t, h, tagRef("latest"))
}

// Close ends what is under way, and then nothing begins.
func TestClose(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1<<20))
	o.When(origintest.Blob).StallAt(1 << 19)
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	a, err := h.Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, copyAll(a.Body), cache.ErrUnavailable)
	_, err = h.Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
	wantErr(t, err, cache.ErrClosed)
}
