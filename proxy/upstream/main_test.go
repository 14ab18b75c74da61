package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const repo = "library/app"

// hubs makes the source for one upstream called reg.test.
func hubs(t testing.TB, o upstream.Options, c upstream.Config) *upstream.Hubs {
	t.Helper()
	if c.Name == "" {
		c.Name = "reg.test"
	}
	h, err := upstream.New([]upstream.Config{c}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// at is an upstream at servers.
func at(servers ...*origintest.Server) upstream.Config {
	var c upstream.Config
	for _, s := range servers {
		c.Endpoints = append(c.Endpoints, s.URL)
	}
	return c
}

func blobRef(d cache.Digest) cache.Ref {
	return cache.Ref{Registry: "reg.test", Repo: repo, Kind: cache.KindBlob, Digest: d}
}

func tagRef(tag string) cache.Ref {
	return cache.Ref{Registry: "reg.test", Repo: repo, Kind: cache.KindManifest, Tag: tag}
}

func tagsRef() cache.Ref { return cache.Ref{Registry: "reg.test", Repo: repo, Kind: cache.KindTags} }

func referrersRef(d cache.Digest) cache.Ref {
	return cache.Ref{Registry: "reg.test", Repo: repo, Kind: cache.KindReferrers, Digest: d}
}

// slurp opens ref and reads all of it.
func slurp(ctx context.Context, src cache.Source, ref cache.Ref, want cache.Want) (cache.Answer, []byte, error) {
	a, err := src.Open(ctx, ref, want)
	if err != nil {
		return a, nil, err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	return a, b, err
}

// mustSlurp is slurp where nothing may fail.
func mustSlurp(t testing.TB, src cache.Source, ref cache.Ref) []byte {
	t.Helper()
	_, b, err := slurp(t.Context(), src, ref, cache.Whole)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wantErr checks an error's kind, and that its text says so much.
func wantErr(t testing.TB, err, kind error, says ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want the kind %q", err, kind)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

// everyPath asks in each of the ways that lead to an upstream, and returns the first error of each.
func everyPath(ctx context.Context, src cache.Source, d cache.Digest) map[string]error {
	errs := map[string]error{}
	for name, ref := range map[string]cache.Ref{
		"blob": blobRef(d), "tag": tagRef("latest"), "manifest": tagRef("").At(d), "tags": tagsRef(), "referrers": referrersRef(d),
	} {
		_, errs["resolve "+name] = src.Resolve(ctx, ref, cache.Whole)
		_, _, errs["open "+name] = slurp(ctx, src, ref, cache.Whole)
	}
	return errs
}

// world is a network of names: each leads to a real address, all others to one place. It remembers who was dialled.
type world struct {
	routes map[string]string
	rest   string
	lost   string // a part of names that lead nowhere

	mu      sync.Mutex
	dialled []string
}

func (w *world) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	addr = strings.ToLower(addr)
	w.mu.Lock()
	if !slices.Contains(w.dialled, addr) {
		w.dialled = append(w.dialled, addr)
	}
	w.mu.Unlock()
	to, ok := w.routes[addr]
	if !ok {
		to = w.rest
	}
	if to == "" || w.lost != "" && strings.Contains(addr, w.lost) {
		return nil, fmt.Errorf("no such host: %s", addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, to)
}

func (w *world) Dialled() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.dialled)
}

// file writes a file and returns its name.
func file(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// soon bounds a test that must not hang.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
