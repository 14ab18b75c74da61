package warm

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/bmatcuk/doublestar/v4"

	"github.com/tidepool-oci/tidepool/cache"
)

// Item is what one text means: an image, or all images of a repository whose tags are of some form.
type Item struct {
	Name   string       // without tag and digest, as it was written
	Tag    string       // "" where Digest is set, or match
	Digest cache.Digest // zero: none

	match func(tag string) bool // nil: it is one image
}

// One reports whether i is one image, whatever there is.
func (i Item) One() bool { return i.match == nil }

// tagForm is a tag (distribution-spec, "Pulling manifests").
var tagForm = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// Parse reads a text such as alpine:3, ghcr.io/org/app@sha256:…, app:~1.4, "app:>=1.2 <2", app:^2-alpine or app:v1.*.
func Parse(text string) (i Item, err error) {
	rest, digest, pinned := strings.Cut(text, "@")
	slash := strings.LastIndexByte(rest, '/')
	last, tag, tagged := strings.Cut(rest[slash+1:], ":")
	if i.Name = rest[:slash+1] + last; last == "" {
		return i, fmt.Errorf("%q names no image: write it as docker does, as in alpine:3", text)
	}
	if pinned {
		if i.Digest, err = cache.ParseDigest(digest); err != nil {
			return i, fmt.Errorf("%q: %w", text, err)
		}
		if tagged && !tagForm.MatchString(tag) {
			return i, fmt.Errorf("%q: a digest is one image, so there is nothing to choose from by %q", text, tag)
		}
		return i, nil // as docker has it: the digest decides, the tag is for people
	}
	switch {
	case !tagged:
		i.Tag = "latest"
	case tagForm.MatchString(tag):
		i.Tag = tag
	case strings.ContainsAny(tag, "*?[{") && !rangeForm.MatchString(tag):
		if !doublestar.ValidatePattern(tag) {
			return i, fmt.Errorf("%q: %q is no pattern: a bracket or brace is left open", text, tag)
		}
		i.match = func(t string) bool { return doublestar.MatchUnvalidated(tag, t) }
	default:
		if i.match, err = versions(tag); err != nil {
			return i, fmt.Errorf("%q: %q is neither a tag nor a pattern nor a range of versions: %w", text, tag, err)
		}
	}
	return i, nil
}

// rangeForm is how a range of versions begins that may have a * in it.
var rangeForm = regexp.MustCompile(`^\s*[~^<>=!]`)

// flavour is the end of a tag that says which build of a version it is: 1.4.2-alpine3.20.
var flavour = regexp.MustCompile(`-[A-Za-z][\w.-]*$`)

// dated is from which major version on a number is a date or a build: 20260101.
const dated = 100_000

var errNoRange = errors.New("write ranges as in ~1.4, ^2 or >=1.2 <2, with -alpine at the end for tags that end so")

// versions are the tags in a range. What follows the first hyphen of an image's tag is no pre-release, as semver has
// it, but a flavour: a range is of those tags that have its own, or none as it has none. A tag such as 20260101 is a
// version only to a range that names one.
func versions(text string) (func(tag string) bool, error) {
	own := flavour.FindString(text)
	text = strings.TrimSuffix(text, own)
	c, err := semver.NewConstraint(text)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errNoRange, err)
	}
	days := datedForm.MatchString(text)
	return func(tag string) bool {
		if flavour.FindString(tag) != own {
			return false
		}
		v, err := semver.NewVersion(strings.TrimSuffix(tag, own))
		return err == nil && (days || v.Major() < dated) && v.Prerelease() == "" && c.Check(v)
	}, nil
}

var datedForm = regexp.MustCompile(`(^|[^\d.])\d{6}`)
