package cluster_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/cluster/clustertest"
)

type lookup func(context.Context, string) ([]netip.Addr, error)

const service = "tidepool.cache.svc"

// A name to join that leads nowhere is a trouble after a while, said at first and then now and then, until it leads
// somewhere.
func TestANameThatLeadsNowhere(t *testing.T) {
	fails := func(err error) lookup {
		return func(context.Context, string) ([]netip.Addr, error) { return nil, err }
	}
	for why, finds := range map[string]lookup{
		"no such host":      clustertest.Names(nil),
		"it has no address": fails(nil),
		"the name server does not answer in time": fails(&net.DNSError{Err: "i/o timeout", IsTimeout: true}),
		"cannot be asked":                         fails(&net.DNSError{Err: "read udp 10.0.0.1:40000: connection refused"}),
	} {
		t.Run(why, func(t *testing.T) {
			inField(t, func(t *testing.T, f *field) {
				var now atomic.Value
				now.Store(finds)
				m := f.join("m2", 2, func(o *cluster.Options) {
					o.Join = []string{service}
					o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) { return now.Load().(lookup)(ctx, host) }
				})
				warned := func() int { return f.seen.FilterMessageSnippet("trouble with the others").Len() }
				time.Sleep(50 * time.Second)
				if err := m.Trouble(); err != nil || warned() > 0 {
					t.Errorf("at first: %v, %d warnings", err, warned())
				}
				time.Sleep(30 * time.Second)
				err := m.Trouble()
				if err == nil || !strings.Contains(err.Error(), service) || !strings.Contains(err.Error(), why) || warned() != 1 {
					t.Errorf("after a while: %v, %d warnings", err, warned())
				}
				time.Sleep(time.Hour)
				if n := warned(); n < 6 || n > 8 {
					t.Errorf("in an hour it was said %d times", n)
				}
				f.join("m1", 1)
				now.Store(lookup(clustertest.Names(map[string]func() []netip.Addr{service: func() []netip.Addr { return addrs(1) }})))
				f.until("it is found", 10*time.Second, f.agree)
				if err := m.Trouble(); err != nil {
					t.Errorf("it leads somewhere: %v", err)
				}
			})
		})
	}
}

// The first pod of a StatefulSet finds that its service's name has no address, and then none but its own.
func TestTheFirstPodIsInNoTrouble(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		var found atomic.Pointer[[]netip.Addr]
		found.Store(new([]netip.Addr))
		m := f.join("m1", 1, func(o *cluster.Options) {
			o.Join, o.Lookup = []string{service}, clustertest.Names(map[string]func() []netip.Addr{
				service: func() []netip.Addr { return *found.Load() },
			})
		})
		for i := range 300 {
			time.Sleep(time.Second)
			if err := m.Trouble(); err != nil {
				t.Fatal(err)
			}
			if i == 40 {
				found.Store(new(addrs(1)))
			}
		}
		if n := f.seen.FilterMessageSnippet("trouble").Len(); n > 0 {
			t.Errorf("%d warnings", n)
		}
	})
}

// Where all who are to be joined have addresses and none answers, the log says so too.
func TestNobodyAnswers(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		m := f.join("m2", 2) // m1, whom it is to join, is not there
		time.Sleep(65 * time.Second)
		said := f.seen.FilterMessageSnippet("trouble with the others").All()
		if err := m.Trouble(); err == nil || len(said) != 1 || said[0].ContextMap()["error"] != err.Error() {
			t.Errorf("%v, %v", err, said)
		}
		f.join("m1", 1)
		f.until("it is there", 10*time.Second, f.agree)
		if err := m.Trouble(); err != nil {
			t.Error(err)
		}
	})
}
