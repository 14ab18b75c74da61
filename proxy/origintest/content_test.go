package origintest_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

func TestSyntheticReadsTheSameFromAnywhere(t *testing.T) {
	c := origintest.Synthetic(7, 100_003)
	whole := c.Bytes()
	if !c.Digest().Names(whole) {
		t.Fatal("the digest is not that of the bytes")
	}
	for range 500 {
		off := rand.Int64N(c.Size())
		n := rand.Int64N(c.Size() - off + 1)
		got, err := io.ReadAll(c.Reader(off, n))
		if err != nil || !bytes.Equal(got, whole[off:off+n]) {
			t.Fatalf("%d bytes from %d: %v", n, off, err)
		}
	}
	if !bytes.Equal(origintest.Synthetic(7, 50).Bytes(), whole[:50]) {
		t.Error("the smaller one is not the front of the larger")
	}
	if bytes.Equal(origintest.Synthetic(8, 50).Bytes(), whole[:50]) {
		t.Error("another seed gives the same bytes")
	}
}

func TestCompare(t *testing.T) {
	c := origintest.Synthetic(1, 200_000)
	good := c.Bytes()
	bad := slices.Clone(good)
	bad[150_000] ^= 1
	for _, test := range []struct {
		body   []byte
		off, n int64
		want   string
	}{
		{good, 0, -1, ""},
		{good[5:10], 5, 5, ""},
		{nil, 7, 0, ""},
		{bad, 0, -1, "differs at byte 150000"},
		{good[:199_999], 0, -1, "ends at byte 199999"},
		{good[5:11], 5, 5, "ends at byte 11"},
	} {
		err := c.Compare(bytes.NewReader(test.body), test.off, test.n)
		if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%d, %d: %v, want %q", test.off, test.n, err, test.want)
		}
	}
}

func TestImageCanBeUnpacked(t *testing.T) {
	layers := []origintest.Layer{{Size: 70_000}, {Size: 50_000, Form: origintest.TarZstd}, {Size: 999, Form: origintest.Tar}}
	for _, s := range []origintest.Spec{
		{Layers: layers},
		{Layers: layers, Docker: true, Platforms: []string{"linux/amd64", "linux/arm/v7"}},
		{Layers: layers, SHA512: true},
	} {
		img := origintest.Build(s)
		if again := origintest.Build(s); again.Top.Digest != img.Top.Digest {
			t.Error("not the same twice")
		}
		for _, v := range img.Variants {
			var cfg struct {
				Architecture, Variant string
				RootFS                struct {
					DiffIDs []cache.Digest `json:"diff_ids"`
				}
			}
			if err := json.Unmarshal(v.Config.Content.Bytes(), &cfg); err != nil || cfg.Architecture == "" {
				t.Fatalf("config %s: %v", v.Config.Content.Bytes(), err)
			}
			for i, l := range v.Layers {
				if size := unpack(t, l, cfg.RootFS.DiffIDs[i]); size != layers[i].Size {
					t.Errorf("%s layer %d holds %d bytes", v.Platform, i, size)
				}
			}
		}
	}
}

// unpack reads a layer as clients do and returns the size of what is in it.
func unpack(t *testing.T, l origintest.Item, diff cache.Digest) (size int64) {
	t.Helper()
	r := l.Content.Reader(0, -1)
	var err error
	if strings.HasSuffix(l.MediaType, "gzip") {
		r, err = gzip.NewReader(r)
	} else if strings.HasSuffix(l.MediaType, "zstd") {
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	r = io.TeeReader(r, sum)
	files := tar.NewReader(r)
	for {
		h, err := files.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		size += h.Size
	}
	if _, err := io.Copy(io.Discard, r); err != nil || !diff.Matches(sum) {
		t.Errorf("%s is not %s: %v", l.MediaType, diff, err)
	}
	return size
}

func TestPaddedManifest(t *testing.T) {
	img := origintest.Build(origintest.Spec{Pad: 5 << 20, Platforms: []string{"linux/amd64"}})
	for _, m := range img.Manifests {
		if m.Size < 5<<20 || !json.Valid(m.Content.Bytes()) {
			t.Errorf("%s has %d bytes", m.MediaType, m.Size)
		}
	}
}

func TestCoverage(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	blob := o.PutBlob("a", origintest.Synthetic(1, 1000))
	path := "/v2/a/blobs/" + blob.Digest().String()
	for _, r := range []string{"bytes=0-99", "bytes=100-199", "bytes=150-299", "bytes=500-", "bytes=150-159"} {
		if _, _, err := get(t, hub, path, "Range", r); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := ask(t, hub, "HEAD", hub.URL+path); err != nil {
		t.Fatal(err)
	}
	got := o.Sent(blob.Digest())
	want := origintest.Coverage{{0, 150, 1}, {150, 10, 3}, {160, 40, 2}, {200, 100, 1}, {500, 500, 1}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got.Total() != 860 || got.Distinct() != 800 || got.Repeated() != 60 || got.Most() != 3 {
		t.Errorf("total %d, distinct %d, most %d", got.Total(), got.Distinct(), got.Most())
	}
	heads := o.Count(origintest.HEAD, origintest.Of(blob.Digest()))
	if o.Bytes(origintest.Blob) != 860 || o.Count(origintest.Ranged) != 5 || heads != 1 {
		t.Errorf("%+v", o.Requests())
	}
	o.Forget()
	if o.Count() != 0 {
		t.Error("not forgotten")
	}
}

func TestAwait(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	blob := o.PutBlob("a", origintest.Synthetic(1, 1<<20))
	rule := o.When(origintest.Blob).StallAt(10)
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() { _, _, _ = get(t, hub, "/v2/a/blobs/"+blob.Digest().String()) })
	}
	if err := o.Await(t.Context(), 3, origintest.Blob); err != nil {
		t.Fatal(err)
	}
	if n := o.OpenConns(); n != 3 {
		t.Errorf("%d connections", n)
	}
	rule.Release()
	if err := o.AwaitIdle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := o.Bytes(); n != 3<<20 {
		t.Errorf("%d bytes", n)
	}
	clients.Wait()
}

func TestTLS(t *testing.T) {
	ca, err := origintest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	o := origintest.New()
	for _, c := range []struct {
		name    string
		options origintest.TLS
		good    bool
		proto   int
	}{
		{"fresh", origintest.TLS{}, true, 2},
		{"HTTP/1.1", origintest.TLS{CA: ca, HTTP1: true}, true, 1},
		{"expired", origintest.TLS{NotAfter: time.Now().Add(-time.Hour)}, false, 0},
		{"another's name", origintest.TLS{Names: []string{"hub.test"}}, false, 0},
		{"old", origintest.TLS{Version: tls.VersionTLS11}, false, 0},
		{"clients must show a certificate", origintest.TLS{Clients: ca}, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub := origintest.ServeTLS(t, o, c.options)
			resp, _, err := get(t, hub, "/v2/")
			if (err == nil) != c.good || c.good && resp.ProtoMajor != c.proto {
				t.Errorf("%v, %v", resp, err)
			}
		})
	}
}
