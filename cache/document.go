package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// document is small content that is handled whole: a manifest, a list, or a blob small enough for memory.
type document struct {
	Desc
	data     []byte
	children []child
	via      string       // the member that it came by
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

// Media types that are told from each other by content; see the image spec, media-types.md.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeImage    = "application/vnd.oci.image.manifest.v1+json"
	typeList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeSchema2  = "application/vnd.docker.distribution.manifest.v2+json"
	typeSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	typeSigned1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	typeArtifact = "application/vnd.oci.artifact.manifest.v1+json"
)

// asked is a question: what is asked for, and for whom.
type asked struct {
	ref    Ref
	caller Caller
}

// errand is what is asked for once at a time. Who must not wait for another member does not wait for one who may.
type errand struct {
	asked
	direct bool
}

func (c *Cache) errandOf(ctx context.Context, who asked) errand {
	return errand{who, DirectOf(ctx) || c.owns(who.ref)}
}

// in is ctx for e.
func (e errand) in(ctx context.Context) context.Context {
	if e.direct {
		return WithDirect(ctx)
	}
	return ctx
}

// fromSource is the tier of what the source has answered.
func fromSource(via string) Tier {
	if via != "" {
		return FromPeer
	}
	return FromUpstream
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
		return c.served(doc, Found{From: from}), nil
	}
	if ref.Kind == KindTags {
		found, doc, err := c.openTags(ctx, ref, heldOnly)
		if err != nil {
			return nil, err
		}
		return c.served(doc, found), nil
	}
	found, doc, err := c.openName(ctx, ref, heldOnly)
	if errors.Is(err, errMoved) {
		c.setName(asked{ref, CallerOf(ctx)}, nil)
		found, doc, err = c.openName(ctx, ref, false)
	}
	if err != nil {
		return nil, err
	}
	return c.served(doc, found), nil
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

func (c *Cache) served(doc *document, found Found) *Blob {
	found.Desc = doc.Desc
	c.touch(doc)
	return &Blob{Found: found, c: c, data: doc.data}
}

// touch tells the policy that a manifest is in use, and so what it contains. Once a second is often enough.
func (c *Cache) touch(doc *document) {
	now := time.Now().Unix()
	if doc.touched.Swap(now) == now {
		return
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
	fetch := func(ctx context.Context) (*document, error) { return c.fetchDocument(ctx, who) }
	errand := c.errandOf(ctx, who)
	doc, joined, err := c.documents.Do(errand.in(ctx), errand, 0, fetch)
	if joined && grudged(ctx, err) {
		doc, joined, err = c.documents.Do(errand.in(ctx), errand, 0, fetch)
	}
	if joined {
		return doc, FromFlight, err
	}
	if err != nil {
		return nil, FromUpstream, err
	}
	return doc, fromSource(doc.via), nil
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
	doc, err := c.receive(who, a)
	if errors.Is(err, ErrCorrupt) && a.Via != "" {
		return c.fetchDocument(WithDoubts(ctx, 1), who)
	}
	return doc, err
}

// grudged reports whether err is a limit that may be one for another only: who joins somebody for whom nothing scarce is
// spent may have more spent on it.
func grudged(ctx context.Context, err error) bool { return errors.Is(err, ErrLimited) && !SpareOf(ctx) }

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
	c.memory.put(doc)
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
func (c *Cache) receive(who asked, a Answer) (*document, error) {
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
		return nil, err
	}
	doc, err := parse(ref.Kind, data)
	if err == nil && ref.Kind == KindManifest {
		err = doc.agrees(a.MediaType)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	doc.Digest, doc.via = d, a.Via
	c.keep(who, doc)
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

// keep puts a proven document into the tiers and notes what it says.
func (c *Cache) keep(who asked, doc *document) {
	c.memory.put(doc)
	if !c.Keeps(who.ref) {
		// another member does, and this one only what it has served
	} else if err := c.disk.keep(doc.Digest, doc.data); err != nil {
		c.log.Debug("kept in memory only", zap.Stringer("ref", who.ref), zap.Error(err))
	}
	c.stats.landed.Add(1)
	if who.ref.Kind == KindManifest {
		c.proved(who.at(doc.Digest), doc.Size)
		c.family(doc)
	}
}

// owns reports whether other members have a thing fetched by this one.
func (c *Cache) owns(ref Ref) bool { return c.o.Keep != nil && c.o.Keep(ref) }

// Keeps reports whether content of this kind and name stays here once it was fetched.
func (c *Cache) Keeps(ref Ref) bool { return c.o.Keep == nil || c.o.Keep(ref) }

// parse reads data as kind asks. A manifest's media type and children are taken from its bytes, never from what the
// source calls it: what the same bytes mean must not depend on who sent them.
func parse(kind Kind, data []byte) (*document, error) {
	doc := &document{Desc: Desc{Size: int64(len(data))}, data: data}
	switch kind {
	case KindManifest:
		return doc, doc.parseManifest()
	case KindReferrers:
		doc.MediaType = typeIndex
	case KindTags:
		doc.MediaType = "application/json"
	}
	if !json.Valid(data) {
		return nil, fmt.Errorf("no JSON: %w", ErrUnavailable)
	}
	return doc, nil
}

// manifest is the part of the manifests' forms that says what kind one is and what it contains.
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config"`
	Layers        []descriptor `json:"layers"`
	Blobs         []descriptor `json:"blobs"`
	Manifests     []descriptor `json:"manifests"`
}

type descriptor struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

func (doc *document) parseManifest() error {
	keys, err := topKeys(doc.data)
	if err != nil {
		return fmt.Errorf("no manifest: %w: %w", err, ErrUnsupported)
	}
	var m manifest
	if err := json.Unmarshal(doc.data, &m); err != nil {
		return fmt.Errorf("no manifest: %w: %w", err, ErrUnsupported)
	}
	if doc.MediaType, err = m.kind(keys); err != nil {
		return err
	}
	doc.untyped = m.MediaType == ""
	doc.children, err = m.children()
	return err
}

// topKeys returns the names of data's members. One that is there twice, or that differs from one we look for by case
// alone, would be read differently by different programs.
func topKeys(data []byte) (map[string]bool, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("no JSON object")
	}
	keys := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, _ := t.(string)
		if keys[key] {
			return nil, fmt.Errorf("%q is there twice", key)
		}
		keys[key] = true
		for _, want := range []string{"schemaVersion", "mediaType", "config", "layers", "blobs", "manifests"} {
			if key != want && strings.EqualFold(key, want) {
				return nil, fmt.Errorf("%q is not %q", key, want)
			}
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// kind is the media type that the content is.
func (m manifest) kind(keys map[string]bool) (string, error) {
	image := keys["layers"] || keys["config"] || keys["blobs"]
	switch {
	case m.SchemaVersion == 1 || m.MediaType == typeSchema1 || m.MediaType == typeSigned1:
		return "", fmt.Errorf("an image manifest of schema 1, whose digest is not that of its bytes; "+
			"push the image again with a current client: %w", ErrUnsupported)
	case image && keys["manifests"]:
		return "", fmt.Errorf("both an image and an index: %w", ErrUnsupported)
	case (m.MediaType == typeIndex || m.MediaType == typeList) && image,
		(m.MediaType == typeImage || m.MediaType == typeSchema2 || m.MediaType == typeArtifact) && keys["manifests"]:
		return "", fmt.Errorf("content is not of its media type %q: %w", m.MediaType, ErrUnsupported)
	case m.MediaType != "" && !mediaType(m.MediaType):
		return "", fmt.Errorf("%q is no media type of a manifest: %w", m.MediaType, ErrUnsupported)
	case m.MediaType != "":
		return m.MediaType, nil
	case keys["manifests"]:
		return typeIndex, nil
	case image:
		return typeImage, nil
	default:
		return "", fmt.Errorf("no manifest: neither config nor layers nor manifests: %w", ErrUnsupported)
	}
}

func (m manifest) children() (all []child, err error) {
	add := func(kind Kind, list []descriptor) {
		for _, d := range list {
			g, e := ParseDigest(d.Digest)
			if e != nil || d.Size < 0 {
				continue // of an algorithm or a form that cannot be asked for here
			}
			all = append(all, child{kind, g, d.Size})
		}
	}
	if m.Config != nil {
		add(KindBlob, []descriptor{*m.Config})
	}
	add(KindBlob, m.Layers)
	add(KindBlob, m.Blobs)
	add(KindManifest, m.Manifests)
	if len(all) > mostChildren {
		return nil, fmt.Errorf("%d descriptors, more than %d: %w", len(all), mostChildren, ErrUnsupported)
	}
	return all, nil
}

// mediaType reports whether s may be a manifest's media type (RFC 6838, section 4.2): it goes into a header.
func mediaType(s string) bool {
	sub, ok := strings.CutPrefix(s, "application/")
	return ok && sub != "" && len(sub) <= 127 && strings.Trim(strings.ToLower(sub), "abcdefghijklmnopqrstuvwxyz0123456789!#$&-^_.+") == ""
}

// agrees compares what the content is with what the source calls it. A source that calls it another manifest type is
// mistaken or lies (CVE-2021-41190); one that has no idea of types calls it JSON, text or bytes.
func (doc *document) agrees(called string) error {
	wrong := called != doc.MediaType
	switch called {
	case typeSchema1, typeSigned1:
		return fmt.Errorf("an image manifest of schema 1: %w", ErrUnsupported)
	case typeIndex, typeList:
		wrong = wrong && !(doc.untyped && doc.MediaType == typeIndex)
	case typeImage, typeSchema2, typeArtifact:
		wrong = wrong && !(doc.untyped && doc.MediaType == typeImage)
	default:
		return nil
	}
	if wrong {
		return fmt.Errorf("content is %q, the upstream says %q: %w", doc.MediaType, called, ErrUnsupported)
	}
	return nil
}
