package sourcetest

import (
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/tidepool-oci/tidepool/cache"
)

// Stock is what a registry holds: all of it, and nothing else, must be behind a Source under test.
type Stock struct {
	Registry string // as Refs name it: "hub.test"
	Repos    []Repo
}

// Repo is a repository. What is in one is not in another.
type Repo struct {
	Name      string
	Blobs     []Blob
	Manifests []Manifest
}

// Blob is a blob.
type Blob struct {
	Digest cache.Digest
	Data   []byte
}

// Manifest is an image, an index or an artifact.
type Manifest struct {
	Tags      []string
	MediaType string
	Digest    cache.Digest
	Data      []byte

	subject cache.Digest // what it refers to
}

const (
	typeIndex = "application/vnd.oci.image.index.v1+json"
	typeImage = "application/vnd.oci.image.manifest.v1+json"
	typeEmpty = "application/vnd.oci.empty.v1+json"
)

// large is more than sockets and readers hold between them, so that a body can be abandoned before it is over.
const large = 4<<20 + 17

// tags are enough for several pages where a registry gives them by tens.
const tags = 25

// stock is made once: its digests take time.
var stock = sync.OnceValue(func() *Stock {
	return &Stock{Registry: "hub.test", Repos: []Repo{app(), other()}}
})

// app is the repository that is asked for things.
func app() Repo {
	empty := blob([]byte("{}"))
	config := blob([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`))
	layer, nothing := blob(noise(large)), blob(nil)
	strong := blob512([]byte("named by its sha512"))
	image := manifest(typeImage, document{
		Config: config.descriptor("application/vnd.oci.image.config.v1+json"),
		Layers: []descriptor{*layer.descriptor("application/vnd.oci.image.layer.v1.tar")},
	})
	index := manifest(typeIndex, document{Manifests: []descriptor{image.descriptor()}})
	for i := range tags {
		index.Tags = append(index.Tags, fmt.Sprintf("v1.%02d", i))
	}
	r := Repo{
		Name:      "test/app",
		Blobs:     []Blob{layer, config, empty, nothing, strong},
		Manifests: []Manifest{index, image},
	}
	for i, kind := range []string{"application/x.sbom", "application/x.signature", "application/x.sbom"} {
		subject := index.descriptor()
		m := manifest(typeImage, document{
			ArtifactType: kind, Config: empty.descriptor(typeEmpty), Layers: []descriptor{*empty.descriptor(typeEmpty)},
			Subject: &subject, Annotations: map[string]string{"number": fmt.Sprint(i)},
		})
		m.subject = index.Digest
		r.Manifests = append(r.Manifests, m)
	}
	stronger := manifest(typeImage, document{Annotations: map[string]string{"name": "sha512"}})
	stronger.Digest = sum512(stronger.Data)
	r.Manifests = append(r.Manifests, stronger)
	return r
}

// other is a repository whose content must not be had through app.
func other() Repo {
	m := manifest(typeImage, document{Annotations: map[string]string{"name": "elsewhere"}})
	m.Tags = []string{"elsewhere"}
	return Repo{Name: "test/other", Blobs: []Blob{blob([]byte("elsewhere"))}, Manifests: []Manifest{m}}
}

type descriptor struct {
	MediaType string       `json:"mediaType"`
	Digest    cache.Digest `json:"digest"`
	Size      int          `json:"size"`
}

type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        *descriptor       `json:"config,omitempty"`
	Layers        []descriptor      `json:"layers,omitempty"`
	Manifests     []descriptor      `json:"manifests,omitempty"`
	Subject       *descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

func blob(b []byte) Blob    { return Blob{cache.Sum(b), b} }
func blob512(b []byte) Blob { return Blob{sum512(b), b} }

func (b Blob) descriptor(mediaType string) *descriptor {
	return &descriptor{mediaType, b.Digest, len(b.Data)}
}

func manifest(mediaType string, d document) Manifest {
	d.SchemaVersion, d.MediaType = 2, mediaType
	b, err := json.Marshal(d)
	if err != nil {
		panic(err) // it can be marshalled
	}
	return Manifest{MediaType: mediaType, Digest: cache.Sum(b), Data: b}
}

func (m Manifest) descriptor() descriptor { return descriptor{m.MediaType, m.Digest, len(m.Data)} }

func sum512(b []byte) cache.Digest {
	sum := sha512.Sum512(b)
	d, err := cache.ParseDigest("sha512:" + hex.EncodeToString(sum[:]))
	if err != nil {
		panic(err)
	}
	return d
}

// noise is the same n bytes each time.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return b
}

// tagged is the manifest that has tags, and app's name.
func (s *Stock) tagged() Manifest {
	return s.Repos[0].Manifests[slices.IndexFunc(s.Repos[0].Manifests, func(m Manifest) bool { return len(m.Tags) > 0 })]
}

// layer is the large blob.
func (s *Stock) layer() Blob { return s.Repos[0].Blobs[0] }

func (s *Stock) ref(kind cache.Kind, d cache.Digest) cache.Ref {
	return cache.Ref{Registry: s.Registry, Repo: s.Repos[0].Name, Kind: kind, Digest: d}
}

func (s *Stock) tag(name string) cache.Ref {
	return cache.Ref{Registry: s.Registry, Repo: s.Repos[0].Name, Kind: cache.KindManifest, Tag: name}
}
