package cluster

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// pinnedPath asks a member what it has pinned: POST, pinQuestion → pinAnswer. Nothing is done upon it.
const pinnedPath = "/v1/pinned"

type pinQuestion struct {
	Scopes []thing `json:"scopes"` // tags, digests, or repositories
}

type pinAnswer struct {
	Pins [][]pinned `json:"pins"` // for each scope those that a purge of it would take something from, without their parts
}

const (
	// pinnedTime is how long members have to say what they have pinned: people wait for it.
	pinnedTime = 2 * time.Second
	// pinnedAtOnce is how many members are asked at the same time.
	pinnedAtOnce = 64
	// mostScopes are asked about at a time, and mostPinned bounds the pins that are told of each: one is enough to know that it
	// is pinned, but all that was kept for rules of members that are gone is to be unpinned at once. In the longest of
	// names an answer has then three quarters of mostReply.
	mostScopes, mostPinned = 40, 64
)

// PinnedAt is a pin, without its parts, that a member has, whether it made it or keeps a copy (see HomeOf).
type PinnedAt struct {
	cache.Pin
	Member string
	Scope  int // of those that were asked about
}

// Pinned asks all other members what they have pinned of some scopes: tags, digests, or repositories. Who does not say so
// in time, as an older version, is among the silent.
func (r *Remotes) Pinned(ctx context.Context, v *View, scopes []cache.Ref) (pins []PinnedAt, silent []string) {
	var mu sync.Mutex
	var asking sync.WaitGroup
	turn := make(chan struct{}, pinnedAtOnce)
	for _, name := range slices.Sorted(maps.Keys(v.Members)) {
		if name == v.Self {
			continue
		}
		asking.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			its, ok := r.pinnedAt(ctx, v.Members[name], scopes)
			mu.Lock()
			defer mu.Unlock()
			if pins = append(pins, its...); !ok {
				silent = append(silent, name)
			}
		})
	}
	asking.Wait()
	slices.SortStableFunc(pins, func(a, b PinnedAt) int { return a.Scope - b.Scope })
	slices.Sort(silent)
	return pins, silent
}

// pinnedAt asks one member, about some scopes at a time.
func (r *Remotes) pinnedAt(ctx context.Context, m Member, scopes []cache.Ref) (pins []PinnedAt, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, pinnedTime)
	defer cancel()
	for from := 0; from < len(scopes); from += mostScopes {
		var q pinQuestion
		var a pinAnswer
		for _, s := range scopes[from:min(from+mostScopes, len(scopes))] {
			q.Scopes = append(q.Scopes, thingOf(s, 0))
		}
		if r.to(m).post(ctx, pinnedPath, q, &a) != nil || len(a.Pins) != len(q.Scopes) {
			return pins, false
		}
		for i, list := range a.Pins {
			for _, doc := range list[:min(len(list), mostPinned)] {
				if p, err := doc.pin(); err == nil {
					pins = append(pins, PinnedAt{Pin: p, Member: m.Name, Scope: from + i})
				}
			}
		}
	}
	return pins, true
}

// pinned says what is pinned here.
func (t *Taker) pinned(_ context.Context, body *json.Decoder) (any, error) {
	var q pinQuestion
	if err := body.Decode(&q); err != nil || len(q.Scopes) > mostScopes {
		return nil, errQuestion
	}
	a := pinAnswer{Pins: make([][]pinned, len(q.Scopes))}
	for i, x := range q.Scopes {
		scope, err := x.scope()
		if err != nil {
			return nil, err
		}
		pins := t.Store.PinsIn(scope)
		for _, p := range pins[:min(len(pins), mostPinned)] {
			p.Parts = nil
			a.Pins[i] = append(a.Pins[i], pinnedOf(p))
		}
	}
	return a, nil
}

// scope reads what x is: a manifest's name, or with neither tag nor digest a repository.
func (x thing) scope() (cache.Ref, error) {
	whole := x.Tag == "" && x.Digest == ""
	if whole {
		x.Tag = "any"
	}
	ref, err := x.read()
	if err == nil && ref.Kind != cache.KindManifest {
		err = errQuestion
	}
	if whole {
		ref.Tag = ""
	}
	return ref, err
}

// HomeOf is the member that made a pin which another has, and what its owner is called there.
func HomeOf(p PinnedAt) (member, owner string) { return homeOf(p.Pin, p.Member) }
