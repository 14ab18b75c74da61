package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// Content whose bytes turn out to be others must never arrive as a whole.
func TestWrongBytesAreCutOff(t *testing.T) {
	for name, spoil := range map[string]func(*origintest.Rule) *origintest.Rule{
		"sized":   func(r *origintest.Rule) *origintest.Rule { return r.Flip(1 << 19) },
		"chunked": func(r *origintest.Rule) *origintest.Rule { return r.Flip(1 << 19).NoLength() },
	} {
		t.Run(name, func(t *testing.T) {
			o := origintest.New()
			content := o.PutBlob("library/app", origintest.Synthetic(5, 1<<20))
			spoil(o.When(origintest.Blob, origintest.GET))
			p := start(t, o)
			a := p.get(t, blob("app", content.Digest()))
			if a.StatusCode == 200 && a.err == nil {
				t.Errorf("%d bytes came as if they were the whole", len(a.body))
			}
			if x := p.last(1); !x.Torn && x.Status < 500 || x.Err == nil {
				t.Errorf("%+v", x)
			}
			o.Heal()
			p.get(t, blob("app", content.Digest())).is(t, 200, content.Bytes())
		})
	}
}

// To an HTTP/1.0 client the end of the connection is the end of the content, so it gets nothing before all is proven.
func TestHTTP10(t *testing.T) {
	o := origintest.New()
	good := o.PutBlob("library/app", origintest.Synthetic(6, 4<<20))
	bad := o.PutBlob("library/app", origintest.Synthetic(8, 4<<20))
	o.When(origintest.Of(bad.Digest()), origintest.GET).Flip(3 << 20).Pace(16 << 20) // so that the door is ahead of it
	o.When(origintest.Of(good.Digest()), origintest.GET).NoLength().Pace(16 << 20)
	p := start(t, o)
	res, body := p.old(t, blob("app", good.Digest()), "")
	if res.StatusCode != 200 || !bytes.Equal(body, good.Bytes()) || res.ContentLength != good.Size() {
		t.Errorf("%d, %d bytes, length %d", res.StatusCode, len(body), res.ContentLength)
	}
	res, body = p.old(t, blob("app", good.Digest()), "Range: bytes=1000-1999\r\n")
	if res.StatusCode != 206 || !bytes.Equal(body, good.Bytes()[1000:2000]) {
		t.Errorf("%d, %d bytes", res.StatusCode, len(body))
	}
	res, body = p.old(t, blob("app", bad.Digest()), "")
	if res.StatusCode != 502 || code(string(body)) != "CORRUPT" {
		t.Errorf("%d, %d bytes", res.StatusCode, len(body))
	}
}

// old asks as an HTTP/1.0 client.
func (p *pool) old(t *testing.T, path, headers string) (*http.Response, []byte) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.0\r\n%s\r\n", path, headers)
	return readAnswer(t, c)
}

// The client's own context ends, and so does the wait for it; the download goes on.
func TestClientLeaves(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(9, 1<<20))
	rule := o.When(origintest.Blob, origintest.GET).Once().StallAt(0)
	p := start(t, o)
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+blob("app", content.Digest()), nil)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error)
	go func() {
		res, err := p.client.Do(r)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		left <- err
	}()
	<-rule.Reached()
	leave()
	if err := <-left; err == nil {
		t.Error("it was answered")
	}
	p.last(1)
	rule.Release()
	p.get(t, blob("app", content.Digest())).is(t, 200, content.Bytes())
	if n := o.Count(origintest.Blob, origintest.GET); n != 1 {
		t.Errorf("%d downloads", n)
	}
}
