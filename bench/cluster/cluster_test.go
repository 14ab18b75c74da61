package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/tidepool-oci/tidepool/cache"
)

func TestReadTrace(t *testing.T) {
	const text = "v2\nv2/a/b/manifests/latest\n\n/v2/c/blobs/0f42edfc\nv2/a/tags/list\nv2/a/b/manifests/two\n"
	want := []ask{{"trace/a/b", cache.KindManifest, "latest"}, {"trace/c", cache.KindBlob, "0f42edfc"}}
	packer, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"plain": []byte(text), "packed": packer.EncodeAll([]byte(text), nil)} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readTrace(file, 2)
		if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestZipf(t *testing.T) {
	times := map[string]int{}
	for _, a := range zipf(30_000) {
		times[a.name]++
	}
	once, most := 0, 0
	for _, n := range times {
		if most = max(most, n); n == 1 {
			once++
		}
	}
	if part := float64(once) / float64(len(times)); part < 0.66 || part > 0.70 {
		t.Errorf("%.2f of all blobs are asked for once", part)
	}
	if second := times["often1"]; times["often0"] != most || second < most*4/10 || second > most*6/10 {
		t.Errorf("the first is asked for %d times of at most %d, the second %d", times["often0"], most, second)
	}
}

func TestSize(t *testing.T) {
	last := int64(0)
	for i := range 1000 {
		n := size(float64(i) / 1000)
		if n < last || n < 32 || n > mostSize {
			t.Fatalf("%d bytes at %d in a thousand, after %d", n, i, last)
		}
		last = n
	}
}

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		f             figure
		goal, reached string
	}{
		{figure{Value: 3}, "", ""},
		{atMost(figure{Value: 1.004, Digits: 2}, 1), "≤ 1.00", "yes"}, // as it is shown
		{atMost(figure{Value: 1.006, Digits: 2}, 1), "≤ 1.00", "**no**"},
		{atLeast(figure{Value: 0.5, Digits: 1, Unit: "ms"}, 0.5), "≥ 0.5 ms", "yes"},
		{atLeast(figure{Value: 0.4, Digits: 1}, 0.5), "≥ 0.5", "**no**"},
	} {
		if goal, reached := c.f.goal(); goal != c.goal || reached != c.reached {
			t.Errorf("%+v: %q, %q", c.f, goal, reached)
		}
	}
}

func TestMoves(t *testing.T) {
	r := &report{}
	if err := moves(t.Context(), options{short: true}, r); err != nil || len(r.Figures) != 6 {
		t.Fatalf("%d figures, %v", len(r.Figures), err)
	}
	for _, f := range r.Figures {
		if _, reached := f.goal(); reached != "yes" {
			t.Errorf("%+v", f)
		}
	}
}

// TestPulls has a small cluster of real processes measured.
func TestPulls(t *testing.T) {
	binary := os.Getenv("TIDEPOOL_BINARY")
	if binary == "" {
		t.Skip("TIDEPOOL_BINARY names no tidepool")
	}
	r := &report{}
	silent, err := pullBy(t.Context(), options{binary: binary, dir: t.TempDir()}, r, 2, 2)
	if err != nil || len(r.Figures) != 3 {
		t.Fatalf("%d figures, %v", len(r.Figures), err)
	}
	for _, f := range r.Figures {
		if silent > 0 && f.What != "bytes held / distinct" {
			*f.Most = 2 // a member that this machine had stand still was not waited for: then each fetches for itself
		}
		if _, reached := f.goal(); reached != "yes" {
			t.Errorf("%+v, with %v questions unanswered", f, silent)
		}
	}
}

func TestModel(t *testing.T) {
	const times = 20_000
	m := newModel(10)
	for range times {
		m.ask(ask{"trace/a", cache.KindBlob, "the same"})
	}
	busiest, sum := 0, 0
	for _, n := range m.served {
		busiest, sum = max(busiest, n), sum+n
	}
	if uneven := float64(busiest) / (times / 10); sum != times || uneven > 1.25 || m.away < times*8/10 {
		t.Errorf("%v of %d, %d elsewhere", m.served, sum, m.away)
	}
	if e := m.excess(); e < 0.87 || e > 0.88 {
		t.Errorf("%.3f have to be served elsewhere", e)
	}
	rare := newModel(10)
	for i := range times {
		rare.ask(ask{"trace/a", cache.KindBlob, fmt.Sprint(i % (times / 20))})
	}
	if rare.away > 0 {
		t.Errorf("%d of what nobody asks for often is served elsewhere", rare.away)
	}
}
