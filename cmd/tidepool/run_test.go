package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// place is a tidepool, its hub and its clients in one process, over a network in memory.
type place struct {
	*running
	hub    *origintest.Origin
	client *http.Client
}

// begin starts a tidepool before a hub, both at addresses of a network in memory.
func begin(t *testing.T, change func(*config.Config)) place {
	t.Helper()
	wire := new(origintest.Net)
	hub := origintest.New()
	origintest.ServeIn(t, wire, "hub.test:80", hub)
	loaded, err := config.Load(config.Inputs{File: "-", Stdin: strings.NewReader(""),
		Flags: map[string][]string{"upstream": {"docker.io=http://hub.test"}, "listen": {"tidepool.test:80"}, "admin": {"admin.test:80"}, "data": {t.TempDir()}}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := loaded.Config
	if change != nil {
		change(&cfg)
	}
	r, err := start(t.Context(), cfg, zap.NewNop(), world{
		listen: func(_, addr string) (net.Listener, error) { return wire.Listen(addr) },
		dial:   wire.DialContext,
	})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: wire.DialContext}}
	t.Cleanup(client.CloseIdleConnections)
	return place{r, hub, client}
}

func (p place) get(url string) (int, []byte, error) {
	resp, err := p.client.Get(url)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// expect wants an answer with that status.
func (p place) expect(t *testing.T, url string, status int) []byte {
	t.Helper()
	got, body, err := p.get(url)
	if got != status || err != nil {
		t.Errorf("%s: %d %.200s, %v; want %d", url, got, body, err, status)
	}
	return body
}

// A whole tidepool lives in a bubble of virtual time: nothing of it waits for anything but its network and its clock,
// and all of it ends.
func TestWholeInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, nil)
		layer := p.hub.PutBlob("library/app", origintest.Synthetic(1, 1<<20))
		p.hub.PutImage("library/app", "1", origintest.Spec{})
		url := "http://tidepool.test/v2/app/blobs/" + layer.Digest().String()
		for range 2 {
			if body := p.expect(t, url, 200); !bytes.Equal(body, layer.Bytes()) {
				t.Errorf("got %d other bytes", len(body))
			}
		}
		if n := p.hub.Bytes(origintest.Blob); n != layer.Size() {
			t.Errorf("the hub sent %d bytes", n)
		}
		p.expect(t, "http://tidepool.test/v2/app/manifests/1", 200)
		p.expect(t, "http://tidepool.test/v2/nowhere.test/app/manifests/1", 403)
		time.Sleep(time.Hour) // virtual: what runs in the background runs
		p.expect(t, "http://tidepool.test/docker.io/v2/library/app/manifests/1", 200)

		p.expect(t, "http://admin.test/healthz?verbose", 200)
		metrics := string(p.expect(t, "http://admin.test/metrics", 200))
		for _, line := range []string{
			`tidepool_http_requests_total{kind="blob",status="200",tier="disk"} 1`,
			`tidepool_http_requests_total{kind="none",status="403",tier="none"} 1`,
			`tidepool_cache_opened_total{tier="upstream"} 2`,
			`tidepool_upstream_endpoint_up{endpoint="http://hub.test",upstream="docker.io"} 1`,
		} {
			if !strings.Contains(metrics, "\n"+line+"\n") {
				t.Errorf("no %s in\n%s", line, metrics)
			}
		}
		p.client.CloseIdleConnections()
		if err := p.stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// After SIGTERM new clients are sent elsewhere, those who still come are served, and running answers end.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, func(c *config.Config) { c.ShutdownDelay = config.Duration(10 * time.Second) })
		layer := p.hub.PutBlob("library/app", origintest.Synthetic(1, 1<<20))
		p.hub.Pace(100 << 10)
		url := "http://tidepool.test/v2/app/blobs/" + layer.Digest().String()
		got := make(chan error)
		go func() {
			_, body, err := p.get(url)
			if err == nil && !bytes.Equal(body, layer.Bytes()) {
				err = fmt.Errorf("%d other bytes", len(body))
			}
			got <- err
		}()
		time.Sleep(5 * time.Second)
		p.expect(t, "http://admin.test/readyz", 200)

		began := time.Now()
		ended := make(chan error)
		go func() { ended <- p.stop(t.Context()) }()
		synctest.Wait()
		p.expect(t, "http://admin.test/readyz", 503)
		p.expect(t, "http://admin.test/livez", 200)
		p.expect(t, "http://tidepool.test/v2/", 200)
		if err := <-got; err != nil {
			t.Errorf("the running answer: %v", err)
		}
		p.client.CloseIdleConnections()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 10*time.Second || took > 20*time.Second {
			t.Errorf("it took %v to end", took)
		}
		if _, _, err := p.get("http://tidepool.test/v2/"); err == nil {
			t.Error("it still answers")
		}
	})
}

// An answer that does not end is cut off when its time is over, and all is closed all the same.
func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, nil)
		layer := p.hub.PutBlob("library/app", origintest.Synthetic(1, 10<<20))
		p.hub.Pace(100 << 10)
		got := make(chan error)
		go func() {
			_, _, err := p.get("http://tidepool.test/v2/app/blobs/" + layer.Digest().String())
			got <- err
		}()
		time.Sleep(time.Second)
		began := time.Now()
		if err := p.stop(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 30*time.Second || took > 40*time.Second {
			t.Errorf("it took %v to end", took)
		}
		if err := <-got; err == nil {
			t.Error("a part was taken for the whole")
		}
	})
}

func TestWhatAnyUpstreamAddsToTheMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, func(c *config.Config) { c.AnyUpstream = true })
		p.expect(t, "http://tidepool.test/v2/a.test/x/manifests/1", 502)
		p.expect(t, "http://tidepool.test/v2/b.test/x/manifests/1", 502)
		metrics := string(p.expect(t, "http://admin.test/metrics", 200))
		if strings.Contains(metrics, "a.test") || !strings.Contains(metrics, `tidepool_upstream_failures_total{upstream="other"}`) {
			t.Errorf("a client's words are labels:\n%s", metrics)
		}
		p.client.CloseIdleConnections()
		if err := p.stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPublicAddressIsWarnedOf(t *testing.T) {
	for addr, want := range map[config.Address]int{":5000": 1, "0.0.0.0:5000": 1, "[::]:5000": 1, "10.0.0.1:5000": 1, "127.0.0.1:5000": 0, "[::1]:5000": 0, "localhost:5000": 0} {
		core, logs := observer.New(zap.WarnLevel)
		preface(config.Loaded{Config: config.Config{Listen: addr}}, zap.New(core))
		if logs.Len() != want {
			t.Errorf("%s: %d warnings, want %d", addr, logs.Len(), want)
		}
	}
}

// One address may be for both kinds of IP.
func TestEveryAddress(t *testing.T) {
	loaded, err := config.Load(config.Inputs{File: "-", Stdin: strings.NewReader(""),
		Flags: map[string][]string{"listen": {":0"}, "admin": {"off"}, "data": {t.TempDir()}}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := start(t.Context(), loaded.Config, zap.NewNop(), world{})
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(r.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		if _, err := at("http://"+net.JoinHostPort(host, port)).text(t.Context(), "/v2/"); err != nil {
			if host == "::1" && !hasIPv6() {
				continue
			}
			t.Error(err)
		}
	}
	if err := r.stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		l.Close()
	}
	return err == nil
}
