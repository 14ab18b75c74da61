package origintest

import (
	"fmt"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// Spec describes an image to make up. The same Spec gives the same bytes. The zero value is an OCI image for
// linux/amd64 with one small layer.
type Spec struct {
	Platforms    []string    // "linux/arm64/v8"; none: no index, one image for linux/amd64
	Layers       []Layer     // of each platform's image, from the bottom up; none: one small one
	Docker       bool        // Docker's media types rather than OCI's
	SHA512       bool        // everything is named by its sha512
	Seed         uint64      // other seeds give other bytes
	Pad          int         // bytes that each manifest is made longer by
	Subject      *Descriptor // what the image refers to
	ArtifactType string
}

// Layer describes a layer to make up.
type Layer struct {
	Size   int64 // of what is in it, in bytes; noise, which does not compress
	Form   Form
	Shared bool // the same one on all platforms
}

// Form is how a layer is packed.
type Form uint8

// The forms of layers. All but Raw can be unpacked.
const (
	TarGzip Form = iota
	TarZstd
	Tar
	Raw // noise that only claims to be a layer: quick, takes no memory, of exactly the given size
)

// Image says what was made: every digest, size and type, and the bytes.
type Image struct {
	Top       Item      // what a tag names: the index, or the only manifest
	Variants  []Variant // by platform
	Manifests []Item    // all of them, Top last
	Blobs     []Item    // configs and layers, each once
}

// Variant is the image for one platform.
type Variant struct {
	Platform string
	Manifest Item
	Config   Item
	Layers   []Item
}

// Item is one manifest or blob.
type Item struct {
	Descriptor
	Content *Content
}

func (s Spec) item(mediaType string, c *Content) Item {
	if s.SHA512 {
		c = c.SHA512()
	}
	return Item{Descriptor{MediaType: mediaType, Digest: c.Digest(), Size: c.Size()}, c}
}

// Build makes up an image.
func Build(s Spec) *Image {
	img := &Image{}
	if len(s.Platforms) == 0 {
		img.add(s.variant("linux/amd64", 0, s.Subject))
		img.Top = img.Manifests[0]
		return img
	}
	top := manifestJSON{
		SchemaVersion: 2, MediaType: s.types().index, ArtifactType: s.ArtifactType,
		Manifests: []Descriptor{}, Subject: s.Subject, Annotations: s.padding(),
	}
	for i, p := range s.Platforms {
		v := s.variant(p, i, nil)
		img.add(v)
		d := v.Manifest.Descriptor
		d.Platform = platform(p)
		top.Manifests = append(top.Manifests, d)
	}
	img.Top = s.item(top.MediaType, Bytes(marshal(top)))
	img.Manifests = append(img.Manifests, img.Top)
	return img
}

// add takes a variant into the lists.
func (img *Image) add(v Variant) {
	img.Variants = append(img.Variants, v)
	img.Manifests = append(img.Manifests, v.Manifest)
	for _, b := range append([]Item{v.Config}, v.Layers...) {
		img.addBlob(b)
	}
}

func (img *Image) addBlob(b Item) {
	for _, have := range img.Blobs {
		if have.Digest == b.Digest {
			return
		}
	}
	img.Blobs = append(img.Blobs, b)
}

// Size is how many bytes a client that has nothing takes for all platforms together.
func (img *Image) Size() (n int64) {
	for _, it := range append(img.Manifests, img.Blobs...) {
		n += it.Size
	}
	return n
}

// PutImage makes up an image and puts it into a repository; tag may be empty.
func (o *Origin) PutImage(name, tag string, s Spec) *Image {
	img := Build(s)
	o.Put(name, tag, img)
	return img
}

// Put puts an image into a repository; tag may be empty.
func (o *Origin) Put(name, tag string, img *Image) {
	for _, b := range img.Blobs {
		o.PutBlob(name, b.Content)
	}
	for _, m := range img.Manifests {
		o.PutManifest(name, "", m.MediaType, m.Content)
	}
	if tag != "" {
		o.Tag(name, tag, img.Top.Digest)
	}
}

// mediaTypes are those of one of the two families.
type mediaTypes struct {
	index, manifest, config string
	layers                  [4]string // by Form
}

func (s Spec) types() mediaTypes {
	if s.Docker {
		const layer = "application/vnd.docker.image.rootfs.diff.tar"
		return mediaTypes{
			DockerList, DockerManifest, "application/vnd.docker.container.image.v1+json",
			[4]string{layer + ".gzip", layer + ".zstd", layer, layer + ".gzip"},
		}
	}
	const layer = "application/vnd.oci.image.layer.v1.tar"
	return mediaTypes{
		OCIIndex, OCIManifest, "application/vnd.oci.image.config.v1+json",
		[4]string{layer + "+gzip", layer + "+zstd", layer, layer + "+gzip"},
	}
}

// padding is an annotation as long as Pad says.
func (s Spec) padding() map[string]string {
	if s.Pad == 0 {
		return nil
	}
	return map[string]string{"origintest.padding": strings.Repeat("~", s.Pad)}
}

func platform(p string) *Platform {
	parts := append(strings.SplitN(p, "/", 3), "", "")
	return &Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}

// created is when all images were made: the same bytes each time.
var created = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

type config struct {
	Created time.Time `json:"created"`
	Platform
	Config  struct{} `json:"config"`
	RootFS  rootFS   `json:"rootfs"`
	History []step   `json:"history"`
}

type rootFS struct {
	Type    string         `json:"type"`
	DiffIDs []cache.Digest `json:"diff_ids"`
}

type step struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// variant makes the image for the i-th platform.
func (s Spec) variant(name string, i int, subject *Descriptor) Variant {
	t := s.types()
	v := Variant{Platform: name}
	cfg := config{Created: created, Platform: *platform(name), RootFS: rootFS{Type: "layers", DiffIDs: []cache.Digest{}}}
	m := manifestJSON{SchemaVersion: 2, MediaType: t.manifest, Subject: subject, Annotations: s.padding()}
	if len(s.Platforms) == 0 {
		m.ArtifactType = s.ArtifactType
	}
	for n, l := range s.layers() {
		content, diff := l.pack(s.seed(i, n, l.Shared))
		layer := s.item(t.layers[l.Form], content)
		v.Layers = append(v.Layers, layer)
		m.Layers = append(m.Layers, layer.Descriptor)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, diff)
		cfg.History = append(cfg.History, step{created, fmt.Sprintf("origintest layer %d", n)})
	}
	v.Config = s.item(t.config, Bytes(marshal(cfg)))
	m.Config = &v.Config.Descriptor
	v.Manifest = s.item(t.manifest, Bytes(marshal(m)))
	return v
}

func (s Spec) layers() []Layer {
	if len(s.Layers) == 0 {
		return []Layer{{Size: 4 << 10}}
	}
	return s.Layers
}

// seed keeps layers apart: by image, platform and place, or by image and place alone where they are shared.
func (s Spec) seed(platform, layer int, shared bool) uint64 {
	if shared {
		platform = -1
	}
	return s.Seed<<24 ^ uint64(platform+1)<<16 ^ uint64(layer)
}
