package cluster

import (
	"github.com/cespare/xxhash/v2"

	"github.com/tidepool-oci/tidepool/cache"
)

// KeyOf places ref on the ring. A blob goes by its digest, so that equal layers of all repositories have one owner. All
// else goes by registry and repository: a manifest by digest must be asked for where its tag was, or one pull would be
// counted twice at the hub, by two members.
func KeyOf(ref cache.Ref) uint64 {
	if ref.Kind == cache.KindBlob {
		return xxhash.Sum64String(ref.Digest.String())
	}
	return xxhash.Sum64String(ref.Registry + "/" + ref.Repo)
}
