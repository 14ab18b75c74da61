package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// document is small content that is handled whole: a manifest, a list, or a blob small enough for memory.
type document struct {
	Desc
	data     []byte
	children []child
	way                   // that it came
	untyped  bool         // it does not say its media type, which is told from what it has
	touched  atomic.Int64 // when its children were last said to be in use, in Unix seconds
}

// child is what a manifest says of something in it.
type child struct {
	kind   Kind
	digest Digest
	size   int64
}

const (
	// largestManifest is what other registries allow too.
	largestManifest = 4 << 20
	// largestList is a hundred thousand long tags, or as many referrers as anybody has.
	largestList = 16 << 20
	// mostChildren of one manifest: far beyond any image, and few enough to note each.
	mostChildren = 10_000
)

// asked is a question: what is asked for, and for whom.
type asked struct {
	ref    Ref
	caller Caller
}

// at is the question for what a name turned out to be.
func (a asked) at(d Digest) asked { return asked{a.ref.At(d), a.caller} }

// openDocument brings a manifest or a list.
func (c *Cache) openDocument(ctx context.Context, ref Ref, heldOnly bool) (*Blob, error) {
	if !ref.Mutable() {
		doc, from, err := c.document(ctx, ref, heldOnly)
		if err != nil {
			return nil, err
		}
		return c.served(ref, doc, Found{From: from}), nil
	}
	if ref.Kind == KindTags {
		found, doc, err := c.openTags(ctx, ref, heldOnly)
		if err != nil {
			return nil, err
		}
		return c.served(ref, doc, found), nil
	}
	found, doc, err := c.openName(ctx, ref, heldOnly)
	if errors.Is(err, errMoved) {
		c.setName(asked{ref, CallerOf(ctx)}, nil)
		found, doc, err = c.openName(ctx, ref, false)
	}
	if err != nil {
		return nil, err
	}
	return c.served(ref, doc, found), nil
}

// errMoved says that what a name was last said to be does not exist, any more or at all.
var errMoved = errors.New("the name stands for nothing")

// openName brings what a name stands for.
func (c *Cache) openName(ctx context.Context, ref Ref, heldOnly bool) (Found, *document, error) {
	found, doc, err := c.resolve(ctx, ref, true, heldOnly)
	if err != nil || doc != nil {
		return found, doc, err
	}
	doc, found.From, err = c.content(ctx, ref.At(found.Digest), heldOnly)
	return found, doc, err
}

// content is document for what a name is said to be: errMoved where there is no such thing.
func (c *Cache) content(ctx context.Context, ref Ref, heldOnly bool) (*document, Tier, error) {
	doc, from, err := c.document(ctx, ref, heldOnly)
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w: %w", errMoved, err)
	}
	return doc, from, err
}

func (c *Cache) served(ref Ref, doc *document, found Found) *Blob {
	found.Desc = doc.Desc
	c.touch(ref, doc)
	return &Blob{Found: found, c: c, data: doc.data}
}

// touch tells the policy that a manifest is in use, and so what it contains; one that lies in memory alone goes to disk,
// if it is this member's by now. Once a second is often enough.
func (c *Cache) touch(ref Ref, doc *document) {
	now := time.Now().Unix()
	if doc.touched.Swap(now) == now {
		return
	}
	if ref.Kind == KindManifest && !c.disk.holds(doc.Digest) && c.Keeps(ref) {
		c.shelve(ref, doc.Desc, doc.data, Kept)
	}
	slots := make([]slot, 0, len(doc.children)+1)
	for _, k := range doc.children {
		slots = append(slots, slot{digest: k.digest})
	}
	c.disk.books.touch(append(slots, slot{digest: doc.Digest})...)
}

// document brings a manifest by digest.
func (c *Cache) document(ctx context.Context, ref Ref, heldOnly bool) (*document, Tier, error) {
	who := asked{ref, CallerOf(ctx)}
	if heldOnly && !c.linked(who) {
		return nil, 0, ErrNotHeld
	}
	if doc, from := c.heldDocument(ref, ref.Digest); doc != nil {
		if err := c.permit(ctx, ref, doc.Size); !errors.Is(err, errUnproven) {
			return doc, from, err
		}
	}
	if heldOnly {
		return nil, 0, ErrNotHeld
	}
	doc, joined, err := insist(ctx, &c.documents, c.errandOf(ctx, who), 0, func(ctx context.Context) (*document, error) {
		return c.fetchDocument(ctx, who)
	})
	if joined {
		return doc, FromFlight, err
	}
	if err != nil {
		return nil, FromUpstream, err
	}
	return doc, fromSource(doc.way), nil
}

// fetchDocument brings a document from the source; from the registry itself where another member has sent other bytes.
func (c *Cache) fetchDocument(ctx context.Context, who asked) (*document, error) {
	a, err := c.src.Open(ctx, who.ref, Whole)
	if errors.Is(err, ErrDenied) {
		c.revoke(who)
	}
	if err != nil {
		return nil, err
	}
	doc, err := c.receive(ctx, who, a)
	if errors.Is(err, ErrCorrupt) && a.Via != "" && DoubtsOf(ctx) == 0 {
		return c.fetchDocument(WithDoubts(ctx, 1), who)
	}
	return doc, err
}

// heldDocument finds a manifest or a list in memory or on disk.
func (c *Cache) heldDocument(ref Ref, d Digest) (*document, Tier) {
	if doc, ok := c.memory.get(d); ok {
		if ref.Kind == KindManifest && doc.MediaType == "" {
			return c.interpret(ref, doc), FromMemory
		}
		return doc, FromMemory
	}
	h, ok := c.disk.open(d)
	if !ok {
		return nil, 0
	}
	defer func() { _ = h.Close() }()
	if h.size > largestList {
		return nil, 0
	}
	data := make([]byte, h.size)
	if _, err := io.ReadFull(h, data); err != nil || !d.Names(data) {
		c.disk.bad(h.entry, errors.Join(err, ErrCorrupt))
		return nil, 0
	}
	doc, err := parse(ref.Kind, data)
	if err != nil {
		return nil, 0 // a blob under a manifest's name: only the upstream can say what is right
	}
	doc.Digest = d
	c.memory.put(doc, h.keeping())
	return doc, FromDisk
}

// interpret reads as a manifest what was held as a blob.
func (c *Cache) interpret(ref Ref, doc *document) *document {
	m, err := parse(ref.Kind, doc.data)
	if err != nil {
		return nil
	}
	m.Digest = doc.Digest
	return m
}

// receive reads a document to its end, proves it and keeps it.
func (c *Cache) receive(ctx context.Context, who asked, a Answer) (*document, error) {
	ref := who.ref
	limit := int64(largestManifest)
	if ref.Kind != KindManifest {
		limit = largestList
	}
	data, err := io.ReadAll(io.LimitReader(a.Body, limit+1))
	if e := a.Body.Close(); err == nil {
		err = e
	}
	c.stats.fetched.Add(uint64(len(data)))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", ref, err)
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("%s: larger than %d bytes: %w", ref, limit, ErrUnsupported)
	case a.Size >= 0 && a.Size != int64(len(data)):
		return nil, fmt.Errorf("%s: %d bytes came, %d were announced: %w", ref, len(data), a.Size, ErrUnavailable)
	}
	d, err := c.identify(ref, a, data)
	if err != nil {
		c.lied(ref, a.Via)
		return nil, err
	}
	doc, err := parse(ref.Kind, data)
	if err == nil && ref.Kind == KindManifest {
		err = doc.agrees(a.MediaType)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	doc.Digest, doc.way = d, wayOf(a)
	c.keep(who, doc, KeepOf(ctx))
	return doc, nil
}

// identify proves the bytes against the digest that was asked for, or that the source names; without either their
// own sha256 is their name.
func (c *Cache) identify(ref Ref, a Answer, data []byte) (Digest, error) {
	d := a.Digest
	if !ref.Mutable() {
		d = ref.Digest
	}
	if ref.Kind == KindTags || ref.Kind == KindReferrers || d.IsZero() {
		return Sum(data), nil
	}
	if !d.Names(data) {
		c.stats.corrupt.Add(1)
		return d, corrupt(ref, "%d bytes came that are not %s", len(data), d)
	}
	return d, nil
}

// keep puts a proven document into the tiers and notes what it says. wanted: it is to stay, whoever else keeps it.
func (c *Cache) keep(who asked, doc *document, wanted bool) {
	k := c.keeping(who.ref, wanted)
	c.memory.put(doc, k)
	if k != Passing { // else it was served, and another member keeps it
		c.shelve(who.ref, doc.Desc, doc.data, k)
	}
	c.stats.landed.Add(1)
	if who.ref.Kind == KindManifest {
		c.proved(who.at(doc.Digest), doc.Size)
		c.family(doc)
	}
}

// shelve puts what is whole in memory on disk, too.
func (c *Cache) shelve(ref Ref, d Desc, data []byte, k Keeping) {
	if err := c.disk.keep(d.Digest, data, k); err != nil {
		c.log.Debug("kept in memory only", zap.Stringer("ref", ref), zap.Error(err))
		return
	}
	c.announce(ref.At(d.Digest), d, k)
}
