package cache

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"
)

// Digest is the name of content by its bytes: sha256 or sha512. Only ParseDigest and Sum make one, so a Digest that
// is not zero is always well formed, and its text is safe as a file name. It is comparable.
type Digest struct {
	alg algorithm
	sum [sha512.Size]byte // the first size() bytes count, the rest is zero
}

type algorithm uint8

const (
	algNone algorithm = iota
	algSHA256
	algSHA512
)

// ErrDigest is what ParseDigest says of anything that is no digest we know.
var ErrDigest = errors.New("not a digest: want sha256: and 64, or sha512: and 128, lower-case hex digits")

func (a algorithm) String() string {
	switch a {
	case algSHA256:
		return "sha256"
	case algSHA512:
		return "sha512"
	default:
		return ""
	}
}

func (a algorithm) size() int {
	switch a {
	case algSHA256:
		return sha256.Size
	case algSHA512:
		return sha512.Size
	default:
		return 0
	}
}

// ParseDigest reads "sha256:…" or "sha512:…" as the image spec writes them (descriptor.md, "Digests"). The error is
// ErrDigest.
func ParseDigest(s string) (Digest, error) {
	alg, text, _ := strings.Cut(s, ":")
	var d Digest
	switch alg {
	case "sha256":
		d.alg = algSHA256
	case "sha512":
		d.alg = algSHA512
	default:
		return Digest{}, ErrDigest
	}
	if len(text) != hex.EncodedLen(d.alg.size()) || strings.ToLower(text) != text {
		return Digest{}, ErrDigest
	}
	if _, err := hex.Decode(d.sum[:], []byte(text)); err != nil {
		return Digest{}, ErrDigest
	}
	return d, nil
}

// Sum is the sha256 digest of b.
func Sum(b []byte) Digest {
	s := sha256.Sum256(b)
	d := Digest{alg: algSHA256}
	copy(d.sum[:], s[:])
	return d
}

// IsZero reports whether d is no digest at all.
func (d Digest) IsZero() bool { return d.alg == algNone }

// Algorithm is "sha256" or "sha512"; empty for the zero Digest.
func (d Digest) Algorithm() string { return d.alg.String() }

// Hex is the digest without its algorithm.
func (d Digest) Hex() string { return hex.EncodeToString(d.sum[:d.alg.size()]) }

// String writes d as ParseDigest reads it; the zero Digest is "".
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return d.alg.String() + ":" + d.Hex()
}

// Hash returns a hash of d's algorithm, for Matches.
func (d Digest) Hash() hash.Hash {
	if d.alg == algSHA512 {
		return sha512.New()
	}
	return sha256.New()
}

// Matches reports whether what went into h, a hash from d.Hash, is what d names.
func (d Digest) Matches(h hash.Hash) bool {
	var sum [sha512.Size]byte
	got := h.Sum(sum[:0])
	return !d.IsZero() && len(got) == d.alg.size() && string(got) == string(d.sum[:d.alg.size()])
}

// Names reports whether d is the digest of b.
func (d Digest) Names(b []byte) bool {
	h := d.Hash()
	h.Write(b)
	return d.Matches(h)
}

// key is d as a short string for maps and tables: the algorithm and the raw bytes.
func (d Digest) key() string { return string(append([]byte{byte(d.alg)}, d.sum[:d.alg.size()]...)) }

// MarshalText writes d as String does.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	if *d, err = ParseDigest(string(b)); err != nil {
		return fmt.Errorf("%q: %w", b, err)
	}
	return nil
}
