package origintest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/tidepool-oci/tidepool/cache"
)

// pack makes a layer, and the digest of its tar as configs list it.
func (l Layer) pack(seed uint64) (c *Content, diff cache.Digest) {
	if l.Form == Raw {
		c = Synthetic(seed, l.Size)
		return c, c.Digest()
	}
	var buf bytes.Buffer
	buf.Grow(int(l.Size + l.Size/64 + 8<<10)) // the noise, its frames, and the tar's headers
	packer := l.Form.writer(&buf)
	sum := sha256.New()
	// Writing to memory cannot fail.
	_ = archive(io.MultiWriter(sum, packer), seed, l.Size)
	_ = packer.Close()
	diff, err := cache.ParseDigest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	if err != nil {
		panic(err)
	}
	return Bytes(buf.Bytes()), diff
}

// writer packs what goes into it. Noise does not become smaller, so no time is spent on trying.
func (f Form) writer(w io.Writer) io.WriteCloser {
	switch f {
	case TarGzip:
		z, err := gzip.NewWriterLevel(w, gzip.NoCompression)
		if err != nil {
			panic(err) // the level exists
		}
		return z
	case TarZstd:
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			panic(err) // the options exist
		}
		return z
	default:
		return plain{w}
	}
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// archive writes a tar of a directory and a file with size bytes of noise.
func archive(w io.Writer, seed uint64, size int64) error {
	t := tar.NewWriter(w)
	dir := &tar.Header{Typeflag: tar.TypeDir, Name: "data/", Mode: 0o755, ModTime: created}
	file := &tar.Header{
		Typeflag: tar.TypeReg, Name: fmt.Sprintf("data/%016x", seed), Mode: 0o644, ModTime: created, Size: size,
	}
	if err := t.WriteHeader(dir); err != nil {
		return err
	}
	if err := t.WriteHeader(file); err != nil {
		return err
	}
	if _, err := io.Copy(t, io.NewSectionReader(newNoise(seed, size), 0, size)); err != nil {
		return err
	}
	return t.Close()
}
