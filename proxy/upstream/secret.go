package upstream

import (
	"fmt"
	"io"
)

// Secret is text that never shows itself: every way of printing or marshalling it gives "***". A conversion to string
// is the one way to its text, and easy to find.
type Secret string

const masked = "***"

// String hides the secret; an empty one, which hides nothing, stays empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// Format hides the secret from every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText hides the secret from JSON, YAML and the like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
