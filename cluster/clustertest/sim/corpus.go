package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// registry is what all content comes from.
const registry = "docker.io"

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// corpus is all content that there is, and what each tag stands for, and stood for.
type corpus struct {
	mu      sync.Mutex
	bytes   map[cache.Digest][]byte
	content []cache.Ref            // manifests and blobs, by digest, each once
	repos   map[cache.Digest]int   // in how many repositories it is
	tags    map[cache.Ref][]moment // what a tag became, and when
	layers  map[cache.Digest][]cache.Ref
	order   []cache.Ref // the tags, in the order in which they came
	made    int
}

// moment is when a tag began to stand for something.
type moment struct {
	since  time.Time
	digest cache.Digest
}

func newCorpus() *corpus {
	return &corpus{
		bytes: map[cache.Digest][]byte{}, repos: map[cache.Digest]int{},
		tags: map[cache.Ref][]moment{}, layers: map[cache.Digest][]cache.Ref{},
	}
}

// push makes an image of a repository: some layers of its own, and perhaps one that other repositories have, too.
func (c *corpus) push(r *rand.Rand, repo string) cache.Ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	var layers []cache.Ref
	add := func(b []byte) {
		layers = append(layers, c.put(cache.Ref{Registry: registry, Repo: repo, Kind: cache.KindBlob}, b))
	}
	for range 1 + r.IntN(3) {
		add(random(r.Uint64(), sizes[r.IntN(len(sizes))]))
	}
	if r.IntN(3) == 0 {
		add(random(7, 40<<10))
	}
	m := map[string]any{"schemaVersion": 2, "mediaType": manifestType, "annotations": map[string]string{"n": fmt.Sprint(c.made)}}
	var list []map[string]any
	for _, l := range layers {
		list = append(list, map[string]any{"mediaType": "application/octet-stream", "digest": l.Digest.String(), "size": len(c.bytes[l.Digest])})
	}
	m["layers"] = list
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // it is made of strings
	}
	ref := c.put(cache.Ref{Registry: registry, Repo: repo, Kind: cache.KindManifest}, b)
	c.layers[ref.Digest] = layers
	tag := cache.Ref{Registry: registry, Repo: repo, Kind: cache.KindManifest, Tag: "latest"}
	if c.tags[tag] == nil {
		c.order = append(c.order, tag)
	}
	c.tags[tag] = append(c.tags[tag], moment{time.Now(), ref.Digest})
	return tag
}

// sizes are of layers: what fits into memory, what does not, and what takes several reads.
var sizes = []int{900, 30 << 10, 70 << 10, 200 << 10}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}).Read(b) // never fails
	return b
}

func (c *corpus) put(ref cache.Ref, b []byte) cache.Ref {
	ref = ref.At(cache.Sum(b))
	if c.bytes[ref.Digest] == nil {
		c.content = append(c.content, ref)
	}
	c.bytes[ref.Digest] = b
	c.repos[ref.Digest]++
	return ref
}

// now is what a ref stands for; missing: nothing.
func (c *corpus) now(ref cache.Ref) (d cache.Digest, b []byte, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d = ref.Digest
	if ref.Tag != "" {
		all := c.tags[ref]
		if len(all) == 0 {
			return d, nil, false
		}
		d = all[len(all)-1].digest
	}
	b, found = c.bytes[d]
	return d, b, found
}

// stood says whether a tag stood for d at some time from then on.
func (c *corpus) stood(tag cache.Ref, d cache.Digest, then time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.tags[tag]
	for i, m := range all {
		if m.digest == d && (i+1 == len(all) || all[i+1].since.After(then)) {
			return true
		}
	}
	return false
}

func (c *corpus) of(d cache.Digest) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes[d]
}

func (c *corpus) layersOf(d cache.Digest) []cache.Ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.layers[d]
}

// all are the refs of all content, by digest; tags are the names.
func (c *corpus) all() []cache.Ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]cache.Ref(nil), c.content...)
}

func (c *corpus) names() []cache.Ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]cache.Ref(nil), c.order...)
}

func (c *corpus) shared(d cache.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.repos[d] > 1
}
