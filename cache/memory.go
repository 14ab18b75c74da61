package cache

import (
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

// memory is the memory tier: small content, whole and proven, ready to send. It is a copy that may vanish at any time,
// and a Set may be dropped: nothing relies on finding anything here.
type memory struct {
	gate sync.RWMutex // held while tier is used: it must not be while it closes
	tier *ristretto.Cache[string, *document]
}

const (
	// smallBlob is the largest blob that is kept in memory. Configs and most of what is asked for are below it: in a
	// registry's trace, manifests and blobs up to this size are 72 % of the requests and 239 MB in all.
	smallBlob = 64 << 10
	// overhead is what an entry costs beside its bytes, and each child that a manifest names.
	overhead, childSize = 512, 80
	// typicalSize is what entries are assumed to have when the tier's counters are laid out.
	typicalSize = 4 << 10
)

func newMemory(budget int64) (*memory, error) {
	t, err := ristretto.NewCache(&ristretto.Config[string, *document]{
		NumCounters:        max(1000, 10*budget/typicalSize), // ten for each entry, as its documentation asks
		MaxCost:            budget,
		BufferItems:        64, // its documentation's value
		IgnoreInternalCost: true,
		// Nothing here has a time to live, so there is nothing to look for every 2.5 seconds, as it would.
		TtlTickerDurationInSec: int64((24 * time.Hour).Seconds()),
	})
	return &memory{tier: t}, err
}

func (m *memory) get(d Digest) (*document, bool) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	doc, ok := m.tier.Get(d.key())
	return doc, ok && doc.Digest == d // its keys are hashes, and hashes meet
}

func (m *memory) put(doc *document) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	m.tier.Set(doc.Digest.key(), doc, int64(len(doc.data)+childSize*len(doc.children)+overhead))
}

func (m *memory) drop(d Digest) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	m.tier.Del(d.key())
}

// bytes is what the entries cost.
func (m *memory) bytes() int64 { return m.tier.MaxCost() - m.tier.RemainingCost() }

func (m *memory) close() {
	m.gate.Lock()
	defer m.gate.Unlock()
	m.tier.Close()
}
