package cluster

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// evil is a member that answers every question wrongly, in a way that changes from answer to answer.
type evil struct {
	http.Handler
	answers *atomic.Int64
}

// braces are what no error document consists of.
var braces = bytes.Repeat([]byte("{"), 1<<20)

// wrongs are the ways. Each gets what an honest member would have answered.
var wrongs = []func(w http.ResponseWriter, r *http.Request, a *httptest.ResponseRecorder){
	func(w http.ResponseWriter, _ *http.Request, a *httptest.ResponseRecorder) { // corrupt
		b := bytes.Clone(a.Body.Bytes())
		if len(b) > 0 {
			b[len(b)/2] ^= 1
		}
		_, _ = w.Write(b)
	},
	func(w http.ResponseWriter, _ *http.Request, a *httptest.ResponseRecorder) { // short
		w.Header().Del("Content-Length")
		_, _ = w.Write(a.Body.Bytes()[:a.Body.Len()/2])
	},
	func(w http.ResponseWriter, _ *http.Request, a *httptest.ResponseRecorder) { // cut off
		_, _ = w.Write(a.Body.Bytes()[:a.Body.Len()/2])
		panic(http.ErrAbortHandler)
	},
	func(w http.ResponseWriter, _ *http.Request, a *httptest.ResponseRecorder) { // long
		w.Header().Del("Content-Length")
		_, _ = w.Write(append(bytes.Clone(a.Body.Bytes()), "and more"...))
	},
	func(w http.ResponseWriter, _ *http.Request, a *httptest.ResponseRecorder) { // long, and it says so
		w.Header().Del("Content-Length")
		w.Header().Set(headSize, "99999999")
		_, _ = w.Write(append(bytes.Clone(a.Body.Bytes()), braces[:100<<10]...))
	},
	func(w http.ResponseWriter, _ *http.Request, a *httptest.ResponseRecorder) { // another's content, under another's name
		other := bytes.Repeat([]byte("x"), a.Body.Len())
		w.Header().Set(headDigest, cache.Sum(other).String())
		_, _ = w.Write(other)
	},
	func(w http.ResponseWriter, _ *http.Request, a *httptest.ResponseRecorder) { // another part
		w.Header().Set(headOff, "7")
		_, _ = w.Write(a.Body.Bytes())
	},
	func(w http.ResponseWriter, r *http.Request, a *httptest.ResponseRecorder) { // slow: a byte each minute
		for _, b := range a.Body.Bytes() {
			if _, err := w.Write([]byte{b}); err != nil || http.NewResponseController(w).Flush() != nil || !pause(r.Context(), time.Minute) {
				return
			}
		}
	},
	func(_ http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) { <-r.Context().Done() }, // nothing
	func(w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) { // "wait", for ever
		w.WriteHeader(http.StatusEarlyHints)
		pause(r.Context(), 20*time.Second)
	},
	func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) { // an error that is none
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(braces)
	},
	func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) { // elsewhere
		w.Header().Set("Location", "https://10.0.0.9/")
		w.WriteHeader(http.StatusTemporaryRedirect)
	},
}

func (e evil) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	honest := httptest.NewRecorder()
	honest.Code = 0
	e.Handler.ServeHTTP(final{honest}, r)
	for k, v := range honest.Header() {
		w.Header()[k] = v
	}
	wrongs[int(e.answers.Add(1))%len(wrongs)](w, r, honest)
}

// final leaves out what comes before an answer, and deadlines.
type final struct{ *httptest.ResponseRecorder }

func (f final) WriteHeader(code int) {
	if code >= 200 {
		f.ResponseRecorder.WriteHeader(code)
	}
}

// TestEvilMember is row 64: of thousands of answers that are wrong in every way no wrong byte reaches anybody, and what is
// wanted comes from elsewhere. Under the race detector there are fewer: .ci/steps runs it without as well.
func TestEvilMember(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTown(t, w, 3)
		liar, answers := c.nodes[0], new(atomic.Int64)
		liar.server.Handler = evil{Handler: liar.server.Handler, answers: answers}
		asked, want := 0, int64(10_000)
		switch {
		case testing.Short():
			want = 600
		case racing:
			want = 1500
		}
		for seed := uint64(0); answers.Load() < want && seed < 10*uint64(want); seed++ {
			ref := w.put(cache.KindBlob, "library/app", bytes.Repeat([]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}, 1000))
			if v := c.nodes[1].view.Load(); v.Ring.Owners(KeyOf(ref), 1)[0].Name != liar.Name {
				continue
			}
			for _, n := range c.nodes[1:] {
				n.router.Remotes.forgive(liar.Name)
				began := time.Now()
				err := n.pull(t.Context(), w, ref) // which compares
				for tries := 0; tries < 3 && (errors.Is(err, cache.ErrCorrupt) || errors.Is(err, cache.ErrUnavailable)); tries++ {
					err = n.pull(t.Context(), w, ref) // it was cut off, and asks again
				}
				if err != nil {
					t.Fatalf("after %d answers: %v", answers.Load(), err)
				}
				if took := time.Since(began); took > 2*time.Minute {
					t.Errorf("it took %v", took)
				}
				asked++
			}
		}
		t.Logf("%d wrong answers to %d pulls", answers.Load(), asked)
		if answers.Load() < want {
			t.Errorf("%d wrong answers", answers.Load())
		}
	})
}

// forgive forgets how a member has answered.
func (r *Remotes) forgive(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.all[name]; x != nil {
		x.temper.mu.Lock()
		x.temper.fails, x.temper.shut, x.temper.lies = 0, false, 0
		x.temper.mu.Unlock()
	}
}

// TestLiarsAreLeftAlone: a member whose bytes turned out to be others three times is not asked for a minute, and then
// again.
func TestLiarsAreLeftAlone(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		w := newWorld()
		c := newTown(t, w, 3)
		liar, n, answers := c.nodes[0], c.nodes[1], new(atomic.Int64)
		honest, mended := liar.server.Handler, new(atomic.Bool)
		liar.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if mended.Load() {
				honest.ServeHTTP(w, r)
				return
			}
			answers.Add(1)
			lying{honest}.ServeHTTP(w, r)
		})
		pull := func(from, to byte) {
			t.Helper()
			for seed := from; seed < to; seed++ {
				ref := w.put(cache.KindBlob, "library/app", bytes.Repeat([]byte{seed, 1}, 1000))
				if n.view.Load().Ring.Owners(KeyOf(ref), 1)[0].Name != liar.Name {
					continue
				}
				err := n.pull(t.Context(), w, ref)
				if errors.Is(err, cache.ErrCorrupt) {
					err = n.pull(t.Context(), w, ref)
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
		for range 5 {
			pull(0, 4) // what is known already is no news
		}
		pull(0, 100)
		if got := answers.Load(); got < mostLies || got > mostLies+1 {
			t.Errorf("%d lies were listened to", got)
		}
		time.Sleep(2 * disgrace)
		mended.Store(true)
		before := n.router.Stats().Told
		pull(100, 200)
		if n.router.Stats().Told == before {
			t.Error("it was never asked again")
		}
	})
}
