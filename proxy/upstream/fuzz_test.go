package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// FuzzAnswer lets a hub answer every request with the same bytes, whatever they are: nothing may panic or hang, what
// counts as content has to be right, and what does not has to be an error of a known kind in one harmless line.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nLink: <?a=b>; rel=next\r\n\r\n{\"manifests\":[{\"digest\":\"\"}]}",
		"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 3-6/10\r\n\r\nabcd",
		"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/9223372036854775807\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
		"HTTP/1.1 416 x\r\nContent-Range: bytes */0\r\n\r\n",
		"HTTP/1.1 401 x\r\nWWW-Authenticate: Bearer realm=\"http://hub.test/token\"\r\nContent-Length: 13\r\n\r\n{\"token\":\"a\"}",
		"HTTP/1.1 401 x\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 x\r\nWWW-Authenticate: Basic\r\nContent-Length: 30\r\n\r\n{\"token\":\"a\",\"expires_in\":1e99}",
		"HTTP/1.1 307 x\r\nLocation: /v2/x\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 307 x\r\nLocation: http://other.test/%zz\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 429 x\r\nRetry-After: 7\r\nDocker-RateLimit-Source: \x01\r\n\r\n{\"errors\":[{\"code\":\"a\\u0000\"}]}",
		"HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP/1.1 204 x\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nx", "HTTP/1.1 100 Continue\r\n\r\n", "nonsense",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		n := &parrot{says: answer}
		h, err := upstream.New([]upstream.Config{{
			Name: "reg.test", Endpoints: []string{"http://hub.test"},
			Credentials: []upstream.Credential{{Username: "acme", Password: canary}},
		}}, upstream.Options{Dial: n.dial, Timeouts: upstream.Timeouts{Headers: time.Second / 10, Stall: time.Second / 10, Document: time.Second / 5}})
		if err != nil {
			t.Fatal(err)
		}
		defer n.wg.Wait()
		defer h.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d := cache.Sum([]byte("hello"))
		for _, ref := range []cache.Ref{blobRef(d), tagRef("latest"), tagRef("").At(d), tagsRef(), referrersRef(d)} {
			for _, want := range []cache.Want{cache.Whole, {Off: 3, N: 4}, {N: -1, Known: d}} {
				a, err := h.Resolve(ctx, ref, want)
				checkAnswer(t, ref, a, nil, err)
				a, b, err := slurp(ctx, h, ref, want)
				checkAnswer(t, ref, a, b, err)
			}
		}
	})
}

func checkAnswer(t *testing.T, ref cache.Ref, a cache.Answer, b []byte, err error) {
	t.Helper()
	if err != nil {
		known := errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded)
		for _, kind := range []error{cache.ErrNotFound, cache.ErrDenied, cache.ErrUnavailable, cache.ErrLimited, cache.ErrCorrupt, cache.ErrUnsupported, cache.ErrUnchanged} {
			known = known || errors.Is(err, kind)
		}
		if !known {
			t.Errorf("%s: %v (%T)", ref, err, err)
		}
		if s := err.Error(); len(s) > 1000 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.Contains(s, canary) {
			t.Errorf("%q", s)
		}
		return
	}
	if b == nil {
		if a.Body != nil {
			a.Body.Close()
		}
		return
	}
	if ref.Kind != cache.KindBlob && (!a.Digest.Names(b) || a.Size != int64(len(b))) {
		t.Errorf("%s: %+v of %q", ref, a, b)
	}
	if a.Size >= 0 && a.Off+int64(len(b)) > a.Size {
		t.Errorf("%s: %d bytes from %d on, of %d", ref, len(b), a.Off, a.Size)
	}
}

// parrot is a network of servers that say one thing only, to each request, and hang up after a few.
type parrot struct {
	says []byte
	wg   sync.WaitGroup
}

func (p *parrot) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.wg.Go(func() {
		defer server.Close()
		r, err := http.ReadRequest(bufio.NewReader(server))
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		io.Copy(server, bytes.NewReader(p.says))
	})
	return client, nil
}
