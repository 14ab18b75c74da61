package main

import (
	"fmt"

	"github.com/cespare/xxhash/v2"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
)

// model asks fifty members for a trace, as the router would: on a machine that has not room for fifty.
func model(r *report, name string, trace []ask) {
	const n = 50
	all := make([]cluster.Member, n)
	by := map[string]int{}
	for i := range all {
		all[i] = cluster.Member{Name: fmt.Sprint("m", i), Weight: 1, State: cluster.Ready}
		by[all[i].Name] = 0
	}
	ring := cluster.NewRing(all)
	for _, a := range trace {
		by[ring.Owners(keyOf(a), 1)[0].Name]++
	}
	spread(r, "requests by the busiest member / mean, "+name+", computed", n, by, fmt.Sprintf("%d requests, each served by its owner", len(trace)))
}

// keyOf is cluster.KeyOf for a name of a trace, which need be no digest.
func keyOf(a ask) uint64 {
	if a.kind == cache.KindBlob {
		return xxhash.Sum64String(a.name)
	}
	return cluster.KeyOf(cache.Ref{Registry: "docker.io", Repo: a.repo, Kind: cache.KindManifest, Tag: a.name})
}
