package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

func TestLimitPerClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.WarnLevel)
	s := proxy.Server(&proxy.Handler{Names: names}, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(proxy.Limit(l, 3, zap.New(core)))
	}()
	defer func() { <-done }()
	defer s.Close()
	var open []net.Conn
	for range 3 {
		open = append(open, dialFrom(t, "127.0.0.1", l.Addr()))
	}
	for _, c := range open {
		if !alive(c) {
			t.Error("one of three was closed")
		}
	}
	if alive(dialFrom(t, "127.0.0.1", l.Addr())) {
		t.Error("a fourth was served")
	}
	if !alive(dialFrom(t, "127.0.0.2", l.Addr())) {
		t.Error("another client was not served")
	}
	_ = open[0].Close()
	for !alive(dialFrom(t, "127.0.0.1", l.Addr())) { // until the server has seen it go
		if t.Context().Err() != nil {
			t.Fatal("the place of one that left was not given to another")
		}
	}
	if logs.Len() != 1 || logs.All()[0].ContextMap()["client"] != "127.0.0.1/32" {
		t.Errorf("the log says %v", logs.All())
	}
}

// Behind a load balancer all clients have one address: 0 counts nobody.
func TestNoLimitPerClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := proxy.Limit(l, 0, nil); got != l {
		t.Errorf("%T counts connections", got)
	}
}

// dialFrom connects from an address of this machine; nil: it was refused.
func dialFrom(t *testing.T, from string, to net.Addr) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		return nil
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// alive reports whether the server answers on c.
func alive(c net.Conn) bool {
	if c == nil {
		return false
	}
	if _, err := io.WriteString(c, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	return err == nil && res.StatusCode == http.StatusOK
}

// watched tells how bytes were handed to a connection.
type watched struct {
	net.Listener
	fromFile atomic.Int64
}

func (w *watched) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &watchedConn{c, w}, nil
}

type watchedConn struct {
	net.Conn
	w *watched
}

// ReadFrom is what net/http calls where a connection can take a file.
func (c *watchedConn) ReadFrom(src io.Reader) (int64, error) {
	n, err := c.Conn.(io.ReaderFrom).ReadFrom(src)
	if l, ok := src.(*io.LimitedReader); ok {
		if _, ok := l.R.(*os.File); ok {
			c.w.fromFile.Add(n)
		}
	}
	return n, err
}

// A wrapper that hides the file or the connection costs half of the throughput and changes nothing that a client sees.
func TestFilesGoOutBySendfile(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(1, 8<<20))
	p := start(t, o)
	p.get(t, blob("app", content.Digest())).is(t, 200, content.Bytes())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{Listener: proxy.Limit(l, 512, nil)}
	p.listen(t, &proxy.Handler{Store: p.store, Names: names}, w)
	p.get(t, blob("app", content.Digest())).is(t, 200, content.Bytes())
	if n := w.fromFile.Load(); n < 8<<20-512 { // net/http sends 512 bytes together with the header
		t.Errorf("%d bytes went from the file to the connection", n)
	}
	w.fromFile.Store(0)
	p.get(t, blob("app", content.Digest()), "Range", "bytes=100-1048675,2097152-3145727").several(t, content.Bytes(),
		[][2]int64{{100, 1048676}, {2 << 20, 3 << 20}})
	if n := w.fromFile.Load(); n < 2<<20-512 {
		t.Errorf("%d bytes of two ranges went from the file to the connection", n)
	}
}

// Over HTTP/2 a cut is a reset stream: nothing else would tell a client that there should have been more.
func TestHTTP2(t *testing.T) {
	o := origintest.New()
	good := o.PutBlob("library/app", origintest.Synthetic(2, 3<<20))
	bad := o.PutBlob("library/app", origintest.Synthetic(3, 3<<20))
	unsized := o.PutBlob("library/app", origintest.Synthetic(4, 3<<20))
	o.When(origintest.Of(bad.Digest()), origintest.GET).Flip(2 << 20)
	o.When(origintest.Of(unsized.Digest())).Flip(2 << 20).NoLength()
	p := start(t, o)
	p.overTLS(t)
	a := p.get(t, blob("app", good.Digest()))
	a.is(t, 200, good.Bytes())
	if a.ProtoMajor != 2 {
		t.Errorf("by %s", a.Proto)
	}
	p.get(t, blob("app", good.Digest()), "Range", "bytes=5-9,0-1").several(t, good.Bytes(), [][2]int64{{5, 10}, {0, 2}})
	for _, c := range []*origintest.Content{bad, unsized} {
		res, err := p.client.Get(p.url + blob("app", c.Digest()))
		if err != nil {
			continue // reset before its header had gone out
		}
		n, err := io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.StatusCode == 200 && err == nil {
			t.Errorf("%d wrong bytes ended well", n)
		}
	}
	if a := p.do(t, http.MethodPost, "/v2/app/blobs/uploads/"); a.StatusCode != 405 {
		t.Errorf("POST: %d", a.StatusCode)
	}
	p.get(t, blob("app", good.Digest())).is(t, 200, good.Bytes())
}

// overTLS serves p by HTTP/2.
func (p *pool) overTLS(t *testing.T) {
	t.Helper()
	ca, err := origintest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(time.Now().Add(time.Hour), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = tls.NewListener(proxy.Limit(l, 512, nil), &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}})
	p.listen(t, &proxy.Handler{Store: p.store, Names: names, Observe: p.observe}, l)
	p.url = "https://" + l.Addr().String()
	p.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, ForceAttemptHTTP2: true,
		DisableCompression: true}
}

// bubble runs f in virtual time, with a tidepool that listens on a network in memory.
func bubble(t *testing.T, o *origintest.Origin, f func(t *testing.T, dial func() net.Conn, seen func() int)) {
	synctest.Test(t, func(t *testing.T) {
		var network origintest.Net
		origintest.ServeIn(t, &network, "hub.test:80", o)
		hubs, err := upstream.New([]upstream.Config{{Name: "docker.io", Endpoints: []string{"http://hub.test"}}},
			upstream.Options{Dial: network.DialContext})
		if err != nil {
			t.Fatal(err)
		}
		store, err := cache.New(t.Context(), hubs, cache.Options{Dir: t.TempDir(), Disk: 1 << 30, ScrubRate: -1})
		if err != nil {
			t.Fatal(err)
		}
		var over atomic.Int64
		s := proxy.Server(&proxy.Handler{Store: store, Names: names, Observe: func(proxy.Exchange) { over.Add(1) }}, nil)
		l, err := network.Listen("pool.test:80")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Serve(proxy.Limit(l, 512, nil))
		}()
		f(t, func() net.Conn {
			c, err := network.DialContext(t.Context(), "tcp", "pool.test:80")
			if err != nil {
				t.Fatal(err)
			}
			return c
		}, func() int { return int(over.Load()) })
		_ = s.Close()
		<-done
		_ = store.Close()
		_ = hubs.Close()
	})
}

// CVE-2020-7219 and the whole family of slow lorises: who does not get on with a request is cut off in seconds, and
// the others do not notice him.
func TestSlowHeaders(t *testing.T) {
	o := origintest.New()
	bubble(t, o, func(t *testing.T, dial func() net.Conn, _ func() int) {
		var slow []net.Conn
		for range 1000 {
			c := dial()
			if _, err := io.WriteString(c, "GET /v2/ HTTP/1.1\r\nX-"); err != nil {
				t.Fatal(err)
			}
			slow = append(slow, c)
		}
		c := dial()
		begun := time.Now()
		if !alive(c) || time.Since(begun) > time.Second {
			t.Errorf("a good client waited %v", time.Since(begun))
		}
		for _, c := range append(slow, c) {
			_ = c.SetReadDeadline(begun.Add(time.Hour)) // or virtual time goes on for ever
		}
		for _, c := range slow {
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took > 6*time.Second {
			t.Errorf("they were let be for %v", took)
		}
		if _, err := io.Copy(io.Discard, c); err != nil { // which is idle
			t.Error(err)
		}
		if took := time.Since(begun); took > 61*time.Second {
			t.Errorf("an idle connection was kept for %v", took)
		}
	})
}

// A client that does not take its answer is cut off, whatever the answer is.
func TestClientsThatStopReading(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(5, 1<<20+612)) // its last bytes fill no buffer of net/http's
	img := o.PutImage("library/app", "latest", origintest.Spec{})
	for name, path := range map[string]string{
		"held blob": blob("app", content.Digest()), "end of a blob": blob("app", content.Digest()),
		"manifest": manifest("app", img.Top.Digest), "list": "/v2/app/tags/list", "nothing": "/v2/none/manifests/1",
		"root": "/v2/",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, o, func(t *testing.T, dial func() net.Conn, seen func() int) {
				first := dial()
				if name != "nothing" { // cold content would wait for the hub as well
					fmt.Fprintf(first, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
					if _, err := io.Copy(io.Discard, first); err != nil {
						t.Fatal(err)
					}
				}
				begun, before := time.Now(), seen()
				c := dial()
				fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
				if name == "end of a blob" {
					readAllBut(t, c, content.Size(), 50)
				}
				for seen() == before || !hungUp(c) {
					if time.Sleep(time.Second); time.Since(begun) > 10*time.Minute {
						t.Fatal("the request still waits for its client")
					}
				}
				if took := time.Since(begun); took > 3*time.Minute {
					t.Errorf("it waited %v", took)
				}
			})
		})
	}
}

// readAllBut reads a header, and the body of the given size but for its last n bytes.
func readAllBut(t *testing.T, c net.Conn, size, n int64) {
	t.Helper()
	for last := [4]byte{}; string(last[:]) != "\r\n\r\n"; {
		copy(last[:], last[1:])
		if _, err := io.ReadFull(c, last[3:]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.CopyN(io.Discard, c, size-n); err != nil {
		t.Fatal(err)
	}
}

// hungUp reports whether nobody is at the other end of a pipe any more, without reading.
func hungUp(c net.Conn) bool {
	_ = c.SetWriteDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Write([]byte("x"))
	return errors.Is(err, io.ErrClosedPipe)
}

// A fault in the middle of an answer must cut it off like any other failure.
func TestPanicInTheMiddle(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(6, 1<<20))
	p := start(t, o)
	p.get(t, blob("app", content.Digest())).is(t, 200, content.Bytes())
	h := &proxy.Handler{Store: p.store, Names: names, Observe: p.observe}
	p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(&breaking{w}, r) }))
	if a := p.get(t, blob("app", content.Digest())); a.err == nil {
		t.Errorf("%d bytes ended well", len(a.body))
	}
	if x := p.last(2); !x.Torn || !x.Panicked || x.Status != 200 {
		t.Errorf("%+v", x)
	}
	p.serve(t, h)
	p.get(t, blob("app", content.Digest())).is(t, 200, content.Bytes())
}

// breaking is a writer that fails as a bug would, once something is sent.
type breaking struct{ http.ResponseWriter }

func (b *breaking) Write(p []byte) (int, error) {
	if _, err := b.ResponseWriter.Write(p[:min(len(p), 1000)]); err != nil {
		return 0, err
	}
	_ = http.NewResponseController(b.ResponseWriter).Flush()
	panic("broken")
}

// What is read at once from a client that is quick must not differ from what is read slowly: pipelined requests are
// answered in order.
func TestPipelining(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{})
	p := start(t, o)
	c, err := net.DialTimeout("tcp", p.url[len("http://"):], time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var raw bytes.Buffer
	for i := range 20 {
		path := []string{"/v2/", "/v2/app/manifests/latest", "/v2/x/manifests/none", "/nowhere"}[i%4]
		fmt.Fprintf(&raw, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	}
	if _, err := c.Write(raw.Bytes()); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for i := range 20 {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		want := []int{200, 200, 404, 404}[i%4]
		if err != nil || res.StatusCode != want || i%4 == 1 && !bytes.Equal(body, img.Top.Content.Bytes()) {
			t.Errorf("%d: %d %.100q %v", i, res.StatusCode, body, err)
		}
	}
}
