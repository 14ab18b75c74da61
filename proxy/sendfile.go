package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/cache"
)

// net/http lends every answer that is made from a file a buffer of 32 KiB, which sendfile does not need, for as long as
// the file is being sent: with a thousand clients that read slowly, 32 MiB. So a connection here takes what it can take
// at once, and the waiting for more is done outside, with the buffer given back.

// errFull says that a connection takes no more for now.
var errFull = errors.New("the connection takes no more for now")

// piece is a part of a file that goes to a connection without waiting for it.
type piece struct {
	io.LimitedReader
	file *os.File
}

// connKey is the context's key for the connection that a request came by.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// connection is the one that the request came by, where files go out by it without passing through this process.
func (a *answer) connection() (*counted, bool) {
	c, ok := a.r.Context().Value(connKey{}).(*counted)
	return c, ok && a.r.ProtoMajor == 1
}

// ahead sends the header of an answer of n bytes before the way down to its file is taken: net/http needs 3 KiB of
// stack for it, with which that way would double the 8 KiB that each client holds while it reads. It still goes out in
// one packet with what follows. Only what is held has its header sent ahead: anything else may yet become a refusal.
func (a *answer) ahead(from cache.Tier, n int64) {
	c, ok := a.connection()
	if !ok || from != cache.FromDisk || n < corkFrom {
		return
	}
	c.cork(true)
	a.corked = c
	a.begin()
	_ = http.NewResponseController(a.w).Flush() // who is gone is noticed by the next write
}

// uncork sends what waits for more to fill a segment.
func (a *answer) uncork() {
	if a.corked != nil {
		a.corked.cork(false)
		a.corked = nil
	}
}

// sendFile sends src, if it is a part of a file and the connection one that can be waited for; ok: it is and can.
func (a *answer) sendFile(to io.ReaderFrom, src io.Reader) (n int64, ok bool, err error) {
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		return 0, false, nil
	}
	file, isFile := limited.R.(*os.File)
	conn, isOurs := a.connection()
	if !isFile || !isOurs {
		return 0, false, nil
	}
	p := &piece{*limited, file}
	if limited.N >= corkFrom && a.corked == nil {
		conn.cork(true)
		a.corked = conn
	}
	defer a.uncork() // what is still arriving is shown at once
	for {
		m, err := to.ReadFrom(p)
		n += m
		if !errors.Is(err, errFull) {
			return n, true, err
		}
		if err := conn.wait(); err != nil {
			return n, true, err
		}
	}
}

// corkFrom is from how many bytes on only full segments are sent. Below, the calls cost more than they save.
const corkFrom = 128 << 10

// cork has the kernel hold back what does not fill a segment, or send it. sendfile hands 64 KiB at a time to the
// connection, a little more than a segment of loopback takes: without this the rest went out by itself each time,
// which cost one connection a quarter of its throughput.
func (c *counted) cork(on bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	v := 0
	if on {
		v = 1
	}
	// Where it cannot be had, there are more packets.
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, v) })
}

// ReadFrom sends src. Of a piece it sends what fits, and says errFull where that was not all.
func (c *counted) ReadFrom(src io.Reader) (n int64, err error) {
	p, ok := src.(*piece)
	if !ok {
		return c.TCPConn.ReadFrom(src)
	}
	out, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	in, err := p.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var sending, reading error
	err = out.Write(func(to uintptr) bool {
		reading = in.Read(func(from uintptr) bool {
			n, sending = sendNow(int(to), int(from), p.N)
			return true
		})
		return true
	})
	p.N -= n
	if err == nil {
		err = reading
	}
	if err == nil {
		err = sending
	}
	return n, err
}

// sendNow sends up to n bytes from one descriptor's place on, as far as the other takes them. Fewer without an error:
// the file ended.
func sendNow(to, from int, n int64) (sent int64, err error) {
	const most = 1 << 30 // the kernel takes no more than 2 GiB at a time
	for sent < n {
		m, err := unix.Sendfile(to, from, nil, int(min(n-sent, most)))
		sent += int64(max(m, 0))
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return sent, errFull
		case err != nil:
			return sent, os.NewSyscallError("sendfile", err)
		case m == 0:
			return sent, nil
		}
	}
	return sent, nil
}

// wait returns when the connection takes more, or with its deadline's error.
func (c *counted) wait() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	// The look comes after the runtime has begun to listen for a change, so that none is missed.
	return raw.Write(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(ready, 0)
		return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
	})
}
