package origintest_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

func get(t *testing.T, s *origintest.Server, path string, headers ...string) (*http.Response, []byte, error) {
	t.Helper()
	return ask(t, s, http.MethodGet, s.URL+path, headers...)
}

func ask(t *testing.T, s *origintest.Server, method, url string, headers ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	client := s.Client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func TestImageIsServedWhole(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	img := o.PutImage("library/app", "latest", origintest.Spec{
		Platforms: []string{"linux/amd64", "linux/arm64/v8"},
		Layers: []origintest.Layer{
			{Size: 1 << 20, Shared: true}, {Size: 300_000, Form: origintest.TarZstd}, {Form: origintest.Raw},
		},
	})
	resp, body, err := get(t, hub, "/v2/library/app/manifests/latest", "Accept", origintest.OCIIndex)
	if err != nil || resp.StatusCode != 200 || !img.Top.Digest.Names(body) {
		t.Fatalf("index: %v, %v", resp, err)
	}
	for _, m := range img.Manifests {
		_, body, err := get(t, hub, "/v2/library/app/manifests/"+m.Digest.String(), "Accept", m.MediaType)
		if err != nil || !m.Digest.Names(body) {
			t.Errorf("manifest %s: %v", m.Digest, err)
		}
	}
	for _, b := range img.Blobs {
		resp, body, err := get(t, hub, "/v2/library/app/blobs/"+b.Digest.String())
		if err != nil || !b.Digest.Names(body) || resp.ContentLength != b.Size {
			t.Errorf("blob %s: %v", b.Digest, err)
		}
		if c := o.Sent(b.Digest); c.Total() != b.Size || c.Repeated() != 0 {
			t.Errorf("blob %s: coverage %v", b.Digest, c)
		}
	}
}

func TestCutOnce(t *testing.T) {
	o := origintest.New()
	hub := origintest.Serve(t, o)
	blob := o.PutBlob("a", origintest.Synthetic(1, 4<<20))
	o.When(origintest.Blob, origintest.GET).Once().CutAt(1 << 20)
	path := "/v2/a/blobs/" + blob.Digest().String()
	if _, body, err := get(t, hub, path); err == nil || len(body) != 1<<20 {
		t.Fatalf("%d bytes, %v: not cut", len(body), err)
	}
	resp, body, err := get(t, hub, path, "Range", "bytes=1048576-")
	if err != nil || resp.StatusCode != 206 || len(body) != 3<<20 {
		t.Fatalf("resumed: %d bytes, %v", len(body), err)
	}
	if c := o.Sent(blob.Digest()); len(c) != 1 || c.Most() != 1 {
		t.Errorf("coverage %v", c)
	}
}
