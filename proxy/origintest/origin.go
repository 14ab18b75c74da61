// Package origintest is a container registry in the same process, for tests, demonstrations and measurements, whose
// every answer can be spoiled: cut, stalled, altered, limited, redirected, guarded.
//
// Its invariant: what was not spoiled by a rule is what a good registry answers, and every byte that was sent is in
// the log.
//
//	o := origintest.New()
//	img := o.PutImage("library/app", "latest", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}})
//	o.When(origintest.Blob, origintest.GET).Once().CutAt(1 << 20)
//	hub := origintest.Serve(t, o)
package origintest

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// Origin is a registry. The zero value is not one: use New. All methods may be called while it serves.
type Origin struct {
	log    journal
	secret []byte // signs tokens and CDN addresses

	mu       sync.Mutex // guards what follows
	repos    map[string]*repo
	rules    []*Rule
	manners  Manners
	guard    guard
	limit    limit
	ban      ban
	cdn      string        // where blobs are redirected to; empty: nowhere
	cdnLife  time.Duration // how long such an address is good for
	connRate int64         // bytes per second; 0: no limit
}

// Manners is how an origin behaves where registries differ. The zero value is a current Docker Hub.
type Manners struct {
	AnyAccept     bool // serve manifests of types that the client did not say it accepts
	NoReferrers   bool // no referrers API: 404, and the list under the fallback tag instead
	NoFilter      bool // the referrers API ignores artifactType
	PageSize      int  // entries on a page of a list where the client asks for no fewer; 0: all
	AbsoluteLinks bool // the address of the next page is absolute
	Hides         bool // who may not see a repository is told that it is not there
}

// repo is a repository: what is in one is not in another.
type repo struct {
	blobs     map[cache.Digest]*Content
	manifests map[cache.Digest]manifest
	tags      map[string]cache.Digest
	referrers map[cache.Digest][]Descriptor // by their subject, in the order in which they came
}

type manifest struct {
	mediaType string
	content   *Content
}

// New returns an empty registry that everybody may pull from.
func New() *Origin {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	return &Origin{secret: secret, repos: map[string]*repo{}}
}

// Behave sets the origin's manners.
func (o *Origin) Behave(m Manners) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.manners = m
}

// Pace limits each connection to bytesPerSecond of bodies; 0: no limit. It needs a server made by Server.
func (o *Origin) Pace(bytesPerSecond int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.connRate = bytesPerSecond
}

// PutBlob makes c a blob of the repository.
func (o *Origin) PutBlob(name string, c *Content) *Content {
	d := c.Digest() // may take long: outside of the lock
	o.change(name, func(r *repo) { r.blobs[d] = c })
	return c
}

// PutManifest makes c a manifest of the repository, and points tag to it unless that is empty.
func (o *Origin) PutManifest(name, tag, mediaType string, c *Content) *Content {
	d := c.Digest()
	o.change(name, func(r *repo) {
		if _, held := r.manifests[d]; !held {
			r.refer(mediaType, c)
		}
		r.manifests[d] = manifest{mediaType, c}
		if tag != "" {
			r.tags[tag] = d
		}
	})
	return c
}

// Tag points a tag of the repository to d.
func (o *Origin) Tag(name, tag string, d cache.Digest) {
	o.change(name, func(r *repo) { r.tags[tag] = d })
}

// Untag removes a tag; what it pointed to stays.
func (o *Origin) Untag(name, tag string) {
	o.change(name, func(r *repo) { delete(r.tags, tag) })
}

// Delete removes the blob and the manifest d from the repository, with the tags that point to it.
func (o *Origin) Delete(name string, d cache.Digest) {
	o.change(name, func(r *repo) {
		delete(r.blobs, d)
		delete(r.manifests, d)
		for tag, to := range r.tags {
			if to == d {
				delete(r.tags, tag)
			}
		}
	})
}

// change runs f on a repository, which is made where it is missing, under the lock.
func (o *Origin) change(name string, f func(*repo)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.repos[name]
	if r == nil {
		r = &repo{
			blobs:     map[cache.Digest]*Content{},
			manifests: map[cache.Digest]manifest{},
			tags:      map[string]cache.Digest{},
			referrers: map[cache.Digest][]Descriptor{},
		}
		o.repos[name] = r
	}
	f(r)
}
