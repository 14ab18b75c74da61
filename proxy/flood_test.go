package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// The frames of HTTP/2 that floods are made of (RFC 9113 section 6), and their flags.
const (
	frameHeaders, frameReset, frameSettings, framePing, frameContinuation = 1, 3, 4, 6, 9
	endStream, endHeaders                                                 = 1, 4
)

func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	head := binary.BigEndian.AppendUint32([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}, stream)
	return append(head, payload...)
}

// asking is the header of a GET.
func asking(t *testing.T, path string) []byte {
	t.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range []string{":method GET", ":scheme https", ":authority x", ":path " + path} {
		name, value, _ := strings.Cut(f, " ")
		if err := e.WriteField(hpack.HeaderField{Name: name, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// flood is what one client does to wear the door down.
type flood struct {
	settings []byte             // of its own
	reads    bool               // the answers, or lets them pile up
	most     int                // pieces; the door may have enough before
	piece    func(n int) []byte // the n-th
	closed   bool               // the door must have enough
}

// Floods of HTTP/2 end with their connection at the latest, cost little memory, and keep nobody else from pulling:
// streams that are reset as soon as they are asked for (CVE-2023-39325), headers without an end (CVE-2023-45288), settings
// and pings whose answers nobody takes, and streams that may not send.
func TestCVE_2023_39325_HTTP2Floods(t *testing.T) {
	o := origintest.New()
	c := o.PutBlob("library/app", origintest.Synthetic(1, 300<<10))
	p := start(t, o)
	p.overTLS(t)
	path := blob("app", c.Digest())
	p.get(t, path).is(t, 200, c.Bytes())
	header := asking(t, path)
	get := func(n int) []byte { return frame(frameHeaders, endHeaders|endStream, uint32(2*n+1), header) }
	for name, f := range map[string]flood{
		"rapid reset": {reads: true, most: 20_000, piece: func(n int) []byte {
			return append(get(n), frame(frameReset, 0, uint32(2*n+1), []byte{0, 0, 0, 8})...)
		}},
		"headers without an end": {reads: true, closed: true, most: 10_000, piece: func(n int) []byte {
			if n == 0 {
				return frame(frameHeaders, endStream, 1, header)
			}
			return frame(frameContinuation, 0, 1, bytes.Repeat([]byte{0x00, 1, 'a', 1, 'b'}, 3000)) // a: b, again and again
		}},
		"settings": {most: 200_000, piece: func(int) []byte { return frame(frameSettings, 0, 0, nil) }},
		"pings":    {closed: true, most: 2_000_000, piece: func(int) []byte { return frame(framePing, 0, 0, make([]byte, 8)) }},
		"too many streams, none of which may send": {settings: []byte{0, 4, 0, 0, 0, 0}, reads: true, most: 5000, piece: get},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			over := make(chan bool)
			go func() { over <- f.run(t, p) }()
			for running := true; running; {
				select {
				case closed := <-over:
					if running = false; f.closed && !closed {
						t.Error("the door bears it")
					}
				default:
					began := time.Now()
					p.get(t, path).is(t, 200, c.Bytes())
					if took := time.Since(began); took > 30*time.Second {
						t.Errorf("somebody else waited for %v", took)
					}
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if more := int64(after.HeapAlloc) - int64(before.HeapAlloc); more > 32<<20 {
				t.Errorf("%d MiB more are in use", more>>20)
			}
		})
	}
}

// run floods p, and reports whether p closed the connection.
func (f flood) run(t *testing.T, p *pool) (closed bool) {
	trust := p.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	trust.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), trust)
	if err != nil {
		t.Error(err)
		return false
	}
	defer conn.Close()
	// Who does not read blocks at last, if the door bears it. That the door has had enough takes seconds, and most of a
	// minute on a machine with more to do; this is only ever waited out by a test that fails.
	_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
	done := make(chan error, 1)
	if f.reads {
		go func() {
			_, err := io.Copy(io.Discard, conn)
			done <- err
		}()
	}
	w := bufio.NewWriter(conn)
	_, err = w.WriteString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	if err == nil {
		_, err = w.Write(frame(frameSettings, 0, 0, f.settings))
	}
	for n := 0; n < f.most && err == nil; n++ {
		_, err = w.Write(f.piece(n))
	}
	if err == nil {
		err = w.Flush()
	}
	if f.reads {
		_ = conn.CloseWrite()
		_ = conn.Close()
		<-done
	}
	timedOut, _ := err.(interface{ Timeout() bool })
	return err != nil && (timedOut == nil || !timedOut.Timeout())
}
