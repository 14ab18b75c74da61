package main

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// h2hub is a registry that speaks nothing but HTTP/2, frame by frame, and breaks its first answer for each path in a way
// that Go's server never would.
type h2hub struct {
	t      *testing.T
	items  map[string]*origintest.Content // by path
	breaks func(*h2answer) rest           // called when half of the body is sent, or nothing where early
	early  bool

	mu    sync.Mutex // guards asked
	asked map[string]int
}

// rest is what comes after a break.
type rest int

const (
	restOfAnswer rest = iota
	otherAnswers      // but no more of this one
	nothing
)

// h2answer is an answer that is being sent.
type h2answer struct {
	frames
	stream uint32
	tcp    *net.TCPConn
}

func (a *h2answer) goAway(last, code uint32) {
	a.write(goAwayFrame, 0, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, last), code))
}

func (a *h2answer) resetStream(code uint32) {
	a.write(resetFrame, 0, a.stream, binary.BigEndian.AppendUint32(nil, code))
}

func (a *h2answer) resetConnection() {
	_ = a.tcp.SetLinger(0)
	_ = a.tcp.Close()
}

// serve answers until the test is over, and returns its address.
func (h *h2hub) serve() string {
	ca, err := origintest.NewCA()
	if err != nil {
		h.t.Fatal(err)
	}
	cert, err := ca.Issue(time.Now().Add(time.Hour), "127.0.0.1")
	if err != nil {
		h.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { h.welcome(c.(*net.TCPConn), cert) })
		}
	})
	h.t.Cleanup(func() { // when tidepool has closed its connections
		_ = l.Close()
		all.Wait()
	})
	return "https://" + l.Addr().String()
}

// welcome serves one connection, unless its client does not offer HTTP/2.
func (h *h2hub) welcome(tcp *net.TCPConn, cert tls.Certificate) {
	defer tcp.Close()
	hello := make([]byte, 16<<10)
	n, err := tcp.Read(hello) // a ClientHello comes in one piece over loopback
	if err != nil {
		return
	}
	if !bytes.Contains(hello[:n], []byte("\x02h2")) {
		_, _ = tcp.Write([]byte{21, 3, 3, 0, 2, 2, 120}) // the alert no_application_protocol (RFC 7301)
		return
	}
	replay := &replayed{tcp, io.MultiReader(bytes.NewReader(hello[:n]), tcp)}
	h.converse(tls.Server(replay, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}), tcp)
}

// replayed is a connection of which the beginning has been read.
type replayed struct {
	net.Conn
	from io.Reader
}

func (r *replayed) Read(p []byte) (int, error) { return r.from.Read(p) }

// The parts of HTTP/2 that are needed here (RFC 9113, sections 6 and 7).
const (
	dataFrame, headersFrame, resetFrame, settingsFrame, pingFrame, goAwayFrame = 0, 1, 3, 4, 6, 7
	endStream, ack, endHeaders, priority                                       = 1, 1, 4, 0x20
	noError, internalError, refusedStream                                      = 0, 2, 7

	h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// frames are what goes over a connection. What cannot be written is noticed when the next one is read.
type frames struct{ conn net.Conn }

func (f frames) write(kind, flags byte, stream uint32, payload []byte) {
	n := len(payload)
	head := binary.BigEndian.AppendUint32([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}, stream)
	_, _ = f.conn.Write(append(head, payload...))
}

func (f frames) read() (kind, flags byte, stream uint32, payload []byte, err error) {
	var head [9]byte
	if _, err = io.ReadFull(f.conn, head[:]); err == nil {
		payload = make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		_, err = io.ReadFull(f.conn, payload)
	}
	return head[3], head[4], binary.BigEndian.Uint32(head[5:]), payload, err
}

// converse serves one connection.
func (h *h2hub) converse(conn *tls.Conn, tcp *net.TCPConn) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(h2Preface))); err != nil {
		return // HTTP/1.1 was tried
	}
	f, decoder := frames{conn}, hpack.NewDecoder(4096, nil)
	f.write(settingsFrame, 0, 0, nil)
	for {
		kind, flags, stream, payload, err := f.read()
		switch {
		case err != nil:
			return
		case kind == settingsFrame && flags&ack == 0:
			f.write(settingsFrame, ack, 0, nil)
		case kind == pingFrame && flags&ack == 0:
			f.write(pingFrame, ack, 0, payload)
		case kind == headersFrame:
			if flags&priority != 0 {
				payload = payload[5:]
			}
			fields, err := decoder.DecodeFull(payload)
			if err != nil {
				h.t.Error(err)
			}
			request := map[string]string{}
			for _, field := range fields {
				request[field.Name] = field.Value
			}
			if !h.answer(request, &h2answer{f, stream, tcp}) {
				return
			}
		}
	}
}

// answer answers one request, and reports whether the connection goes on.
func (h *h2hub) answer(request map[string]string, a *h2answer) bool {
	path := request[":path"]
	h.mu.Lock()
	h.asked[path]++
	spoil := h.asked[path] == 1
	h.mu.Unlock()
	c := h.items[path]
	if c == nil {
		h.t.Errorf("nobody should ask for %s", path)
		return false
	}
	if spoil && h.early {
		return h.breaks(a) != nothing
	}
	body, header := part(h.t, c, request["range"])
	a.write(headersFrame, endHeaders, a.stream, header)
	for sent := 0; sent < len(body); {
		if spoil && sent >= len(body)/2 {
			spoil = false
			if next := h.breaks(a); next != restOfAnswer {
				return next != nothing
			}
		}
		n, flags := min(len(body)-sent, 16<<10, max(len(body)/2, 1)), byte(0)
		if sent+n == len(body) {
			flags = endStream
		}
		a.write(dataFrame, flags, a.stream, body[sent:sent+n])
		sent += n
	}
	return true
}

// part is the answer for c: what a Range asks for of it, and the header.
func part(t *testing.T, c *origintest.Content, span string) (body, header []byte) {
	t.Helper()
	body = c.Bytes()
	fields := [][2]string{{":status", "200"}}
	if first, ok := strings.CutPrefix(span, "bytes="); ok {
		from, to, _ := strings.Cut(first, "-")
		off, err := strconv.Atoi(from)
		end := len(body) - 1
		if err == nil && to != "" {
			end, err = strconv.Atoi(to)
		}
		if err != nil {
			t.Error(err)
		}
		fields = [][2]string{{":status", "206"}, {"content-range", fmt.Sprintf("bytes %d-%d/%d", off, end, len(body))}}
		body = body[off : end+1]
	}
	fields = append(fields, [2]string{"content-type", "application/vnd.oci.image.manifest.v1+json"},
		[2]string{"content-length", strconv.Itoa(len(body))})
	var b strings.Builder
	encoder := hpack.NewEncoder(&b)
	for _, f := range fields {
		if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Error(err)
		}
	}
	return body, []byte(b.String())
}

// Row 30. A registry says that it will close the connection, resets a stream, or the connection: before an answer and in
// the middle of one. Nobody who pulls notices, whether it is a manifest or, where there is only HTTP/2, a blob.
func TestHTTP2Breaks(t *testing.T) {
	for _, c := range []struct {
		name   string
		early  bool
		breaks func(*h2answer) rest
	}{
		{"GOAWAY before the answer", true, func(a *h2answer) rest { a.goAway(0, noError); return nothing }},
		{"stream refused", true, func(a *h2answer) rest { a.resetStream(refusedStream); return otherAnswers }},
		{"GOAWAY in the middle, then the rest", false, func(a *h2answer) rest { a.goAway(a.stream, noError); return restOfAnswer }},
		{"GOAWAY in the middle, then nothing", false, func(a *h2answer) rest { a.goAway(a.stream, internalError); return nothing }},
		{"stream reset in the middle", false, func(a *h2answer) rest { a.resetStream(internalError); return otherAnswers }},
		{"connection reset in the middle", false, func(a *h2answer) rest { a.resetConnection(); return nothing }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			img := origintest.Build(origintest.Spec{Pad: 100_000})
			blob := origintest.Synthetic(1, blobSize)
			hub := &h2hub{t: t, early: c.early, breaks: c.breaks, asked: map[string]int{}, items: map[string]*origintest.Content{
				manifestPath("latest"):  img.Top.Content,
				blobPath(blob.Digest()): blob,
			}}
			w := fill(t, plan{hubs: map[string]string{"docker.io": hub.serve()}, file: "upstreams: {docker.io: {insecure_skip_verify: true}}"})
			w.get(manifestPath("latest")).brings(t, img.Top.Content)
			w.get(blobPath(blob.Digest())).brings(t, blob)
			w.keepsOnlyTruth()
		})
	}
}
