package containerdtest

import (
	"testing"

	"github.com/containerd/containerd/v2/core/transfer"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// TestParallelRanges has a whole image pulled through a cold tidepool, each layer in many ranges at a time, all of them
// open at their end, as containerd does with its concurrent_layer_fetch_buffer: each byte crosses the uplink once.
func TestParallelRanges(t *testing.T) {
	const buffer, large, larger = 1 << 20, 9 << 20, 24<<20 + 1
	o := origintest.New()
	layers := []origintest.Layer{{Size: larger}, {Size: large}, {Size: 1 << 10}}
	img := o.PutImage(appName(0), "1", origintest.Spec{Layers: layers})
	o.Pace(20 << 20) // or the first range might find all of a layer there
	p := serve(t, "--upstream", "docker.io="+origintest.Serve(t, o).URL)
	c := newClient(t, p, p.setup(t))
	c.options = []transfer.ImageResolverOption{
		transfer.WithConcurrentLayerFetchBuffer(buffer), transfer.WithMaxConcurrentDownloads(8),
	}
	if top, err := c.pull(t.Context(), ref(0)); err != nil || top.Digest.String() != img.Top.Digest.String() {
		t.Fatalf("%v, %v: want %s", top.Digest, err, img.Top.Digest)
	}
	for _, b := range img.Blobs {
		if sent := o.Sent(b.Digest); sent.Distinct() != b.Size || sent.Most() != 1 {
			t.Errorf("of %d bytes this came from the hub: %v", b.Size, sent)
		}
	}
	n := int(c.ranged.Load())
	if n < larger/buffer+large/buffer {
		t.Errorf("there were %d requests for parts: this is no parallel fetch", n)
	}
	t.Logf("%d bytes, by %d requests for parts; %d requests to the hub", img.Size(), n, o.Count(origintest.Blob))
}
