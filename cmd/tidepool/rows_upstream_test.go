package main

import (
	"bufio"
	"bytes"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// An answer goes silent in the middle: after a while the rest is asked for, and nothing twice.
func rowStalls(t *testing.T) {
	const size = 4 << 20
	for _, percent := range []int64{10, 50, 99} {
		o := origintest.New()
		blob := o.PutBlob(repo, origintest.Synthetic(uint64(percent), size))
		w := inBubble(t, o)
		o.When(origintest.Blob).Once().StallAt(size * percent / 100)
		a := w.get(blobPath(blob.Digest()))
		a.brings(t, blob)
		if c := o.Sent(blob.Digest()); a.took < 15*time.Second || a.took > 17*time.Second || c.Repeated() > 0 {
			t.Errorf("at %d %%: took %v, %d bytes sent again", percent, a.took, c.Repeated())
		}
	}
}

// An answer ends early, whether that shows or not; once, and for ever.
func rowTruncates(t *testing.T) {
	o := origintest.New()
	w := inBubble(t, o)
	for i, f := range []struct {
		spoil func(r *origintest.Rule)
		want  string
	}{
		{func(r *origintest.Rule) { r.Once().CutAt(200 << 10) }, whole},
		{func(r *origintest.Rule) { r.Once().NoLength().CutAt(200 << 10) }, whole},
		{func(r *origintest.Rule) { r.Once().Length(-7) }, torn},
		{func(r *origintest.Rule) { r.Once().UntilClose().CutAt(200 << 10) }, torn},
		{func(r *origintest.Rule) { r.Nth(1).CutAt(200 << 10) }, torn}, // and then no more answers, see below
	} {
		blob := o.PutBlob(repo, origintest.Synthetic(uint64(i), blobSize))
		f.spoil(o.When(origintest.Of(blob.Digest())))
		if i == 4 {
			o.When(origintest.Of(blob.Digest())).After(1).Drop()
		}
		q := question{method: http.MethodGet, path: blobPath(blob.Digest()), item: blob}
		if a := w.put(q); !fits(a.outcome(q), f.want) {
			t.Errorf("%d: %v, want %s", i, a, f.want)
		}
		w.keepsOnlyTruth()
		o.Heal()
		time.Sleep(noticed)
		w.get(q.path).brings(t, blob)
	}
}

// More comes than was announced, or than there is.
func rowTooMuch(t *testing.T) {
	o := origintest.New()
	w := inBubble(t, o)
	img := o.PutImage(repo, "latest", origintest.Spec{})
	huge := o.PutImage(repo, "huge", origintest.Spec{Pad: 5 << 20})
	blob := o.PutBlob(repo, origintest.Synthetic(1, blobSize))
	o.When(origintest.Blob).Once().Pad(1000)
	if a := w.get(blobPath(blob.Digest())); a.err == nil {
		t.Errorf("%v", a)
	}
	w.get(blobPath(blob.Digest())).brings(t, blob)
	o.When(origintest.Manifest, origintest.GET).Once().Pad(10)
	w.get(manifestPath("latest")).refuses(t, http.StatusBadGateway, "CORRUPT")
	w.pulls("latest", img)
	for _, path := range []string{manifestPath("huge"), digestPath(huge.Top.Digest)} {
		w.get(path).refuses(t, http.StatusUnsupportedMediaType, "UNSUPPORTED")
	}
	w.keepsOnlyTruth()
	if n := o.Bytes(origintest.Of(huge.Top.Digest)); n > 5<<20 {
		t.Errorf("%d bytes of what is refused were fetched", n)
	}
}

// One bit is wrong, anywhere: no whole answer holds it, nothing keeps it.
func rowWrongBytes(t *testing.T) {
	o := origintest.New()
	w := inBubble(t, o)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		blob := o.PutBlob(repo, origintest.Synthetic(uint64(i), 1+rng.Int64N(2<<20)))
		at := rng.Int64N(blob.Size())
		o.When(origintest.Of(blob.Digest())).Once().Flip(at)
		a := w.get(blobPath(blob.Digest()))
		if a.err == nil && a.status == http.StatusOK {
			t.Errorf("byte %d of %d: %v", at, blob.Size(), a)
		}
		w.get(blobPath(blob.Digest())).brings(t, blob)
	}
	w.keepsOnlyTruth()
}

// What went out as a range could not be proven. It is not kept as if it were: who wants the whole finds out, and the
// next one has it right.
func rowWrongRange(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, blobSize))
	w := inBubble(t, o)
	o.When(origintest.Blob, origintest.GET).Flip(partOff + 5)
	q := question{method: http.MethodGet, path: blobPath(blob.Digest()), item: blob, part: true}
	if a := w.put(q); a.status != http.StatusPartialContent || len(a.body) != partLen || a.outcome(q) == whole {
		t.Errorf("%v", a)
	}
	o.Heal()
	if a := w.get(q.path); a.err == nil && a.status == http.StatusOK && !bytes.Equal(a.body, blob.Bytes()) {
		t.Errorf("the wrong byte came again, in a whole answer: %v", a)
	}
	w.get(q.path).brings(t, blob)
	w.keepsOnlyTruth()
}

// A tag and a digest that the upstream deleted: the tag is gone, by digest it is served on; and a tag comes back.
func rowDeleted(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	w := inBubble(t, o)
	w.pulls("latest", img)
	o.Delete(repo, img.Top.Digest)
	for _, b := range img.Blobs {
		o.Delete(repo, b.Digest)
	}
	w.pulls("latest", img) // still fresh
	time.Sleep(6 * time.Minute)
	w.get(manifestPath("latest")).refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	w.get(digestPath(img.Top.Digest)).brings(t, img.Top.Content)
	for _, b := range img.Blobs {
		w.get(blobPath(b.Digest)).brings(t, b.Content)
	}
	other := o.PutImage(repo, "latest", origintest.Spec{Seed: 1})
	w.pulls("latest", other)
}

// A tag moves while an image is pulled: the client goes on with the image that it began, whether the old one is still
// there or not.
func rowTagMoves(t *testing.T) {
	o := origintest.New()
	spec := origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}}
	old := o.PutImage(repo, "latest", spec)
	w := inBubble(t, o)
	w.get(manifestPath("latest")).brings(t, old.Top.Content)
	spec.Seed = 1
	moved := o.PutImage(repo, "latest", spec)
	for _, m := range old.Manifests {
		w.get(digestPath(m.Digest)).brings(t, m.Content)
	}
	for _, b := range old.Blobs {
		w.get(blobPath(b.Digest)).brings(t, b.Content)
	}
	w.get(manifestPath("latest")).brings(t, old.Top.Content) // fresh for five minutes
	time.Sleep(6 * time.Minute)
	w.pulls("latest", moved)
	w.get(digestPath(old.Top.Digest)).brings(t, old.Top.Content)

	// Between the HEAD of a client and its GET the tag moves, and the old manifest is deleted.
	spec.Seed = 2
	third := o.PutImage(repo, "nightly", spec)
	w.head(manifestPath("nightly")).has(t, "Docker-Content-Digest", third.Top.Digest.String())
	spec.Seed = 3
	fourth := o.PutImage(repo, "nightly", spec)
	o.Delete(repo, third.Top.Digest)
	o.Tag(repo, "nightly", fourth.Top.Digest)
	w.pulls("nightly", fourth)
}

// An index names a manifest that the upstream does not have: only that one is refused, and not for long.
func rowChildMissing(t *testing.T) {
	o := origintest.New()
	img := origintest.Build(origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}})
	gone := img.Variants[1].Manifest
	o.Put(repo, "latest", img)
	o.Delete(repo, gone.Digest)
	w := inBubble(t, o)
	w.get(manifestPath("latest")).brings(t, img.Top.Content)
	w.get(digestPath(img.Variants[0].Manifest.Digest)).brings(t, img.Variants[0].Manifest.Content)
	w.get(digestPath(gone.Digest)).refuses(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	w.head(digestPath(gone.Digest)).is(t, http.StatusNotFound)
	o.Put(repo, "latest", img)
	time.Sleep(time.Minute)
	w.pulls("latest", img)
}

// The address that a blob was redirected to is good for two seconds, and the download takes ten and breaks twice.
func rowSignedURLExpires(t *testing.T) {
	o, n := origintest.New(), new(origintest.Net)
	origintest.ServeIn(t, n, "cdn.test:80", o)
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1<<20))
	o.RedirectBlobs("http://cdn.test", 2*time.Second)
	o.Pace(100 << 10)
	o.When(origintest.CDN).Times(2).CutAt(300 << 10)
	w := inBubble(t, o, plan{net: n})
	w.get(blobPath(blob.Digest())).brings(t, blob)
	if c := o.Sent(blob.Digest()); c.Repeated() > 0 || o.Count(origintest.Blob) != 3 {
		t.Errorf("%d bytes sent again, the registry asked %d times", c.Repeated(), o.Count(origintest.Blob))
	}
	for _, r := range o.Requests(origintest.CDN) {
		if r.Authorized() || r.Status != http.StatusPartialContent && r.Status != http.StatusOK {
			t.Errorf("%+v", r)
		}
	}
}

// Token servers that say odd things of how long a token lives, or say too much, or nothing.
func rowTokenServer(t *testing.T) {
	for i, life := range []any{0, -1, 1e9, "300", nil, "soon", 1e300} {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{})
		o.RequireToken(origintest.TokenServer{Life: time.Hour, Answer: func(doc map[string]any) { doc["expires_in"] = life }})
		w := inBubble(t, o)
		w.pulls("latest", img)
		if c := o.Count(origintest.Token); c != 1 {
			t.Errorf("%d: expires_in %v: %d tokens for a pull of a second", i, life, c)
		}
	}
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	o.RequireToken(origintest.TokenServer{})
	w := inBubble(t, o)
	for _, spoil := range []func(r *origintest.Rule){
		func(r *origintest.Rule) { r.Status(503) },
		func(r *origintest.Rule) { r.Drop() },
		func(r *origintest.Rule) { r.Hang() },
		func(r *origintest.Rule) { r.Endless() },
		func(r *origintest.Rule) { r.HTML() },
		func(r *origintest.Rule) { r.Empty() },
		func(r *origintest.Rule) { r.Redirect("http://evil.test/token") },
	} {
		spoil(o.When(origintest.Token))
		a := w.get(manifestPath("latest"))
		if a.refuses(t, http.StatusBadGateway, "UNAVAILABLE"); a.took > time.Minute {
			t.Errorf("after %v", a.took)
		}
		o.Heal()
		time.Sleep(2 * time.Second)
	}
	w.pulls("latest", img)
	o.When().Hang()
	time.Sleep(10 * time.Minute)
	w.pulls("latest", img)
}

// Two mirrors, of which one has other bytes under the digest: the digest decides, and who has it right is found.
func rowMirrorsDisagree(t *testing.T) {
	n, bad, good := new(origintest.Net), origintest.New(), origintest.New()
	img := good.PutImage(repo, "latest", origintest.Spec{})
	bad.Put(repo, "latest", img)
	origintest.ServeIn(t, n, "mirror.test:80", bad)
	w := inBubble(t, good, plan{net: n, hubs: map[string]string{},
		file: "upstreams: {docker.io: {endpoints: ['http://mirror.test', 'http://hub.test']}}"})
	flips := bad.When(origintest.GET, origintest.Manifest).Flip(5)
	w.get(digestPath(img.Top.Digest)).brings(t, img.Top.Content) // not shown before it is proven, so the other is asked
	flips.End()
	time.Sleep(time.Minute)
	w.get(manifestPath("latest")).brings(t, img.Top.Content)
	bad.When(origintest.GET, origintest.Blob).Flip(5)
	for _, size := range []int64{1 << 10, 300 << 10} {
		blob := bad.PutBlob(repo, good.PutBlob(repo, origintest.Synthetic(uint64(size), size)))
		if a := w.get(blobPath(blob.Digest())); a.err == nil && a.status == http.StatusOK {
			t.Errorf("%v", a)
		}
		w.get(blobPath(blob.Digest())).brings(t, blob)
	}
	w.keepsOnlyTruth()
}

// 200 clients of a slow upstream have each byte when it comes, and hold up nobody who wants something else.
func rowSlowUpstream(t *testing.T) {
	o := origintest.New()
	slow := o.PutBlob(repo, origintest.Synthetic(1, 128<<10))
	quick := o.PutBlob(repo, origintest.Synthetic(2, blobSize))
	o.When(origintest.Of(slow.Digest())).Pace(10 << 10)
	w := inBubble(t, o)
	began := time.Now()
	var late atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		crowd(200, func(int) {
			res, err := w.ask(t.Context(), http.MethodGet, blobPath(slow.Digest()))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			body := bufio.NewReader(res.Body)
			if _, err := body.Peek(1); err != nil || time.Since(began) > 2*time.Second {
				late.Add(1)
			}
			if err := slow.Compare(body, 0, -1); err != nil {
				t.Error(err)
			}
		})
	}()
	time.Sleep(time.Second)
	a := w.get(blobPath(quick.Digest()))
	if a.brings(t, quick); a.took > time.Second {
		t.Errorf("another blob took %v", a.took)
	}
	<-done
	if late.Load() > 0 {
		t.Errorf("%d clients had no byte after 2 s", late.Load())
	}
	if took := time.Since(began); took > 15*time.Second || o.Count(origintest.Of(slow.Digest())) != 1 {
		t.Errorf("took %v by %d requests", took, o.Count(origintest.Of(slow.Digest())))
	}
}
