package proxy_test

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/proxy"
)

// A connection that came in has what makes the kernel end it when the client has lost its power, counted or not.
func TestDeadClientsAreNoticed(t *testing.T) {
	for _, most := range []int{0, 1} {
		l, err := proxy.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c, err := proxy.Limit(l, most, nil).Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, o := range []struct {
			name               string
			level, which, want int
		}{
			{"keep-alive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{"seconds before the first probe", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
			{"seconds between probes", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
			{"probes", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
			{"milliseconds without a word", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 180_000},
		} {
			if got := option(t, c, o.level, o.which); got != o.want {
				t.Errorf("%s: %d, want %d", o.name, got, o.want)
			}
		}
	}
}

// option asks the kernel.
func option(t *testing.T, c net.Conn, level, which int) int {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	if e := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), level, which) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return got
}
