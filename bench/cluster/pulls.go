package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// named is an image of the corpus.
type named struct {
	repo, tag string
	*origintest.Image
}

// corpus puts images into a registry. Two and two have their layers in common, as images of one base have.
func corpus(o *origintest.Origin, n int) (all []named) {
	const small, middle, large = 20 << 10, 300 << 10, 2 << 20
	for i := range n {
		repo := fmt.Sprintf("library/app%d", i)
		spec := origintest.Spec{Seed: uint64(i / 2), Pad: 1 + i%2, Layers: []origintest.Layer{
			{Size: large, Form: origintest.Raw}, {Size: middle, Form: origintest.Raw}, {Size: small, Form: origintest.Raw},
		}}
		all = append(all, named{repo, "1", o.PutImage(repo, "1", spec)})
	}
	return all
}

// pull brings an image from a member, as containerd does: what the tag is, that manifest, then all blobs at once.
func pull(ctx context.Context, c *http.Client, url string, img named) error {
	base := url + "/v2/" + img.repo
	if err := head(ctx, c, base+"/manifests/"+img.tag); err != nil {
		return err
	}
	d := img.Top.Digest.String()
	if _, err := get(ctx, c, base+"/manifests/"+d, d); err != nil {
		return err
	}
	var all sync.WaitGroup
	errs := make([]error, len(img.Blobs))
	for i, b := range img.Blobs {
		all.Go(func() {
			d := b.Digest.String()
			_, errs[i] = get(ctx, c, base+"/blobs/"+d, d)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// pullAll has every member be asked for every image, all members at once, each by two clients.
func (p *pool) pullAll(ctx context.Context, images []named, seed uint64) error {
	var all sync.WaitGroup
	errs := make([]error, 2*len(p.members))
	for i := range errs {
		all.Go(func() {
			for _, n := range rand.New(rand.NewPCG(seed, uint64(i))).Perm(len(images)) {
				if errs[i] = pull(ctx, p.client, p.members[i/2].url, images[n]); errs[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// pulls asks every member for every image, cold and then warm.
func pulls(ctx context.Context, o options, r *report) error {
	sizes, images := []int{1, 3, 5, 10}, 16
	if o.short {
		sizes, images = []int{1, 5}, 8
	}
	for _, n := range sizes {
		if _, err := pullBy(ctx, o, r, n, images); err != nil {
			return fmt.Errorf("%d members: %w", n, err)
		}
	}
	return nil
}

// pullBy has a cluster asked for everything, and returns how many questions its members left unanswered for so long that
// whoever asked went another way.
func pullBy(ctx context.Context, o options, r *report, n, images int) (silent float64, err error) {
	p, err := gather(ctx, o, n)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	all := corpus(p.origin, images)
	for i := range 2 {
		if err := p.pullAll(ctx, all, uint64(i)); err != nil {
			return 0, err
		}
	}
	c := count(p.origin, all)
	r.add(atMost(figure{What: "bytes of blobs fetched / distinct", Members: n, Value: c.blobs, Digits: 2, Note: fmt.Sprintf("at most %d times", c.mostBlob)}, 1))
	r.add(atMost(figure{What: "counted GETs / distinct manifests", Members: n, Value: c.manifests, Digits: 2, Note: fmt.Sprintf("at most %d; and %.2f HEADs", c.mostManifest, c.heads)}, 1))
	var distinct float64
	for _, size := range c.sizes {
		distinct += float64(size)
	}
	h, err := p.heldAtMost(ctx, mostHeld*distinct)
	if err != nil {
		return 0, err
	}
	r.add(atMost(figure{What: "bytes held / distinct", Members: n, Value: h.kept / distinct, Digits: 2,
		Note: fmt.Sprintf("and %.2f of hot copies, which go first", h.hot/distinct)}, mostHeld))
	return h.silent, nil
}

// mostHeld is how many times what there is the members may hold together: manifests are kept by more than one.
const mostHeld = 1.05

// counted is what a registry was asked for, in times of what there is.
type counted struct {
	blobs, manifests, heads float64
	mostBlob, mostManifest  int
	sizes                   map[string]int64 // of what there is, by digest
}

func count(o *origintest.Origin, images []named) (c counted) {
	c.sizes = map[string]int64{}
	var total, distinct int64
	for _, img := range images {
		for _, b := range img.Blobs {
			if d := b.Digest.String(); c.sizes[d] == 0 {
				c.sizes[d] = b.Size
				sent := o.Sent(b.Digest)
				total, distinct, c.mostBlob = total+sent.Total(), distinct+b.Size, max(c.mostBlob, sent.Most())
			}
		}
		c.sizes[img.Top.Digest.String()] = img.Top.Size
		gets := o.Count(origintest.Manifest, origintest.GET, origintest.Repo(img.repo))
		c.mostManifest = max(c.mostManifest, gets)
	}
	c.blobs = float64(total) / float64(distinct)
	c.manifests = float64(o.Count(origintest.Manifest, origintest.GET)) / float64(len(images))
	c.heads = float64(o.Count(origintest.Manifest, origintest.HEAD)) / float64(len(images))
	return c
}

// held is what all members have on disk, in bytes, hot copies of what others own, and how many questions of theirs nobody
// answered.
type held struct{ kept, hot, silent float64 }

func (p *pool) held() (h held, err error) {
	for _, m := range p.members {
		all, err := p.metrics(m)
		if err != nil {
			return h, err
		}
		copies := all["tidepool_cluster_hot_copies_bytes"]
		h.kept, h.hot = h.kept+all["tidepool_disk_bytes"]-copies, h.hot+copies
		h.silent += all[`tidepool_cluster_questions_total{outcome="silent"}`]
	}
	return h, nil
}

// heldAtMost is held once it is no more than so much, or after a few seconds: what only passes through a member goes with
// its last reader, who may have all of it before the member has noticed.
func (p *pool) heldAtMost(ctx context.Context, most float64) (held, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		h, err := p.held()
		if err != nil || h.kept <= most {
			return h, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return h, nil
		}
	}
}
