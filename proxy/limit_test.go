package proxy

import (
	"net"
	"testing"
)

func TestClientIsItsNetwork(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:1":              "192.0.2.1/32",
		"[::ffff:192.0.2.1]:1":     "192.0.2.1/32",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"[2001:db8:1:2::1]:2":      "2001:db8:1:2::/64",
		"[fe80::1%lo]:1":           "fe80::/64",
	} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := network(a).String(); got != want {
			t.Errorf("%s is %s, want %s", addr, got, want)
		}
	}
}
