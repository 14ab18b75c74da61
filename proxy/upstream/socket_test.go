package upstream

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection to a registry has what makes the kernel end it when that has lost its power.
func TestDeadRegistriesAreNoticed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var open conns
	g := newGuard("reg.test", Options{}.withDefaults(), &open)
	if err := g.written.add("127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	c, err := g.dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*conn).Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct {
		name               string
		level, which, want int
	}{
		{"keep-alive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"seconds before the first probe", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
		{"seconds between probes", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
		{"probes", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{"milliseconds without a word", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 30_000},
	} {
		var got int
		if e := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), o.level, o.which) }); e != nil || err != nil {
			t.Fatal(e, err)
		}
		if got != o.want {
			t.Errorf("%s: %d, want %d", o.name, got, o.want)
		}
	}
}
