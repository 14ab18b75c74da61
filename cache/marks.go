package cache

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// marks are what was heard of names beside what they are: that the registry has said something newer to another, or that
// what was known up to a time is to be forgotten. They may be lost: then a name is asked for when it has aged.
type marks struct {
	some atomic.Bool // there are any: each hit looks, and mostly there are none
	mu   sync.Mutex
	on   *simplelru.LRU[Ref, heardOf]
}

// heardOf is what was heard of a name, or, without a tag, of all names of a repository.
type heardOf struct {
	moved  time.Time // what was learned before may not be true any more
	purged time.Time // what was learned up to then is of no use
}

// mostMarks bounds what others can make us remember.
const mostMarks = 10_000

func newMarks() *marks {
	on, _ := simplelru.NewLRU[Ref, heardOf](mostMarks, nil) // fails for a size below 1 only
	return &marks{on: on}
}

// of is what was heard of a name and of its repository.
func (m *marks) of(ref Ref) (h heardOf) {
	if !m.some.Load() {
		return h
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h, _ = m.on.Get(ref)
	all, _ := m.on.Get(repository(ref))
	h.purged = later(h.purged, all.purged)
	return h
}

// note adds what was heard.
func (m *marks) note(ref Ref, h heardOf) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, _ := m.on.Get(ref)
	m.on.Add(ref, heardOf{later(h.moved, was.moved), later(h.purged, was.purged)})
	m.some.Store(true)
}

// repository is ref as the name of all that is in its repository.
func repository(ref Ref) Ref { return Ref{Registry: ref.Registry, Repo: ref.Repo, Kind: KindManifest} }

// Outdate says that the registry told another, at a time, that a tag stands for d, or, where d is zero, for nothing any
// more. That is a hint: whoever asks for the tag next is answered with what the source says then, and with what is known
// only where the source cannot be asked. It reports whether what is known here is older and something else.
func (c *Cache) Outdate(ref Ref, d Digest, asOf time.Time) bool {
	who := asked{ref: ref}
	known, have := c.recall(who)
	if !have || known.Digest == d || !known.asOf.Before(asOf) || !c.shares(who) {
		return false
	}
	c.marks.note(ref, heardOf{moved: c.since(Answer{AsOf: asOf})})
	return true
}

// shares reports whether what is known of a tag is the same for all who ask, here and elsewhere.
func (c *Cache) shares(who asked) bool {
	return who.caller == "" && who.ref.Kind == KindManifest && who.ref.Tag != "" && !c.byCaller(who.ref.Registry)
}

// moved tells those who want to hear it that a tag that was known stands for something else now.
func (c *Cache) moved(who asked, d Digest, asOf time.Time) {
	if c.o.Moved != nil && c.shares(who) && c.Keeps(who.ref) {
		c.o.Moved(who.ref, d, asOf)
	}
}
