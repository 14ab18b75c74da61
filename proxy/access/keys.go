package access

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// key is a public key that tokens are verified by.
type key struct {
	id     string // "": it is not said
	method string // the only one that it is for; "": any that takes such keys
	public crypto.PublicKey
}

// fits reports whether k may be the key that a token calls kid.
func (k key) fits(kid string) bool { return kid == "" || k.id == "" || k.id == kid }

func anyFits(keys []key, kid string) bool {
	return slices.ContainsFunc(keys, func(k key) bool { return k.fits(kid) })
}

// keysOfFile returns what knows the keys that a file has.
func keysOfFile(name string, log *zap.Logger) func(context.Context, string) ([]key, error) {
	w := &watched[[]key]{files: []string{name}, log: log, parse: func(texts [][]byte) ([]key, error) { return parseKeys(texts[0]) }}
	return func(context.Context, string) ([]key, error) {
		keys, err := w.now()
		if err != nil {
			return nil, unavailable{fmt.Errorf("the keys in %s cannot be read: %w", name, err)}
		}
		return keys, nil
	}
}

// unavailable is an error for what is out of order here, and no fault of the client.
type unavailable struct{ error }

func (u unavailable) Is(target error) bool { return target == cache.ErrUnavailable }
func (u unavailable) Unwrap() error        { return u.error }

// maxKeys is more than any issuer has at a time.
const maxKeys = 100

// parseKeys reads a JWKS, or public keys in PEM. Keys that are for something else, or of kinds that are not known, are
// passed over; that none is left is an error.
func parseKeys(text []byte) (keys []key, err error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN")) {
		keys, err = parsePEM(text)
	} else {
		keys, err = parseJWKS(text)
	}
	switch {
	case err != nil:
		return nil, err
	case len(keys) == 0:
		return nil, errors.New("there is no key in it that verifies tokens (RSA of 2048 bits or more, or ECDSA)")
	case len(keys) > maxKeys:
		return nil, fmt.Errorf("it has more than %d keys", maxKeys)
	}
	return keys, nil
}

func parsePEM(text []byte) (keys []key, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return keys, nil
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("it has a %s that is no public key: %w", block.Type, err)
		}
		if usable(public) {
			keys = append(keys, key{public: public})
		}
	}
}

// minBits is what RS256 asks for (RFC 7518, section 3.3).
const minBits = 2048

func usable(public crypto.PublicKey) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minBits
	case *ecdsa.PublicKey:
		return true
	}
	return false
}

// jwk is a key as RFC 7517 and RFC 7518 write it.
type jwk struct {
	Kty, Kid, Use, Alg, Crv string
	N, E, X, Y              octets
}

// octets are base64url without padding.
type octets []byte

func (o *octets) UnmarshalText(b []byte) (err error) {
	*o, err = base64.RawURLEncoding.AppendDecode(nil, b)
	return err
}

func parseJWKS(text []byte) (keys []key, err error) {
	var doc struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("it is no JWKS: %w", err)
	}
	for _, raw := range doc.Keys {
		var j jwk
		if json.Unmarshal(raw, &j) != nil || j.Use != "" && j.Use != "sig" {
			continue
		}
		if public, ok := j.public(); ok && usable(public) {
			keys = append(keys, key{j.Kid, j.Alg, public})
		}
	}
	return keys, nil
}

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

func (j jwk) public() (crypto.PublicKey, bool) {
	switch j.Kty {
	case "RSA":
		e := new(big.Int).SetBytes(j.E)
		if !e.IsInt64() || e.Int64() < 3 || e.Int64() >= 1<<31 || e.Bit(0) == 0 {
			return nil, false
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(j.N), E: int(e.Int64())}, true
	case "EC":
		curve, ok := curves[j.Crv]
		if !ok || len(j.X) != len(j.Y) {
			return nil, false
		}
		k, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, j.X, j.Y)) // it must be on the curve
		return k, err == nil
	}
	return nil, false
}
