package proxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy"
)

var names = proxy.Names{
	Upstreams: map[string]proxy.Upstream{"docker.io": {Library: true}, "hub.test": {}, "dead.test": {}},
	Default:   "docker.io",
	Hosts:     map[string]string{"mirror.test": "hub.test"},
}

// failing is a store that has nothing but an error.
type failing struct{ err error }

func (f failing) Stat(context.Context, cache.Ref) (cache.Found, error) { return cache.Found{}, f.err }
func (f failing) Open(context.Context, cache.Ref, cache.Want) (*cache.Blob, error) {
	return nil, f.err
}

// ask asks a handler and returns its answer with the body read.
func ask(t *testing.T, h http.Handler, method, target string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	res := w.Result()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// code is the spec's error code in a body, or what is wrong with it.
func code(body string) string {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		return err.Error()
	}
	if len(e.Errors) != 1 || len(e.Errors[0].Message) < 10 {
		return "no error that says anything: " + body
	}
	return e.Errors[0].Code
}

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestErrors(t *testing.T) {
	soon := &cache.LimitedError{Registry: "docker.io", Whose: "192.0.2.1", Until: time.Now().Add(100 * time.Second)}
	for _, c := range []struct {
		err    error
		target string
		status int
		code   string
		retry  bool
	}{
		{cache.ErrNotFound, "/v2/a/manifests/3", 404, "MANIFEST_UNKNOWN", false},
		{cache.ErrNotFound, "/v2/a/manifests/" + digest, 404, "MANIFEST_UNKNOWN", false},
		{cache.ErrNotFound, "/v2/a/blobs/" + digest, 404, "BLOB_UNKNOWN", false},
		{cache.ErrNotFound, "/v2/a/tags/list", 404, "NAME_UNKNOWN", false},
		{cache.ErrDenied, "/v2/a/manifests/3", 403, "DENIED", false},
		{cache.ErrUnavailable, "/v2/a/blobs/" + digest, 502, "UNAVAILABLE", true},
		{cache.ErrUnavailable, "/v2/a/referrers/" + digest, 502, "UNAVAILABLE", true},
		{cache.ErrOffline, "/v2/a/manifests/3", 404, "MANIFEST_UNKNOWN", false},
		{cache.ErrOffline, "/v2/a/blobs/" + digest, 404, "BLOB_UNKNOWN", false},
		{cache.ErrOffline, "/v2/a/tags/list", 404, "NAME_UNKNOWN", false},
		{cache.ErrLimited, "/v2/a/manifests/3", 429, "TOOMANYREQUESTS", true},
		{soon, "/v2/a/manifests/3", 429, "TOOMANYREQUESTS", true},
		{cache.ErrCorrupt, "/v2/a/manifests/3", 502, "CORRUPT", true},
		{cache.ErrUnsupported, "/v2/a/manifests/3", 415, "UNSUPPORTED", false},
		{cache.ErrClosed, "/v2/a/manifests/3", 503, "UNAVAILABLE", true},
		{context.Canceled, "/v2/a/manifests/3", 503, "UNAVAILABLE", true}, // not the client's: it still waits
		{context.DeadlineExceeded, "/v2/a/manifests/3", 504, "UNAVAILABLE", true},
		{errors.New("what nobody thought of"), "/v2/a/manifests/3", 500, "UNKNOWN", false},
	} {
		h := &proxy.Handler{Store: failing{fmt.Errorf("docker.io/library/a: %w", c.err)}, Names: names}
		res, body := ask(t, h, http.MethodGet, c.target)
		if res.StatusCode != c.status || code(body) != c.code {
			t.Errorf("%v: %d %s", c.err, res.StatusCode, body)
		}
		if (res.Header.Get("Retry-After") != "") != c.retry {
			t.Errorf("%v: Retry-After %q", c.err, res.Header.Get("Retry-After"))
		}
		if res.Header.Get("Content-Type") != "application/json" ||
			!strings.HasPrefix(res.Header.Get("Cache-Status"), "tidepool; ") {
			t.Errorf("%v: %v", c.err, res.Header)
		}
		head, nothing := ask(t, h, http.MethodHead, c.target)
		if head.StatusCode != c.status || nothing != "" || head.Header.Get("Content-Length") != strconv.Itoa(len(body)) {
			t.Errorf("HEAD %v: %d %q %v", c.err, head.StatusCode, nothing, head.Header)
		}
	}
	h := &proxy.Handler{Store: failing{soon}, Names: names}
	res, body := ask(t, h, http.MethodGet, "/v2/a/manifests/3")
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || s < 90 || s > 100 {
		t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
	}
	if !strings.Contains(body, "192.0.2.1") {
		t.Errorf("it does not say whose limit: %s", body)
	}
}

// What an upstream says must not break out of a line or a header, nor grow without bound.
func TestErrorsStayOneLine(t *testing.T) {
	evil := errors.New("said \"\r\nSet-Cookie: a=b\x1b[31m\x00" + strings.Repeat("x", 1<<20))
	h := &proxy.Handler{Store: failing{fmt.Errorf("%w: %w", evil, cache.ErrUnavailable)}, Names: names}
	res, body := ask(t, h, http.MethodGet, "/v2/a/manifests/3")
	if len(body) > 4096 || code(body) != "UNAVAILABLE" || res.Header.Get("Set-Cookie") != "" {
		t.Errorf("%d bytes: %.200s", len(body), body)
	}
	if strings.ContainsAny(strings.TrimSuffix(body, "\n"), "\r\n\x1b\x00") {
		t.Errorf("%.200q", body)
	}
}

func TestOnlyPulls(t *testing.T) {
	h := &proxy.Handler{Store: failing{cache.ErrNotFound}, Names: names}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"} {
		for _, target := range []string{"/v2/a/manifests/3", "/v2/a/blobs/uploads/", "/nowhere", "/v2/"} {
			res, body := ask(t, h, method, target)
			if res.StatusCode != 405 || res.Header.Get("Allow") != "GET, HEAD" || code(body) != "UNSUPPORTED" {
				t.Errorf("%s %s: %d %s", method, target, res.StatusCode, body)
			}
		}
	}
}

func TestRootAnswers(t *testing.T) {
	h := &proxy.Handler{Names: names}
	for _, target := range []string{"/v2/", "/v2", "/hub.test/v2/"} {
		res, body := ask(t, h, http.MethodGet, target)
		if res.StatusCode != 200 || body != "{}" || res.Header.Get("Content-Type") != "application/json" ||
			res.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
			t.Errorf("%s: %d %s %v", target, res.StatusCode, body, res.Header)
		}
	}
}

func TestRefusalsNameTheKey(t *testing.T) {
	h := &proxy.Handler{Names: names}
	res, body := ask(t, h, http.MethodGet, "/v2/quay.io/org/img/manifests/3")
	if res.StatusCode != 403 || code(body) != "DENIED" || !strings.Contains(body, "any_upstream") ||
		!strings.Contains(body, "quay.io") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

func TestRequestID(t *testing.T) {
	h := &proxy.Handler{Names: names}
	seen := map[string]bool{}
	for given, kept := range map[string]bool{
		"4bf92f3577b34da6": true, "a:b/c=d@e.f-g_h+i": true, "": false, "two words": false, "x\"y": false,
		strings.Repeat("x", 129): false, "ümlaut": false,
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v2/", nil)
		r.Header.Set("X-Request-Id", given)
		h.ServeHTTP(w, r)
		got := w.Header().Get("X-Request-Id")
		if (got == given) != kept || got == "" || seen[got] {
			t.Errorf("%q becomes %q", given, got)
		}
		seen[got] = true
	}
}

func TestLoops(t *testing.T) {
	var passed string
	h := &proxy.Handler{ID: "pool-1", Names: names, Store: spy{func(ctx context.Context) { passed = cache.HopsOf(ctx) }}}
	for _, c := range []struct {
		via    []string
		status int
	}{
		{nil, 404},
		{[]string{"1.1 other"}, 404},
		{[]string{"1.1 pool-10, 1.0 xpool-1", "HTTP/1.1 pool-2 (pool-1)"}, 404},
		{[]string{"pool-1"}, 404}, // no protocol, no name
		{[]string{"1.1 pool-1"}, 508},
		{[]string{"1.1 a, HTTP/2  pool-1 (tidepool)"}, 508},
		{[]string{"1.1 a", "1.1 pool-1"}, 508},
		{[]string{strings.Repeat("1.1 a,", 20)}, 508},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v2/a/manifests/3", nil)
		r.Header["Via"] = c.via
		passed = ""
		h.ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%q: %d %s", c.via, w.Code, w.Body)
		}
		if want := strings.Join(c.via, ", "); w.Code == 404 && passed != want {
			t.Errorf("%q: %q goes on", c.via, passed)
		}
	}
}

// spy is a store that has nothing, and tells how it was asked.
type spy struct{ see func(context.Context) }

func (s spy) Stat(ctx context.Context, ref cache.Ref) (cache.Found, error) {
	s.see(ctx)
	return cache.Found{}, cache.ErrNotFound
}

func (s spy) Open(ctx context.Context, ref cache.Ref, _ cache.Want) (*cache.Blob, error) {
	s.see(ctx)
	return nil, cache.ErrNotFound
}

// A fault of ours costs one request, is counted, and tells the client nothing that only the log should know.
func TestPanic(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	var seen proxy.Exchange
	h := &proxy.Handler{Names: names, Store: spy{func(context.Context) { panic("secret detail") }}, Log: zap.New(core),
		Observe: func(x proxy.Exchange) { seen = x }}
	res, body := ask(t, h, http.MethodGet, "/v2/a/manifests/3")
	if res.StatusCode != 500 || code(body) != "UNKNOWN" || strings.Contains(body, "secret") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if !seen.Panicked || seen.Status != 500 {
		t.Errorf("%+v", seen)
	}
	if logs.FilterMessage("panic").Len() != 1 || logs.FilterMessage("request").Len() != 1 {
		t.Errorf("%v", logs.All())
	}
}

// A client that left before there was an answer gets none, and is no failure of ours.
func TestClientGone(t *testing.T) {
	var seen proxy.Exchange
	h := &proxy.Handler{Names: names, Store: failing{fmt.Errorf("asking: %w", context.Canceled)},
		Observe: func(x proxy.Exchange) { seen = x }}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/a/manifests/3", nil)
	if v := recovered(func() { h.ServeHTTP(w, r) }); v != http.ErrAbortHandler {
		t.Errorf("recovered %v", v)
	}
	if seen.Status != 499 || w.Body.Len() > 0 {
		t.Errorf("%+v", seen)
	}
}

func recovered(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

func TestLogLine(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	h := &proxy.Handler{Names: names, Store: failing{cache.ErrUnavailable}, Log: zap.New(core)}
	r := httptest.NewRequest(http.MethodGet, "/v2/a/manifests/3?ns=hub.test&token=hunter2", nil)
	r.Header.Set("User-Agent", "docker/28 \x1b[31m\r\nforged: line"+strings.Repeat("x", 1<<12))
	r.Header.Set("Authorization", "Basic aHVudGVyMg==")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if logs.Len() != 1 {
		t.Fatalf("%d lines", logs.Len())
	}
	line := logs.All()[0]
	fields := line.ContextMap()
	for key, want := range map[string]any{"method": "GET", "registry": "hub.test", "repo": "a", "ref": "3", "kind": "manifest",
		"status": int64(502), "client": "192.0.2.1", "tier": "", "digest": ""} {
		if fields[key] != want {
			t.Errorf("%s is %v, want %v", key, fields[key], want)
		}
	}
	for _, key := range []string{"bytes", "duration_s", "ttfb_s", "user_agent", "request_id", "error"} {
		if _, ok := fields[key]; !ok {
			t.Errorf("there is no %s", key)
		}
	}
	text, err := zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"}).EncodeEntry(line.Entry, line.Context)
	if err != nil {
		t.Fatal(err)
	}
	out := text.String()
	if line.Message != "request" || strings.Count(out, "\n") != 1 || len(out) > 2048 ||
		strings.ContainsRune(out, 0x1b) || strings.Contains(out, "hunter2") || strings.Contains(out, "aHVudGVyMg") {
		t.Errorf("%q", out)
	}
}

// Half of a name is no name: what the grammar refused names nothing.
func TestRefusedNamesNothing(t *testing.T) {
	var seen proxy.Exchange
	h := &proxy.Handler{Names: names, Observe: func(x proxy.Exchange) { seen = x }}
	for _, target := range []string{"/v2/hub.test/A/manifests/3", "/v2/hub.test/a/manifests/-", "/v2/quay.io/a/manifests/3"} {
		if ask(t, h, http.MethodGet, target); seen.Ref != (cache.Ref{}) || seen.Err == nil {
			t.Errorf("%s: %+v", target, seen)
		}
	}
}

// Where the grammar failed there is no name to log, but what was asked for, cut and escaped.
func TestLogLineOfNonsense(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	h := &proxy.Handler{Names: names, Log: zap.New(core)}
	ask(t, h, http.MethodGet, "/v2/%0aforged/"+strings.Repeat("y", 900))
	path, ok := logs.All()[0].ContextMap()["path"].(string)
	if !ok || !strings.HasPrefix(path, "/v2/\nforged") || len(path) > 256 {
		t.Errorf("%q", path)
	}
}
