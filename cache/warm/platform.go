package warm

import (
	"errors"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Platform is what an image runs on: linux/amd64, linux/arm/v7. Without a variant it is every variant.
type Platform struct{ OS, Architecture, Variant string }

var errPlatform = errors.New("write a platform as os/architecture or os/architecture/variant, as in linux/amd64 or linux/arm/v7")

// ParsePlatform reads a platform as docker writes it.
func ParsePlatform(s string) (p Platform, err error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || strings.Contains(s+"/", "//") || parts[0] == "" {
		return p, fmt.Errorf("%q: %w", s, errPlatform)
	}
	p.OS, p.Architecture = parts[0], parts[1]
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func (p Platform) fits(o *ocispec.Platform) bool {
	return o != nil && p.OS == o.OS && p.Architecture == o.Architecture && (p.Variant == "" || p.Variant == o.Variant)
}

// The annotations by which buildkit ties an attestation to the image of the same index that it is about.
const (
	attests     = "vnd.docker.reference.type"
	attestsWhat = "vnd.docker.reference.digest"
)

// choose is what of an index is for the platforms: their images, attestations about these, and what says nothing of a
// platform, as the parts of artifacts do. The error says that there is nothing for one of them.
func choose(index []ocispec.Descriptor, platforms []Platform) ([]ocispec.Descriptor, error) {
	if len(platforms) == 0 {
		return index, nil
	}
	chosen, missing := map[string]bool{}, platforms
	for _, d := range index {
		for _, p := range platforms {
			if p.fits(d.Platform) {
				chosen[d.Digest.String()] = true
				missing = without(missing, p)
			}
		}
	}
	var all []ocispec.Descriptor
	for _, d := range index {
		if chosen[d.Digest.String()] || chosen[d.Annotations[attestsWhat]] || d.Platform == nil {
			all = append(all, d)
		}
	}
	if len(missing) > 0 {
		return all, fmt.Errorf("there is none for %v: there are %s", missing[0], offered(index))
	}
	return all, nil
}

func without(list []Platform, p Platform) (rest []Platform) {
	for _, x := range list {
		if x != p {
			rest = append(rest, x)
		}
	}
	return rest
}

// offered are an index's platforms, for people.
func offered(index []ocispec.Descriptor) string {
	var names []string
	for _, d := range index {
		if d.Platform != nil && d.Annotations[attests] == "" {
			names = append(names, Platform{d.Platform.OS, d.Platform.Architecture, d.Platform.Variant}.String())
		}
	}
	if names == nil {
		return "no platforms named"
	}
	return strings.Join(names, ", ")
}
