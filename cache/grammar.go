package cache

import (
	"fmt"
	"regexp"
)

// The grammar of names (distribution-spec, "Pulling manifests"), for Refs that come from elsewhere than the door, which
// has scanners of its own.
var (
	registryForm = regexp.MustCompile(`^[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?::[0-9]{1,5})?$`)
	repoForm     = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm      = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

const (
	mostRegistry = 260 // a host name of 253 and a port
	mostRepo     = 512 // twice what most clients allow
)

// Check refuses what no door could have made: every Ref that comes over a wire or from a file is checked.
func (r Ref) Check() error {
	named := r.Tag != ""
	switch {
	case len(r.Registry) > mostRegistry || !registryForm.MatchString(r.Registry):
		return fmt.Errorf("%.80q is no registry", r.Registry)
	case len(r.Repo) > mostRepo || !repoForm.MatchString(r.Repo):
		return fmt.Errorf("%.80q is no repository", r.Repo)
	case named && !tagForm.MatchString(r.Tag):
		return fmt.Errorf("%.80q is no tag", r.Tag)
	case r.Kind > KindReferrers, r.Kind == KindTags && (named || !r.Digest.IsZero()),
		(r.Kind == KindBlob || r.Kind == KindReferrers) && (named || r.Digest.IsZero()),
		r.Kind == KindManifest && named == !r.Digest.IsZero():
		return fmt.Errorf("a name of a %s has either a tag or a digest, as its kind wants", r.Kind)
	}
	return nil
}

// ParseKind reads what Kind.String writes.
func ParseKind(s string) (Kind, error) {
	for _, k := range []Kind{KindBlob, KindManifest, KindTags, KindReferrers} {
		if k.String() == s {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%.40q is no kind of content", s)
}
