package proxy

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A client whose machine loses its power says nothing more, and its connections must not be kept for the quarter of an
// hour that kernels try. While there is nothing to send to it, probes find that out.
var clientProbes = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3}

// silence is how long what a client was sent may go without its kernel's word for it. A client that is there and reads
// slowly says that it has no room, for up to 64 KiB at the lowest rate that is borne: a third of this.
const silence = 3 * time.Minute

// Listen is net.Listen for clients that may vanish without a word: their connections end after some minutes, in whatever
// state they are.
func Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	c := net.ListenConfig{KeepAliveConfig: clientProbes, Control: bounded}
	return c.Listen(ctx, network, addr)
}

// bounded makes connections that come in by a listener inherit silence.
func bounded(_, _ string, socket syscall.RawConn) error {
	var err error
	if e := socket.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}
