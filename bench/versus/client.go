package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long one answer may take before it counts as hung: twenty times the slowest seen.
const patience = time.Minute

// sink lends recv its length. Nothing is ever stored in it: MSG_TRUNC discards inside the kernel.
var sink [1 << 20]byte

// conn is an HTTP client on one connection that is not what is measured: bodies never leave the kernel, and it sleeps
// there too, in blocking calls, because a scheduler that looks for other work at each wake-up would take a core's
// worth of time from the server.
type conn struct {
	file *os.File // a socket
	fd   int      // its, in blocking mode
	host string
	head []byte
}

// timing says when an answer's body began and ended.
type timing struct{ first, last time.Time }

// dial connects to addr from a loopback address: servers that count a client's connections see as many clients as there
// are addresses.
func dial(addr string, from net.IP) (*conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: patience}
	tcp, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer tcp.Close()
	file, err := tcp.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	c := &conn{file: file, fd: int(file.Fd()), host: addr, head: make([]byte, 4096)}
	limit := unix.NsecToTimeval(int64(patience))
	err = errors.Join(unix.SetNonblock(c.fd, false),
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	if err != nil {
		c.close()
		return nil, fmt.Errorf("set up a connection to %s: %w", addr, err)
	}
	return c, nil
}

func (c *conn) close() error { return c.file.Close() }

// get asks for path, throws size bytes of body away and says when they came.
func (c *conn) get(path string, size int64) (timing, error) {
	got, err := c.ask(path, size)
	if err != nil {
		return timing{}, err
	}
	var t timing
	for {
		if got > 0 && t.first.IsZero() {
			t.first = time.Now()
		}
		if got == size {
			t.last = time.Now()
			return t, nil
		}
		n, err := c.discard(size - got)
		if err != nil {
			return t, fmt.Errorf("%s: %d of %d bytes: %w", path, got, size, err)
		}
		got += n
	}
}

// ask sends a request and reads the answer's header, which must announce size bytes. It returns how many bytes of the
// body came along with it.
func (c *conn) ask(path string, size int64) (int64, error) {
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nAccept: %s\r\n\r\n", path, c.host, manifestType)
	if _, err := unix.Write(c.fd, []byte(request)); err != nil {
		return 0, err
	}
	n, end := 0, -1
	for end < 0 {
		m, err := c.recv(c.head[n:], 0)
		if err != nil {
			return 0, fmt.Errorf("%s: header: %w", path, err)
		}
		n += m
		end = bytes.Index(c.head[:n], []byte("\r\n\r\n"))
	}
	end += len("\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(c.head[:end])), nil)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength != size {
		return 0, fmt.Errorf("%s: %s with %d bytes, want %d", path, resp.Status, resp.ContentLength, size)
	}
	return int64(n - end), nil
}

// discard throws away what has arrived, up to n bytes, and waits where nothing has.
func (c *conn) discard(n int64) (int64, error) {
	got, err := c.recv(sink[:min(n, int64(len(sink)))], unix.MSG_TRUNC)
	return int64(got), err
}

// recv waits for bytes; there are none at the end of a connection, which always comes too early here.
func (c *conn) recv(b []byte, flags int) (int, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, b, flags)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, fmt.Errorf("nothing came for %v", patience)
		case err == nil && n == 0:
			return 0, io.ErrUnexpectedEOF
		default:
			return n, err
		}
	}
}

// verify pulls path through user space and compares what came with digest.
func verify(ctx context.Context, addr, path, digest string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", manifestType)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if got := digestOf(hash.Sum(nil)); resp.StatusCode != http.StatusOK || got != digest {
		return fmt.Errorf("%s: %s, %d bytes with digest %s, want %s", path, resp.Status, n, got, digest)
	}
	return nil
}
