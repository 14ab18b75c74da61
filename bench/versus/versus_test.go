package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test's own binary be the contestant that versus is itself.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-bare") {
		main()
		return
	}
	os.Exit(m.Run())
}

func testBench(t *testing.T) *bench {
	t.Helper()
	b, err := newBench(options{size: 3<<20 + 1, dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestOriginServesWhatItPublishes(t *testing.T) {
	b := testBench(t)
	for path, digest := range map[string]string{
		b.hot.path(): b.hot.digest, b.manifestPath(): b.manifest, b.manifestByName(): b.manifest,
	} {
		if err := verify(t.Context(), b.origin.addr, path, digest); err != nil {
			t.Error(err)
		}
	}
	if gets, sent := b.hot.gets.Load(), b.hot.sent.Load(); gets != 1 || sent != b.hot.size {
		t.Errorf("counted %d GETs and %d bytes, want 1 and %d", gets, sent, b.hot.size)
	}
	if err := verify(t.Context(), b.origin.addr, b.manifestPath(), b.hot.digest); err == nil {
		t.Error("a wrong digest was not noticed")
	}
}

func TestOriginServesRangesAndHeads(t *testing.T) {
	b := testBench(t)
	url := "http://" + b.origin.addr + b.hot.path()
	req, _ := http.NewRequest(http.MethodGet, url, nil)
	req.Header.Set("Range", "bytes=10-19")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	part, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusPartialContent || len(part) != 10 {
		t.Errorf("a range gave %s and %d bytes, %v", resp.Status, len(part), err)
	}
	resp, err = http.Head(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ContentLength != b.hot.size || resp.Header.Get("Docker-Content-Digest") != b.hot.digest {
		t.Errorf("HEAD gave %d bytes of %s", resp.ContentLength, resp.Header.Get("Docker-Content-Digest"))
	}
}

func TestOriginKeepsItsPace(t *testing.T) {
	b := testBench(t)
	slow, err := b.origin.add(2<<20, 20<<20)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := verify(t.Context(), b.origin.addr, slow.path(), slow.digest); err != nil {
		t.Fatal(err)
	}
	// The last step leaves one step's time before the end.
	if took, least := time.Since(began), (100-13)*time.Millisecond; took < least {
		t.Errorf("2 MiB at 20 MiB/s took %v, want at least %v", took, least)
	}
}

func TestClientChecksLengths(t *testing.T) {
	b := testBench(t)
	c, err := dial(b.origin.addr, net.IPv4(127, 0, 0, 9))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for range 2 {
		times, err := c.get(b.hot.path(), b.hot.size)
		if err != nil || times.first.IsZero() || times.last.Before(times.first) {
			t.Errorf("got %v, %v", times, err)
		}
	}
	if _, err := c.get(b.hot.path(), b.hot.size-1); err == nil {
		t.Error("a wrong length was not noticed")
	}
}

func TestContestantsServeTheRightBytes(t *testing.T) {
	b := testBench(t)
	for _, c := range contestants[1:] {
		t.Run(c.name, func(t *testing.T) {
			s, err := b.admit(t.Context(), c)
			if err != nil && strings.HasPrefix(err.Error(), "not installed") {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.stop()
			if _, err := b.coldPull(t.Context(), s, 2, 0); err != nil {
				t.Error(err)
			}
			if used, err := anonymous(s.cmd.Process.Pid); err != nil || used < 1<<16 {
				t.Errorf("it uses %d bytes of memory, %v", used, err)
			}
		})
	}
}

func TestManifestIsOneKiB(t *testing.T) {
	b := testBench(t)
	m := b.origin.manifests["latest"]
	var parsed struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(m, &parsed); err != nil {
		t.Fatal(err)
	}
	if len(m) != manifestSize || parsed.Layers[0].Digest != b.hot.digest {
		t.Errorf("%d bytes: %s", len(m), m)
	}
}

func TestReadWrk(t *testing.T) {
	for said, want := range map[string]string{
		"Running 2s test\nresult\t1000\t2000000\t1200000\t0\n": "1000 2s <nil>",
		"result\t1000\t2000000\t1200000\t1":                    "0 0s wrk: 1 of 1000 requests failed, 1200000 bytes in all",
		"result\t1000\t2000000\t12000\t0":                      "0 0s wrk: 0 of 1000 requests failed, 12000 bytes in all",
	} {
		answers, took, err := readWrk([]byte(said))
		if got := fmt.Sprintf("%g %v %v", answers, took, err); got != want {
			t.Errorf("%q gave %s, want %s", said, got, want)
		}
	}
	if _, _, err := readWrk([]byte("unable to connect")); err == nil {
		t.Error("an unreadable line was not noticed")
	}
}

func TestReport(t *testing.T) {
	fast := &result{
		Load: "hot", Metric: "throughput", Unit: "GB/s",
		Samples: map[string][]float64{"tidepool": {3, 2, 4}, "nginx": {2, 2, 1}, "varnish": {6}},
		metric:  metric{digits: 1, atLeast: map[string]float64{"nginx": 1.2}},
	}
	slow := &result{
		Load: "stop", Metric: "memory", Failed: map[string]string{"nginx": "fell\nover"},
		Samples: map[string][]float64{"tidepool": {40}}, metric: metric{atMost: 32},
	}
	r := report{Contestants: []string{"tidepool", "nginx", "varnish"}, Results: []*result{fast, slow},
		LeftOut: map[string]string{"docker-registry": "not installed"}}
	var page strings.Builder
	r.table(&page)
	for _, want := range []string{
		"| hot | throughput, GB/s | 3.0 ± 1.0 | 2.0 ± 0.5 | 6.0 ± 0.0 |",
		"| hot | throughput, GB/s | 1.50 (1.00–4.00) | 0.50 (0.50–0.50) | ≥ 1.2x nginx | yes |",
		"| stop | memory | 40 ± 0 | failed | – |",
		"| stop | memory | – | – | ≤ 32 | **no** |",
		"- left out: docker-registry: not installed\n",
		"- failed: nginx, stop: fell; over\n",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, &page)
		}
	}
}

func TestFailureOfOurOwn(t *testing.T) {
	r := report{Results: []*result{{Load: "hot", Failed: map[string]string{"nginx": "fell over"}}}}
	if err := r.failure("tidepool"); err != nil {
		t.Error(err)
	}
	r.Results[0].Failed["tidepool"] = "fell over"
	if err := r.failure("tidepool"); err == nil {
		t.Error("a load that failed is no failure")
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-rows", "hot,cold", "-reps", "3", "-size", "8"})
	if err != nil || len(o.rows) != 2 || o.size != 8<<20 {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-rows", "warm"}, {"-only", "squid"}, {"-reps", "0"}, {"-output", "xml"}, {"more"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
