package cache

import (
	"errors"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

// memory is the memory tier: small content, whole and proven, ready to send. It is a copy that may vanish at any time,
// and a Set may be dropped: nothing relies on finding anything here.
//
// A ristretto knows no priorities, and what is admitted pushes out what is asked for less. So hot copies have one of their
// own, of their share (see copyShare): however often they are asked for, nothing that is this member's to keep goes for
// them, and both together stay within the budget. What is Passing is not among them: manifests and lists of other members
// lie nowhere but here, and to lose one costs a question to its owner, where all else is read from disk.
type memory struct {
	gate   sync.RWMutex // held while the tiers are used: they must not be while they close
	tier   *tier
	copies *tier // nil, which holds nothing, where there are no hot copies
}

type tier = ristretto.Cache[string, *document]

const (
	// smallBlob is the largest blob that is kept in memory. Configs and most of what is asked for are below it: in a
	// registry's trace, manifests and blobs up to this size are 72 % of the requests and 239 MB in all.
	smallBlob = 64 << 10
	// overhead is what an entry costs beside its bytes, and each child that a manifest names.
	overhead, childSize = 512, 80
	// typicalSize is what entries are assumed to have when the tier's counters are laid out.
	typicalSize = 4 << 10
)

// newMemory makes a tier of so many bytes; shared: there may be hot copies.
func newMemory(budget int64, shared bool) (*memory, error) {
	m := &memory{}
	var err, failed error
	if shared {
		part := budget * copyShare / 100
		m.copies, err = newTier(part)
		budget -= part
	}
	m.tier, failed = newTier(budget)
	return m, errors.Join(err, failed)
}

func newTier(budget int64) (*tier, error) {
	return ristretto.NewCache(&ristretto.Config[string, *document]{
		NumCounters:        max(1000, 10*budget/typicalSize), // ten for each entry, as its documentation asks
		MaxCost:            max(1, budget),                   // 0 is an error
		BufferItems:        64,                               // its documentation's value
		IgnoreInternalCost: true,
		// Nothing here has a time to live, so there is nothing to look for every 2.5 seconds, as it would.
		TtlTickerDurationInSec: int64((24 * time.Hour).Seconds()),
	})
}

func (m *memory) get(d Digest) (*document, bool) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	key := d.key()
	doc, ok := m.tier.Get(key)
	if !ok {
		doc, ok = m.copies.Get(key)
	}
	return doc, ok && doc.Digest == d // its keys are hashes, and hashes meet
}

// put has doc be in memory, in the share of its kind and in no other. Until a Set is applied, a second one of another kind
// does not see it: then doc is in both, which costs room until one of them goes.
func (m *memory) put(doc *document, k Keeping) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	to, other := m.tier, m.copies
	if k == HotCopy && m.copies != nil {
		to, other = other, to
	}
	key := doc.Digest.key()
	if _, there := other.Get(key); there {
		other.Del(key)
	}
	to.Set(key, doc, int64(len(doc.data)+childSize*len(doc.children)+overhead))
}

// rank has what there is of d be in the share of its kind.
func (m *memory) rank(d Digest, k Keeping) {
	if doc, ok := m.get(d); ok {
		m.put(doc, k)
	}
}

func (m *memory) drop(d Digest) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	m.tier.Del(d.key())
	m.copies.Del(d.key())
}

// bytes is what the entries cost.
func (m *memory) bytes() int64 {
	return m.tier.MaxCost() - m.tier.RemainingCost() + m.copies.MaxCost() - m.copies.RemainingCost()
}

func (m *memory) close() {
	m.gate.Lock()
	defer m.gate.Unlock()
	m.tier.Close()
	m.copies.Close()
}

// lift copies a small blob from disk into memory, and serves it from there.
func (c *Cache) lift(b *Blob) error {
	h := b.held
	defer func() { _ = h.Close() }()
	data := make([]byte, h.size)
	if n, err := h.ReadAt(data, 0); n < len(data) || !b.ref.Digest.Names(data) {
		c.disk.bad(h.entry, errors.Join(err, ErrCorrupt))
		return ErrNotHeld
	}
	c.disk.books.proved(h.entry)
	if k := h.keeping(); k != Passing {
		c.memory.put(&document{Desc: b.Desc, data: data}, k)
	}
	b.data, b.held = data, nil
	return nil
}
