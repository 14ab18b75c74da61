package origintest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

const size = 1 << 20

// seen is what a client saw of an answer.
type seen struct {
	*http.Response
	body []byte
	err  error
	blob *origintest.Content
}

func TestFaults(t *testing.T) {
	fiveToNine := []string{"Range", "bytes=5-9"}
	for _, c := range []struct {
		name  string
		spoil func(*origintest.Rule)
		ask   []string // headers of the request
		want  func(seen) bool
	}{
		{"none", func(*origintest.Rule) {}, nil, func(s seen) bool { return s.good() && s.ContentLength == size }},
		{"cut", func(r *origintest.Rule) { r.CutAt(1000) }, nil, func(s seen) bool {
			return s.err != nil && len(s.body) == 1000
		}},
		{"cut beyond the end", func(r *origintest.Rule) { r.CutAt(size + 1) }, nil, seen.good},
		{"cut of a range", func(r *origintest.Rule) { r.CutAt(10) }, []string{"Range", "bytes=500-599"}, func(s seen) bool {
			return s.err != nil && bytes.Equal(s.body, s.blob.Bytes()[500:510])
		}},
		{"cut that looks like an end", func(r *origintest.Rule) { r.UntilClose().CutAt(1000) }, nil, func(s seen) bool {
			return s.err == nil && len(s.body) == 1000 && s.ContentLength == -1
		}},
		{"reset", func(r *origintest.Rule) { r.ResetAt(1000) }, nil, func(s seen) bool { return s.err != nil }},
		{"flip", func(r *origintest.Rule) { r.Flip(700) }, nil, func(s seen) bool { return s.differsOnlyAt(700) }},
		{"flip in a range", func(r *origintest.Rule) { r.Flip(700) }, []string{"Range", "bytes=700-"}, func(s seen) bool {
			return s.StatusCode == 206 && s.body[0] == s.blob.Bytes()[700]^0xff && s.body[1] == s.blob.Bytes()[701]
		}},
		{"length too long", func(r *origintest.Rule) { r.Length(5) }, nil, func(s seen) bool {
			return s.ContentLength == size+5 && len(s.body) == size && errors.Is(s.err, io.ErrUnexpectedEOF)
		}},
		{"length too short", func(r *origintest.Rule) { r.Length(-5) }, nil, func(s seen) bool {
			return s.ContentLength == size-5 && len(s.body) == size-5 && s.err == nil
		}},
		{"too many bytes", func(r *origintest.Rule) { r.Pad(5) }, nil, func(s seen) bool {
			return s.ContentLength == size+5 && len(s.body) == size+5 && s.err == nil
		}},
		{"no length", func(r *origintest.Rule) { r.NoLength() }, nil, func(s seen) bool {
			return s.good() && s.ContentLength == -1
		}},
		{"no range", func(r *origintest.Rule) { r.NoRange() }, fiveToNine, func(s seen) bool {
			return s.good() && s.StatusCode == 200 && s.Header.Get("Accept-Ranges") == ""
		}},
		{"206 unasked", func(r *origintest.Rule) { r.Partial(5, 10) }, nil, func(s seen) bool {
			return s.StatusCode == 206 && s.Header.Get("Content-Range") == "bytes 5-14/1048576" && len(s.body) == 10
		}},
		{"wrong range", func(r *origintest.Rule) { r.Header("Content-Range", "bytes 0-4/99") }, fiveToNine, func(s seen) bool {
			return s.StatusCode == 206 && s.Header.Get("Content-Range") == "bytes 0-4/99" && len(s.body) == 5
		}},
		{"header gone", func(r *origintest.Rule) { r.Header("Docker-Content-Digest", "") }, nil, func(s seen) bool {
			return s.good() && s.Header.Get("Docker-Content-Digest") == ""
		}},
		{"status with header", func(r *origintest.Rule) { r.Header("Retry-After", "7").Status(429) }, nil, func(s seen) bool {
			return s.StatusCode == 429 && s.Header.Get("Retry-After") == "7" && strings.Contains(string(s.body), "TOOMANYREQUESTS")
		}},
		{"web page", func(r *origintest.Rule) { r.HTML() }, nil, func(s seen) bool {
			return s.StatusCode == 200 && strings.HasPrefix(s.Header.Get("Content-Type"), "text/html") && len(s.body) > 0
		}},
		{"empty", func(r *origintest.Rule) { r.Empty() }, nil, func(s seen) bool {
			return s.StatusCode == 200 && s.ContentLength == 0
		}},
		{"204", func(r *origintest.Rule) { r.NoContent() }, nil, func(s seen) bool { return s.StatusCode == 204 }},
		{"gzip", func(r *origintest.Rule) { r.Gzip() }, nil, func(s seen) bool {
			return s.Header.Get("Content-Encoding") == "gzip" && bytes.HasPrefix(s.body, []byte{0x1f, 0x8b})
		}},
		{"endless", func(r *origintest.Rule) { r.Endless().CutAt(3 * size) }, nil, func(s seen) bool {
			return s.StatusCode == 200 && len(s.body) == 3*size && s.err != nil
		}},
		{"redirect", func(r *origintest.Rule) { r.Redirect("http://there.test/x") }, nil, func(s seen) bool {
			return s.StatusCode == 307 && s.Header.Get("Location") == "http://there.test/x"
		}},
		{"redirect in a circle", func(r *origintest.Rule) { r.Redirect("") }, nil, func(s seen) bool {
			return s.StatusCode == 307 && s.Header.Get("Location") == s.Request.URL.Path
		}},
		{"401", func(r *origintest.Rule) { r.Unauthorized() }, nil, func(s seen) bool {
			return s.StatusCode == 401 && strings.Contains(s.Header.Get("WWW-Authenticate"), `/token",`)
		}},
		{"foreign realm", func(r *origintest.Rule) { r.Realm("http://evil.test/token") }, nil, func(s seen) bool {
			return strings.HasPrefix(s.Header.Get("WWW-Authenticate"), `Bearer realm="http://evil.test/token",`)
		}},
		{"hung up", func(r *origintest.Rule) { r.Drop() }, nil, func(s seen) bool { return s.Response == nil && s.err != nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := origintest.New()
			hub := origintest.Serve(t, o)
			blob := o.PutBlob("a", origintest.Synthetic(1, size))
			c.spoil(o.When(origintest.Blob))
			resp, body, err := get(t, hub, "/v2/a/blobs/"+blob.Digest().String(), c.ask...)
			if s := (seen{resp, body, err, blob}); !c.want(s) {
				t.Errorf("%d bytes, %v: %v", len(body), err, resp)
			}
		})
	}
}

func (s seen) good() bool { return s.err == nil && s.blob.Digest().Names(s.body) }

func (s seen) differsOnlyAt(i int) bool {
	if len(s.body) != int(s.blob.Size()) || s.err != nil || s.good() {
		return false
	}
	s.body[i] ^= 0xff
	return s.good()
}

func TestFaultsOverHTTP2(t *testing.T) {
	o := origintest.New()
	hub := origintest.ServeTLS(t, o, origintest.TLS{})
	path := "/v2/a/blobs/" + o.PutBlob("a", origintest.Synthetic(1, size)).Digest().String()
	if resp, body, err := get(t, hub, path); err != nil || resp.ProtoMajor != 2 || len(body) != size {
		t.Fatalf("good: %v, %d bytes, %v", resp, len(body), err)
	}
	o.When(origintest.Blob).Once().CutAt(1000)
	if _, body, err := get(t, hub, path); err == nil || len(body) != 1000 {
		t.Errorf("cut: %d bytes, %v", len(body), err)
	}
}

func TestRulesCount(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	o.PutImage("a", "latest", origintest.Spec{})
	o.When(origintest.Manifest, origintest.HEAD).Status(405)
	o.When(origintest.Manifest, origintest.GET, origintest.Repo("a")).Times(2).Status(500)
	third := o.When(origintest.Manifest, origintest.GET).Nth(4).Status(503)
	o.When(origintest.Repo("b")).Status(418)
	ask := func(method string) int {
		resp, _, err := ask(t, hub, method, hub.URL+"/v2/a/manifests/latest", "Accept", origintest.OCIManifest)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	if got := ask("HEAD"); got != 405 {
		t.Errorf("HEAD: %d", got)
	}
	for i, want := range []int{500, 500, 200, 503, 200} {
		if got := ask("GET"); got != want {
			t.Errorf("GET %d: %d, want %d", i+1, got, want)
		}
	}
	if third.Seen() != 5 {
		t.Errorf("seen %d times, want 5", third.Seen())
	}
	o.Heal()
	if got := ask("HEAD"); got != 200 {
		t.Errorf("healed: %d", got)
	}
}

// bubble runs f in a bubble with an origin at http://hub.test.
func bubble(t *testing.T, f func(t *testing.T, o *origintest.Origin, client *http.Client)) {
	synctest.Test(t, func(t *testing.T) {
		var n origintest.Net
		o := origintest.New()
		client := origintest.ServeIn(t, &n, "hub.test:80", o).Client()
		t.Cleanup(client.CloseIdleConnections)
		f(t, o, client)
	})
}

func TestStallUntilReleased(t *testing.T) {
	bubble(t, func(t *testing.T, o *origintest.Origin, client *http.Client) {
		blob := o.PutBlob("a", origintest.Synthetic(1, size))
		rule := o.When(origintest.Blob).StallAt(size / 2)
		resp, err := client.Get("http://hub.test/v2/a/blobs/" + blob.Digest().String())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.CopyN(io.Discard, resp.Body, size/2); err != nil {
			t.Fatal(err)
		}
		<-rule.Reached()
		more := make(chan error, 1)
		go func() { more <- blob.Compare(resp.Body, size/2, -1) }()
		synctest.Wait()
		time.Sleep(time.Hour)
		select {
		case err := <-more:
			t.Fatalf("not stalled: %v", err)
		default:
		}
		rule.Release()
		if err := <-more; err != nil {
			t.Error(err)
		}
	})
}

func TestStallEndsWithItsRequest(t *testing.T) {
	bubble(t, func(t *testing.T, o *origintest.Origin, client *http.Client) {
		blob := o.PutBlob("a", origintest.Synthetic(1, size))
		o.When(origintest.Blob, origintest.GET).Hang()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://hub.test/v2/a/blobs/"+blob.Digest().String(), nil)
		if _, err := client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("hung: %v", err)
		}
		if err := o.AwaitIdle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := o.Requests(origintest.Blob)[0]; r.Status != 0 || r.Took != time.Minute {
			t.Errorf("%+v", r)
		}
	})
}

func TestTime(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(o *origintest.Origin)
		first time.Duration // until the header
		whole time.Duration
	}{
		{"delay", func(o *origintest.Origin) { o.When(origintest.Blob).Delay(3 * time.Second) }, 3 * time.Second, 3 * time.Second},
		{"trickle", func(o *origintest.Origin) { o.When(origintest.Blob).Pace(size / 64) }, 0, 64 * time.Second},
		{"connection", func(o *origintest.Origin) { o.Pace(size / 8) }, 0, 8 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, o *origintest.Origin, client *http.Client) {
				blob := o.PutBlob("a", origintest.Synthetic(1, size))
				c.spoil(o)
				start := time.Now()
				resp, err := client.Get("http://hub.test/v2/a/blobs/" + blob.Digest().String())
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got := time.Since(start); got != c.first {
					t.Errorf("header after %s, want %s", got, c.first)
				}
				if err := blob.Compare(resp.Body, 0, -1); err != nil {
					t.Error(err)
				}
				if got := time.Since(start); got < c.whole*98/100 || got > c.whole {
					t.Errorf("whole after %s, want %s", got, c.whole)
				}
			})
		})
	}
}

func TestDeadHostRefuses(t *testing.T) {
	hub := origintest.Serve(t, origintest.New())
	if _, _, err := ask(t, hub, "GET", origintest.Dead(t)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("tcp: %v", err)
	}
	var n origintest.Net
	there := origintest.ServeIn(t, &n, "hub.test:80", origintest.New())
	if _, _, err := ask(t, there, "GET", "http://other.test"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("net: %v", err)
	}
}

func TestReopen(t *testing.T) {
	o := origintest.New()
	var n origintest.Net
	for _, hub := range []*origintest.Server{origintest.Serve(t, o), origintest.ServeIn(t, &n, "hub.test:80", o)} {
		hub.Close()
		if _, _, err := get(t, hub, "/v2/"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s, closed: %v", hub.URL, err)
		}
		if err := hub.Reopen(); err != nil {
			t.Fatal(err)
		}
		if resp, _, err := get(t, hub, "/v2/"); err != nil || resp.StatusCode != 200 {
			t.Errorf("%s, open again: %v", hub.URL, err)
		}
		hub.Close()
	}
	if n := o.OpenConns(); n != 0 {
		t.Errorf("%d connections left open", n)
	}
}

func TestLyingName(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	claimed := cache.Sum([]byte("secret"))
	o.PutBlob("a", origintest.Bytes([]byte("what I have")).Named(claimed))
	_, body, err := get(t, hub, "/v2/a/blobs/"+claimed.String())
	if err != nil || string(body) != "what I have" {
		t.Errorf("%q, %v", body, err)
	}
}
