package upstream_test

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// What this machine has run out of is waited for, for a moment, and named; no registry is held to be down for it.
func TestScarcityIsNoFaultOfARegistry(t *testing.T) {
	for lack, says := range map[syscall.Errno]string{
		syscall.EADDRNOTAVAIL: "no port left", syscall.EMFILE: "no file descriptor is left", syscall.ENFILE: "no file descriptor is left",
		syscall.ENOBUFS: "no memory left",
	} {
		t.Run(lack.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := origintest.New()
				o.PutImage(repo, "latest", origintest.Spec{})
				var n origintest.Net
				var failures atomic.Int32 // still to come
				dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
					if failures.Add(-1) >= 0 {
						return nil, &net.OpError{Op: "dial", Net: network, Err: lack}
					}
					return n.DialContext(ctx, network, addr)
				}
				h := hubs(t, upstream.Options{Dial: dial}, at(origintest.ServeIn(t, &n, "hub.test:80", o)))
				failures.Store(1000)
				began := time.Now()
				wantErr(t, second(h.Open(t.Context(), tagRef("latest"), cache.Whole)), cache.ErrUnavailable, says)
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("took %v", took)
				}
				if s := h.Stats()[0]; s.Failures != 0 || !s.Endpoints[0].Up {
					t.Errorf("%+v", s)
				}
				failures.Store(5)
				mustSlurp(t, h, tagRef("latest"))
			})
		})
	}
}
