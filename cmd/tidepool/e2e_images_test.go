package main_test

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is one image, index or artifact, and what a client of this platform must have of it after a pull.
type image struct {
	host, repo, tag string
	digest          string // what the tag names
	manifest        string // of this platform: digest itself where the tag names no index
	config          string
	layers          []string
	diffIDs         []string

	zstd, artifact bool
	content        remote.Taggable
}

// ref is the image's name as people write it.
func (i *image) ref() string { return i.host + "/" + i.repo + ":" + i.tag }

// manifests is what a client reads before the blobs: two where the tag names an index.
func (i *image) manifests() []string {
	if i.digest == i.manifest {
		return []string{i.digest}
	}
	return []string{i.digest, i.manifest}
}

// blobs is the config and the layers.
func (i *image) blobs() []string { return append([]string{i.config}, i.layers...) }

// parts is all of it.
func (i *image) parts() []string { return append(i.manifests(), i.blobs()...) }

// nothing is the digest of the blob without a byte.
const nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// own is the platform whose part of an index clients pull here; other is one whose part they leave.
func own() *v1.Platform { return &v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

func other() *v1.Platform { return &v1.Platform{OS: "linux", Architecture: "s390x"} }

// kitchen makes content out of a seed: the same seed gives the same bytes, and no other does.
type kitchen struct {
	t    *testing.T
	repo string
	seed uint64 // of the layer made last
}

// layer is a tar with one file of size random bytes, compressed as kind says.
func (k *kitchen) layer(kind types.MediaType, size int64) v1.Layer {
	k.t.Helper()
	k.seed++
	seed, how, level := k.seed, compression.GZip, gzip.BestSpeed
	if kind == types.OCILayerZStd {
		how = compression.ZStd
	}
	if size > 1<<20 {
		level = gzip.NoCompression // of random bytes: any other level only takes longer
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return tarOf(seed, size), nil },
		tarball.WithCompression(how), tarball.WithCompressionLevel(level), tarball.WithMediaType(kind))
	must(k.t, err)
	return l
}

// oci is an OCI image for p of n layers, each of size bytes or a few more, compressed as kind says.
func (k *kitchen) oci(p *v1.Platform, kind types.MediaType, n int, size int64) v1.Image {
	k.t.Helper()
	return k.build(p, mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		types.OCIConfigJSON), kind, n, size)
}

// docker2 is the same as docker writes it: schema 2.
func (k *kitchen) docker2(p *v1.Platform, n int, size int64) v1.Image {
	k.t.Helper()
	return k.build(p, empty.Image, types.DockerLayer, n, size)
}

func (k *kitchen) build(p *v1.Platform, img v1.Image, kind types.MediaType, n int, size int64) v1.Image {
	k.t.Helper()
	var layers []v1.Layer
	for i := range int64(n) {
		layers = append(layers, k.layer(kind, size+i))
	}
	img, err := mutate.AppendLayers(img, layers...)
	must(k.t, err)
	config, err := img.ConfigFile()
	must(k.t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Author = p.OS, p.Architecture, k.repo
	img, err = mutate.ConfigFile(img, config)
	must(k.t, err)
	return img
}

// index puts images for this platform and for another one under one name, of type kind.
func (k *kitchen) index(kind types.MediaType, mine, others v1.Image) v1.ImageIndex {
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, kind),
		mutate.IndexAddendum{Add: others, Descriptor: v1.Descriptor{Platform: other()}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: own()}})
}

// artifact is content that no runtime runs, an empty blob among it; it refers to subject, if there is one.
func (k *kitchen) artifact(kind types.MediaType, subject v1.Image) v1.Image {
	k.t.Helper()
	void := static.NewLayer(nil, "application/vnd.example.void")
	img, err := mutate.Append(k.oci(own(), types.OCILayer, 1, 1<<10), mutate.Addendum{Layer: void})
	must(k.t, err)
	img = mutate.ConfigMediaType(img, kind)
	if subject == nil {
		return img
	}
	to, err := partial.Descriptor(subject)
	must(k.t, err)
	return mutate.Subject(img, *to).(v1.Image)
}

// tag says what clients of this platform must have of content after a pull of repo:name from host. mine is the
// platform's part of content.
func (k *kitchen) tag(host, name string, content remote.Taggable, mine v1.Image) *image {
	k.t.Helper()
	img := &image{host: host, repo: k.repo, tag: name, content: content}
	top, err := content.(partial.WithRawManifest).RawManifest()
	must(k.t, err)
	m, err := mine.Manifest()
	must(k.t, err)
	config, err := mine.ConfigFile()
	must(k.t, err)
	manifest, err := mine.Digest()
	must(k.t, err)
	img.digest = fmt.Sprintf("sha256:%x", sha256.Sum256(top))
	img.manifest, img.config = manifest.String(), m.Config.Digest.String()
	for i, l := range m.Layers {
		img.layers = append(img.layers, l.Digest.String())
		img.zstd = img.zstd || l.MediaType == types.OCILayerZStd
		img.artifact = img.artifact || l.Digest.String() == nothing
		img.diffIDs = append(img.diffIDs, config.RootFS.DiffIDs[i].String())
	}
	return img
}

// tarOf streams a tar with one file of size random bytes.
func tarOf(seed uint64, size int64) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := tw.WriteHeader(&tar.Header{Name: fmt.Sprint("file-", seed), Mode: 0o644, Size: size})
		if err == nil {
			_, err = io.CopyN(tw, noise(seed), size)
		}
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// noise is an endless stream of random bytes, always the same for the same seed.
func noise(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// push puts images into a registry that listens at addr and asks for no login.
func push(t *testing.T, addr string, images ...*image) {
	t.Helper()
	for _, img := range images {
		to, err := name.NewTag(addr+"/"+img.repo+":"+img.tag, name.Insecure)
		must(t, err)
		if err := remote.Push(to, img.content); err != nil {
			t.Fatalf("pushing %s: %v", img.ref(), err)
		}
	}
}
