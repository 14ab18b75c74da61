package origintest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math"
	"sync"

	"github.com/tidepool-oci/tidepool/cache"
)

// Content is some bytes and their name. It never changes, and many may read it at once.
type Content struct {
	at     io.ReaderAt
	size   int64
	digest func() cache.Digest
}

// Bytes is content held in memory, named by its sha256. b must not change afterwards.
func Bytes(b []byte) *Content {
	return named(bytes.NewReader(b), int64(len(b)), "sha256", sha256.New)
}

// Synthetic is size bytes of noise that depend on seed alone. They are made where they are read, so that content may
// be larger than memory, and can be read at any offset. Of one seed the smaller content is the front of the larger.
// The digest is computed when it is first asked for: about a second for each GiB.
func Synthetic(seed uint64, size int64) *Content {
	return named(newNoise(seed, size), size, "sha256", sha256.New)
}

// SHA512 is the same content under its sha512 name.
func (c *Content) SHA512() *Content { return named(c.at, c.size, "sha512", sha512.New) }

// Named is the same content under a name that need not be its own: what a lying hub has.
func (c *Content) Named(d cache.Digest) *Content {
	return &Content{c.at, c.size, func() cache.Digest { return d }}
}

func named(at io.ReaderAt, size int64, algorithm string, h func() hash.Hash) *Content {
	return &Content{at, size, sync.OnceValue(func() cache.Digest {
		sum := h()
		// Reading memory or noise cannot fail.
		_, _ = io.Copy(sum, io.NewSectionReader(at, 0, size))
		d, err := cache.ParseDigest(algorithm + ":" + hex.EncodeToString(sum.Sum(nil)))
		if err != nil {
			panic(err)
		}
		return d
	})}
}

// Size is the content's length in bytes.
func (c *Content) Size() int64 { return c.size }

// Digest is the content's name.
func (c *Content) Digest() cache.Digest { return c.digest() }

// ReadAt implements io.ReaderAt.
func (c *Content) ReadAt(p []byte, off int64) (int, error) { return c.at.ReadAt(p, off) }

// Reader reads the n bytes from off on; n < 0: to the end.
func (c *Content) Reader(off, n int64) io.Reader {
	if n < 0 {
		n = c.size - off
	}
	return io.NewSectionReader(c.at, off, n)
}

// Bytes is the whole content in memory.
func (c *Content) Bytes() []byte {
	b := make([]byte, c.size)
	// Reading memory or noise cannot fail.
	_, _ = io.ReadFull(c.Reader(0, -1), b)
	return b
}

// Compare reads r to its end and returns an error unless it brought the n bytes from off on; n < 0: to the end.
func (c *Content) Compare(r io.Reader, off, n int64) error {
	want := c.Reader(off, n)
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		got, err := io.ReadFull(r, a)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		exp, _ := io.ReadFull(want, b)
		if i := firstDifference(a[:got], b[:exp]); i >= 0 {
			return fmt.Errorf("differs at byte %d", off+int64(i))
		}
		off += int64(got)
		if got != exp {
			return fmt.Errorf("ends at byte %d: %d bytes where %d are left", off, got, exp)
		}
		if err != nil {
			return nil
		}
	}
}

// firstDifference is where a and b first differ in what both have; -1: nowhere.
func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	if bytes.Equal(a[:n], b[:n]) {
		return -1
	}
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// noise is AES in counter mode over zeroes: gigabytes a second, from any offset on.
type noise struct {
	block cipher.Block
	size  int64
}

func newNoise(seed uint64, size int64) noise {
	var key [16]byte
	binary.BigEndian.PutUint64(key[:], seed)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key's length is right
	}
	return noise{block, size}
}

func (s noise) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-off))
	clear(p[:n])
	var iv, skip [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], uint64(off/aes.BlockSize))
	ctr := cipher.NewCTR(s.block, iv[:])
	lead := skip[:off%aes.BlockSize]
	ctr.XORKeyStream(lead, lead)
	ctr.XORKeyStream(p[:n], p[:n])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// blanks is a text of spaces without end.
type blanks struct{}

func (blanks) ReadAt(p []byte, _ int64) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// endless never ends as far as anyone can wait.
func endless() *Content { return &Content{at: blanks{}, size: math.MaxInt64} }
