package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// The download goes on when the client who began it leaves: who comes later finds it done.
func rowClientLeaves(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 4<<20))
	w := inBubble(t, o)
	ctx, leave := context.WithCancel(t.Context())
	res, err := w.ask(ctx, http.MethodGet, blobPath(blob.Digest()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, res.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	leave()
	_ = res.Body.Close()
	w.keepsOnlyTruth()
	o.When().Drop()
	w.get(blobPath(blob.Digest())).brings(t, blob)
	if n := o.Bytes(); n != blob.Size() {
		t.Errorf("the hub sent %d bytes", n)
	}
}

// Clients that take a byte per second slow nobody down, and are cut off after a while.
func rowSlowReaders(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 4<<20))
	o.Pace(1 << 20)
	w := inBubble(t, o)
	var slow sync.WaitGroup
	for range 50 {
		c, err := w.plan.net.DialContext(t.Context(), "tcp", w.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		slow.Go(func() {
			defer c.Close()
			began := time.Now()
			_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: tidepool\r\n\r\n", blobPath(blob.Digest()))
			for b := make([]byte, 1); err == nil; {
				time.Sleep(time.Second)
				_, err = c.Read(b)
			}
			if took := time.Since(began); took > 3*time.Minute {
				t.Errorf("cut off after %v", took)
			}
		})
	}
	synctest.Wait()
	a := w.get(blobPath(blob.Digest()))
	if a.brings(t, blob); a.took > 5*time.Second {
		t.Errorf("the fast one took %v for what takes 4s", a.took)
	}
	slow.Wait()
	if n := o.Count(origintest.Blob); n != 1 {
		t.Errorf("%d requests upstream", n)
	}
}

// crowd has n clients do something at once.
func crowd(n int, do func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}

// A thousand clients of one cold blob are one request upstream.
func rowThousandClients(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 72<<10))
	want := blob.Bytes()
	w := inBubble(t, o)
	crowd(1000, func(int) {
		if a := w.get(blobPath(blob.Digest())); a.status != 200 || !bytes.Equal(a.body, want) {
			t.Errorf("%v", a)
		}
	})
	if n := o.Count(); n != 1 {
		t.Errorf("%d requests upstream", n)
	}
}

// A thousand different cold blobs wait for each other where they are more than an upstream is asked for at a time, and
// use no more connections than that.
func rowThousandBlobs(t *testing.T) {
	o := origintest.New()
	var blobs []*origintest.Content
	for i := range 1000 {
		blobs = append(blobs, o.PutBlob(repo, origintest.Synthetic(uint64(i), 1<<10)))
	}
	w := inBubble(t, o)
	hold := o.When(origintest.Blob).Hang()
	var good atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		crowd(len(blobs), func(i int) {
			if a := w.get(blobPath(blobs[i].Digest())); a.status == 200 && bytes.Equal(a.body, blobs[i].Bytes()) {
				good.Add(1)
			}
		})
	}()
	synctest.Wait()
	if n, conns := o.Count(), o.OpenConns(); n != 64 || conns != 64 {
		t.Errorf("%d requests at a time, over %d connections", n, conns)
	}
	hold.Release()
	<-done
	if good.Load() != 1000 || o.Count() != 1000 {
		t.Errorf("%d were served, by %d requests upstream", good.Load(), o.Count())
	}
}

// Clients that ask again and again for what fails do not make a failing upstream's day worse.
func rowRetryStorm(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 128<<10))
	o.PutImage(repo, "latest", origintest.Spec{})
	o.When().Status(500)
	w := inBubble(t, o)
	var early, late atomic.Int32
	crowd(200, func(i int) {
		path := manifestPath("latest")
		if i%2 == 0 {
			path = blobPath(blob.Digest())
		}
		for range 5 {
			a := w.get(path)
			a.refuses(t, http.StatusBadGateway, "UNAVAILABLE")
			if a.header.Get("Retry-After") == "" {
				early.Add(1)
			}
			late.Add(1)
			time.Sleep(2 * time.Second)
		}
	})
	if early.Load() > 0 {
		t.Errorf("%d of %d answers do not say when to come again", early.Load(), late.Load())
	}
	if n := o.Count(); n > 40 {
		t.Errorf("%d requests upstream for 1000 of clients within 10 s", n)
	}
}

// What a client says of caches and times makes nobody ask upstream.
func rowNoCache(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	w := inBubble(t, o)
	w.pulls("latest", img)
	o.Forget()
	for _, header := range [][]string{
		{"Cache-Control", "no-cache"}, {"Cache-Control", "no-store, max-age=0"}, {"Pragma", "no-cache"},
		{"Date", "Thu, 01 Jan 1970 00:00:00 GMT"}, {"Date", "nonsense"}, {"If-Modified-Since", "Thu, 01 Jan 2099 00:00:00 GMT"},
		{"If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"}, {"Cache-Control", "only-if-cached"},
	} {
		w.get(manifestPath("latest"), header...).brings(t, img.Top.Content)
		w.get(digestPath(img.Top.Digest), header...).brings(t, img.Top.Content)
		w.get(blobPath(img.Blobs[0].Digest), header...).brings(t, img.Blobs[0].Content)
	}
	if n := o.Count(); n != 0 {
		t.Errorf("%d requests upstream", n)
	}
}

// A manifest by digest that no tag has named: whatever its type, its bytes and its type are the upstream's.
func rowByDigest(t *testing.T) {
	o := origintest.New()
	images := []*origintest.Image{
		o.PutImage(repo, "", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}}),
		o.PutImage(repo, "", origintest.Spec{Platforms: []string{"linux/amd64"}, Docker: true, Seed: 1}),
		o.PutImage(repo, "", origintest.Spec{SHA512: true, Seed: 2}),
		o.PutImage(repo, "", origintest.Spec{Pad: 1 << 20, Seed: 3}),
	}
	images = append(images, o.PutArtifact(repo, images[0].Top.Descriptor, "application/spdx+json", origintest.Bytes([]byte("{}"))))
	unknown := o.PutManifest(repo, "", "application/vnd.example.thing.v1+json",
		origintest.Bytes([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.example.thing.v1+json", "manifests" : []}`)))
	w := inBubble(t, o)
	for range 2 {
		for _, img := range images {
			for _, m := range img.Manifests {
				a := w.get(digestPath(m.Digest), "Accept", "text/plain")
				a.brings(t, m.Content)
				a.has(t, "Content-Type", m.MediaType, "Docker-Content-Digest", m.Digest.String())
			}
		}
		a := w.get(digestPath(unknown.Digest()))
		a.brings(t, unknown)
		a.has(t, "Content-Type", "application/vnd.example.thing.v1+json")
	}
	for _, r := range o.Requests(origintest.Manifest) {
		if !strings.HasPrefix(r.Ref, "sha") {
			t.Errorf("asked for %s", r.Ref)
		}
	}
}
