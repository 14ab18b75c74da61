package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Pattern selects names of the form registry/repository:tag: ** crosses slashes, * does not.
type Pattern string

// UnmarshalText refuses what can match no name, because it is a slip of whoever wrote it.
func (p *Pattern) UnmarshalText(b []byte) error {
	s := string(b)
	if !doublestar.ValidatePattern(s) {
		return fmt.Errorf("%q is no pattern: a bracket or brace is left open", s)
	}
	if glued.MatchString(s) {
		return fmt.Errorf("%q: ** crosses slashes only where it stands between them: write **/*", s)
	}
	if why := hopeless(s); why != nil {
		return fmt.Errorf("%q can match no name: %w", s, why)
	}
	*p = Pattern(s)
	return nil
}

// glued finds a ** that is but a part of a path component, where it would mean no more than *.
var glued = regexp.MustCompile(`[^/{,]\*\*|\*\*[^/},]`)

const wild = `*?[{`

// hopeless says why no registry/repository:tag can match s, as far as that shows from its form.
func hopeless(s string) error {
	dir, last := "", s
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		dir, last = s[:i], s[i+1:]
	}
	_, tag, tagged := strings.Cut(last, ":")
	repo := strings.TrimSuffix(s, ":"+tag)
	switch {
	case strings.Contains(s, "@"):
		return errors.New("digests never age, rules are for tags")
	case strings.ContainsAny(s, " \t\n%,") && !strings.ContainsAny(s, "{["):
		return errors.New("it has a character that no name has")
	case strings.HasPrefix(s, "/") || strings.Contains(s, "//"):
		return errors.New("no name has an empty part")
	case dir == "" && !strings.HasPrefix(s, "**") && !strings.Contains(s, "{"):
		return errors.New("names begin with the registry, as in docker.io/library/alpine:*")
	case !tagged && !strings.ContainsAny(last, wild):
		return errors.New("names end with a tag: add :* for all of them")
	case tagged && tag == "":
		return errors.New("the tag is empty")
	case repo != strings.ToLower(repo):
		return errors.New("registries and repositories are written in lower case")
	}
	return nil
}

// Match reports whether name, as registry/repository:tag, is one of p's.
func (p Pattern) Match(name string) bool { return doublestar.MatchUnvalidated(string(p), name) }

// registry is the part of p that stands for the registry, and whether it names just one.
func (p Pattern) registry() (string, bool) {
	first, _, ok := strings.Cut(string(p), "/")
	return first, ok && !strings.ContainsAny(first, wild)
}
