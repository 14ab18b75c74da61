package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// whoever are hubs that ask any registry there is, of which there are those that dial reaches.
func whoever(t *testing.T, ledger []byte, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Hubs {
	t.Helper()
	h, err := New(nil, Options{AnyUpstream: true, Ledger: ledger, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func nowhere(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("no such host")
}

func tagOf(registry string) cache.Ref {
	return cache.Ref{Registry: registry, Repo: "org/app", Kind: cache.KindManifest, Tag: "latest"}
}

// The limit of a registry that nobody has configured is known to the next process when it meets it, and not before; and
// to the one after that, whether or not it was met in between.
func TestLimitsOfAnyUpstreamAreKept(t *testing.T) {
	o := origintest.New()
	o.PutImage("org/app", "latest", origintest.Spec{})
	o.RateLimit(1, 6*time.Hour, "192.0.2.7")
	o.RetryAfter()
	s := origintest.ServeTLS(t, o, origintest.TLS{Names: []string{"other.example"}})
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Addr())
	}
	h := whoever(t, nil, dial)
	one, err := h.onDemand("other.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []lanes{one.roads.own, one.roads.foreign} {
		l.plain.TLSClientConfig.RootCAs, l.any.TLSClientConfig.RootCAs = s.CA.Pool(), s.CA.Pool()
	}
	for i := range 2 {
		a, err := h.Open(t.Context(), tagOf("other.example"), cache.Whole)
		if err == nil {
			err = a.Body.Close()
		}
		if i == 0 && err != nil || i == 1 && !errors.Is(err, cache.ErrLimited) {
			t.Fatal(i, err)
		}
	}
	for _, met := range []bool{false, true, false, true} {
		h = whoever(t, h.Ledger(), nowhere)
		if n := len(h.Stats()); n != 0 {
			t.Errorf("%d registries are there that nobody has asked for", n)
		}
		if !met {
			continue
		}
		_, err := h.Open(t.Context(), tagOf("other.example"), cache.Whole)
		var limit *cache.LimitedError
		if !errors.As(err, &limit) || limit.Whose != "192.0.2.7" || time.Until(limit.Until) < 5*time.Hour {
			t.Errorf("%v", err)
		}
		if a := h.Stats()[0].Endpoints[0].Accounts; len(a) != 1 || a[0].Blocked.IsZero() {
			t.Errorf("%+v", a)
		}
	}
}

// blockedFor is what is known of a registry that grants no pulls for a time.
func blockedFor(name string, d time.Duration) savedEndpoint {
	return savedEndpoint{Registry: name, URL: "https://" + name, Accounts: []savedAccount{{Blocked: time.Now().Add(d)}}}
}

// Who is crowded out of those asked of late, by any number of names, is known again when it is asked again.
func TestLimitsOutliveACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger, err := json.Marshal(saved{Schema: savedSchema, Endpoints: []savedEndpoint{blockedFor("other.example", time.Hour)}})
		if err != nil {
			t.Fatal(err)
		}
		h := whoever(t, ledger, nowhere)
		for range 2 {
			if _, err := h.Open(t.Context(), tagOf("other.example"), cache.Whole); !errors.Is(err, cache.ErrLimited) {
				t.Error(err)
			}
			for i := range 2 * maxOther {
				if _, err := h.Open(t.Context(), tagOf(fmt.Sprintf("x%d.example", i)), cache.Whole); !errors.Is(err, cache.ErrUnavailable) {
					t.Error(err)
				}
			}
			if n := strings.Count(string(h.Ledger()), "registry"); n != 1 {
				t.Errorf("%d are written down, of which one is limited: %s", n, h.Ledger())
			}
		}
		time.Sleep(time.Hour)
		h.dormant.lay(nil, time.Now())
		if n := len(h.dormant); n != 0 {
			t.Error("what has passed is still known")
		}
	})
}

// However many there are, only so many are kept: those whose limits last longest.
func TestDormantAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := saved{Schema: savedSchema}
		for i := range 10 * maxDormant {
			all.Endpoints = append(all.Endpoints, blockedFor(fmt.Sprintf("x%d.example", i), time.Duration(i-5)*time.Minute))
		}
		ledger, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		var kept saved
		if err := json.Unmarshal(whoever(t, ledger, nowhere).Ledger(), &kept); err != nil {
			t.Fatal(err)
		}
		last := all.Endpoints[len(all.Endpoints)-1].Registry
		if n := len(kept.Endpoints); n != maxDormant || !slices.ContainsFunc(kept.Endpoints, func(s savedEndpoint) bool { return s.Registry == last }) {
			t.Errorf("%d are kept: %+v", n, kept)
		}
		off, err := New(nil, Options{Ledger: ledger})
		if err != nil {
			t.Fatal(err)
		}
		defer off.Close()
		if len(off.dormant) != 0 {
			t.Error("without any_upstream nobody will meet them")
		}
	})
}
