package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// puller pulls an image as a client does that has nothing yet, for every platform, and believes nothing: what comes is
// hashed, and compared with what its digest says.
type puller struct {
	base     string
	received func(n int)

	verified  int64         // bytes, once all is done
	firstByte time.Duration // of the first blob
}

// atOnce is how many blobs are pulled at a time, as by dockerd and containerd.
const atOnce = 3

// pull pulls img by its tag and fails unless every byte of it came, and was right.
func (p *puller) pull(ctx context.Context, repo, tag string, img *origintest.Image) error {
	top, err := p.manifest(ctx, repo, tag, img.Top.Digest)
	if err != nil {
		return err
	}
	blobs := map[cache.Digest]int64{}
	for _, variant := range top.Manifests {
		m, err := p.manifest(ctx, repo, variant.Digest.String(), variant.Digest)
		if err != nil {
			return err
		}
		for _, b := range append(m.Layers, m.Config) {
			blobs[b.Digest] = b.Size
		}
	}
	return p.blobs(ctx, repo, blobs)
}

// parts is what a manifest or an index points to.
type parts struct {
	Config    origintest.Descriptor   `json:"config"`
	Layers    []origintest.Descriptor `json:"layers"`
	Manifests []origintest.Descriptor `json:"manifests"`
}

// largestManifest is what registries allow.
const largestManifest = 4 << 20

func (p *puller) manifest(ctx context.Context, repo, reference string, want cache.Digest) (m parts, err error) {
	body, err := p.get(ctx, "/v2/"+repo+"/manifests/"+reference)
	if err != nil {
		return m, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, largestManifest))
	if err == nil && !want.Names(data) {
		err = fmt.Errorf("manifest %s: %d wrong bytes", reference, len(data))
	}
	if err != nil {
		return m, err
	}
	p.verified += int64(len(data))
	p.received(len(data))
	return m, json.Unmarshal(data, &m)
}

// blobs pulls some at a time.
func (p *puller) blobs(ctx context.Context, repo string, all map[cache.Digest]int64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	var first atomic.Int64
	for digest, size := range all {
		g.Go(func() error {
			took, err := p.blob(ctx, repo, digest, size)
			first.CompareAndSwap(0, int64(took))
			return err
		})
		p.verified += size
	}
	err := g.Wait()
	p.firstByte = time.Duration(first.Load())
	return err
}

// blob pulls one and returns how long its first byte took.
func (p *puller) blob(ctx context.Context, repo string, digest cache.Digest, size int64) (time.Duration, error) {
	began := time.Now()
	body, err := p.get(ctx, "/v2/"+repo+"/blobs/"+digest.String())
	if err != nil {
		return 0, err
	}
	defer body.Close()
	hash, buf := digest.Hash(), make([]byte, 128<<10)
	var n int64
	var first time.Duration
	for {
		m, err := body.Read(buf)
		if n == 0 && m > 0 {
			first = time.Since(began)
		}
		hash.Write(buf[:m])
		n += int64(m)
		p.received(m)
		if err == io.EOF {
			break
		}
		if err != nil {
			return first, fmt.Errorf("blob %s: after %d bytes: %w", digest, n, err)
		}
	}
	if n != size || !digest.Matches(hash) {
		return first, fmt.Errorf("blob %s: %d bytes came that are not it", digest, n)
	}
	return first, nil
}

func (p *puller) get(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s: %s: %s", path, resp.Status, text)
	}
	return resp.Body, nil
}
