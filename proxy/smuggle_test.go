package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// readAnswer reads one answer from a connection.
func readAnswer(t *testing.T, r io.Reader) (*http.Response, []byte) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, body
}

// Requests that two readers may cut up differently (CVE-2019-16276, CVE-2022-1705, CVE-2025-22871 and their like):
// whatever is hidden behind the first, it is not answered, and it reaches no hub.
func TestSmuggling(t *testing.T) {
	o := origintest.New()
	o.PutImage("library/app", "latest", origintest.Spec{})
	p := start(t, o)
	const hidden = "GET /v2/hidden/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n"
	const get = "GET /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\n"
	requests := map[string]string{
		"CL.TE":              "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG" + hidden,
		"TE.CL":              "GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n37\r\n" + hidden + "\r\n0\r\n\r\n",
		"TE.TE":              get + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
		"odd TE":             get + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden,
		"folded TE":          get + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + hidden,
		"two CL":             get + "Content-Length: 0\r\nContent-Length: 54\r\n\r\n" + hidden,
		"CL list":            get + "Content-Length: 0, 54\r\n\r\n" + hidden,
		"signed CL":          get + "Content-Length: +54\r\n\r\n" + hidden,
		"negative CL":        get + "Content-Length: -54\r\n\r\n" + hidden,
		"GET with CL":        get + "Content-Length: 54\r\n\r\n" + hidden,
		"GET with chunks":    get + "Transfer-Encoding: chunked\r\n\r\n37\r\n" + hidden + "\r\n0\r\n\r\n",
		"HEAD with CL":       strings.Replace(get, "GET", "HEAD", 1) + "Content-Length: 54\r\n\r\n" + hidden,
		"bare LF chunk":      get + "Transfer-Encoding: chunked\r\n\r\n1;x\n\nX\r\n0\r\n\r\n" + hidden,
		"space before colon": get + "Content-Length : 54\r\n\r\n" + hidden,
		"NUL in header":      get + "X-A: b\x00c\r\n\r\n" + hidden,
		"CR in header":       get + "X-A: b\rc: d\r\n\r\n" + hidden,
		"withheld body":      "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 54\r\n\r\n",
		"withheld chunk":     get + "Transfer-Encoding: chunked\r\n\r\n",
		"authority-form":     "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n" + hidden,
		"two Hosts":          get + "Host: y\r\n\r\n" + hidden,
		"no Host":            "GET /v2/app/manifests/latest HTTP/1.1\r\n\r\n" + hidden,
		"HTTP/0.9":           "GET /v2/app/manifests/latest\r\n\r\n" + hidden,
		"HTTP/1.0 with body": "GET /v2/app/manifests/latest HTTP/1.0\r\nContent-Length: 54\r\n\r\n" + hidden,
		"HTTP/3":             "GET /v2/app/manifests/latest HTTP/3.0\r\nHost: x\r\n\r\n" + hidden,
		"expectation":        get + "Expect: 100-continue\r\nContent-Length: 54\r\n\r\n" + hidden,
		"NUL in path":        "GET /v2/app\x00/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n" + hidden,
		"header too large":   get + "X-A: " + strings.Repeat("x", 64<<10) + "\r\n\r\n" + hidden,
		"h2c preface":        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden,
		"split in the query": "GET /v2/app/manifests/latest?ns=docker.io HTTP/1.1\r\nX: HTTP/1.1\r\n\r\n" + hidden,
	}
	t.Run("requests", func(t *testing.T) {
		for name, raw := range requests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p.answersOnce(t, raw)
			})
		}
	})
	if n := o.Count(origintest.Repo("library/hidden")); n != 0 {
		t.Errorf("%d hidden requests reached the hub", n)
	}
}

// answersOnce sends raw and checks that at most one answer comes before the connection is closed.
func (p *pool) answersOnce(t *testing.T, raw string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, raw); err != nil {
		return // it was closed before all was written
	}
	answers, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatalf("the connection stays open: %.300q", answers)
	}
	if n := strings.Count(string(answers), "HTTP/1."); n > 1 {
		t.Errorf("%d answers: %.600q", n, answers)
	}
}

// Forms that are odd and legal are answered like any other, and choose nothing.
func TestOddButLegal(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{})
	p := start(t, o)
	for name, raw := range map[string]string{
		"absolute-form": "GET http://evil.example/v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"h2c upgrade": "GET /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n" +
			"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		// A folded line is one line (RFC 9112, section 5.2), so that the length in it is no length.
		"folded header": "GET /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-A: b\r\n\tContent-Length: 54\r\n\r\n",
		"empty body":    "GET /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"websocket":     "GET /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, raw); err != nil {
			t.Fatal(err)
		}
		if res, body := readAnswer(t, c); res.StatusCode != 200 || string(body) != string(img.Top.Content.Bytes()) {
			t.Errorf("%s: %d %.100q", name, res.StatusCode, body)
		}
		_ = c.Close()
	}
}
