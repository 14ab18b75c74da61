package clustertest

import (
	"context"
	"net"
	"net/netip"
)

// Names resolves by a table, whose answers may change with time.
func Names(table map[string]func() []netip.Addr) func(context.Context, string) ([]netip.Addr, error) {
	return func(_ context.Context, host string) ([]netip.Addr, error) {
		if addrs, ok := table[host]; ok {
			return addrs(), nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
}
