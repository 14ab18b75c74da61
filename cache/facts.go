package cache

import (
	"context"
	"encoding/binary"
	"strings"
	"time"
)

// The facts in the table, each kind by the first byte of its key.
const (
	nameFact   = "n" // a name → what it is
	linkFact   = "l" // registry, repository, kind, digest → when the registry last said yes
	parentFact = "p" // a digest and a manifest that contains it → the size that the manifest tells
	childFact  = "c" // a manifest and a digest in it → nothing
)

// name is what a mutable name turned out to be.
type name struct {
	Desc
	asOf time.Time // when the hub last said so
}

// nameKey has the name, and who asked for it: what one caller may know another need not be told.
func nameKey(a asked) string {
	r := a.ref
	k := nameFact + r.Registry + "\x00" + r.Repo + "\x00" + string(rune('0'+r.Kind)) + r.Tag
	if !r.Digest.IsZero() {
		k += "\x00" + r.Digest.key()
	}
	if a.caller != "" {
		k += "\xff" + string(a.caller)
	}
	return k
}

func (n name) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(n.asOf.UnixNano()))
	b = binary.LittleEndian.AppendUint64(b, uint64(n.Size))
	b = append(b, n.Digest.key()...)
	return append(b, n.MediaType...)
}

func decodeName(b []byte) (n name, ok bool) {
	if len(b) < 17 {
		return n, false
	}
	n.asOf = time.Unix(0, int64(binary.LittleEndian.Uint64(b)))
	n.Size = int64(binary.LittleEndian.Uint64(b[8:]))
	n.Digest, n.MediaType, ok = cutDigest(string(b[16:]))
	return n, ok
}

// cutDigest reads the Digest that s begins with, written as its key, and returns what follows.
func cutDigest(s string) (d Digest, rest string, ok bool) {
	if s == "" {
		return d, s, false
	}
	d.alg = algorithm(s[0])
	n := d.alg.size()
	if n == 0 || len(s) <= n {
		return Digest{}, s, false
	}
	copy(d.sum[:], s[1:n+1])
	return d, s[n+1:], true
}

// link is a registry's yes to a caller for a digest in a repository. With an empty repository: the registry has proven
// that it has these very bytes, by having sent them.
type link struct {
	at   time.Time
	size int64
}

func linkPrefix(registry, repo string) string { return linkFact + registry + "\x00" + repo + "\x00" }

func linkKey(a asked) string {
	r := a.ref
	return linkPrefix(r.Registry, r.Repo) + string(rune('0'+r.Kind)) + r.Digest.key() + string(a.caller)
}

// linkCaller is the caller in what follows the prefix in a linkKey.
func linkCaller(rest string) Caller {
	if rest == "" {
		return ""
	}
	_, caller, _ := cutDigest(rest[1:])
	return Caller(caller)
}

func proofKey(registry string, d Digest) string {
	return linkKey(asked{ref: Ref{Registry: registry, Kind: KindBlob, Digest: d}})
}

func (l link) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(l.at.UnixNano()))
	return binary.LittleEndian.AppendUint64(b, uint64(l.size))
}

func decodeLink(b []byte) (l link, ok bool) {
	if len(b) != 16 {
		return l, false
	}
	l.at = time.Unix(0, int64(binary.LittleEndian.Uint64(b)))
	l.size = int64(binary.LittleEndian.Uint64(b[8:]))
	return l, true
}

// family notes what a manifest contains, and the reverse.
func (c *Cache) family(doc *document) {
	for _, k := range doc.children {
		size := binary.LittleEndian.AppendUint64(nil, uint64(k.size))
		c.facts.put(parentFact+k.digest.key()+doc.Digest.key(), size)
		c.facts.put(childFact+doc.Digest.key()+k.digest.key(), []byte{byte(k.kind)})
	}
}

// expected is the size that a manifest of the repository tells of what is asked for, so that nobody need be asked.
func (c *Cache) expected(who asked) (size int64, ok bool) {
	prefix := parentFact + who.ref.Digest.key()
	c.facts.scan(prefix, func(key string, value []byte) bool {
		parent, _, sound := cutDigest(key[len(prefix):])
		if sound && len(value) == 8 {
			size = int64(binary.LittleEndian.Uint64(value))
			ok = c.linked(who.manifest(parent))
		}
		return !ok
	})
	return size, ok
}

// manifest is a question about a manifest of the same repository.
func (a asked) manifest(d Digest) asked {
	return asked{Ref{Registry: a.ref.Registry, Repo: a.ref.Repo, Kind: KindManifest, Digest: d}, a.caller}
}

// oldFact is from when on a name or a link is forgotten whose content is not held either: nobody has asked for it all
// that time, for then it would have been renewed.
const oldFact = 90 * 24 * time.Hour

// prune forgets what is of no use any more: old names and links, and the families of manifests that are not held.
func (c *Cache) prune(ctx context.Context) {
	c.facts.prune(ctx, func(key string, value []byte) bool {
		about, at, ok := subject(key, value)
		return ok && (c.now().Sub(at) < oldFact || !about.IsZero() && c.disk.holds(about))
	})
}

// subject is the content that a fact is about, and how old the fact is; what does not age is as old as time.
func subject(key string, value []byte) (d Digest, at time.Time, ok bool) {
	if key == "" {
		return d, at, false
	}
	kind, rest := key[:1], key[1:]
	switch kind {
	case historyFact:
		all := decodeHistory(value)
		if len(all) == 0 {
			return d, at, false
		}
		last := all[len(all)-1]
		return last.Digest, last.Since, true
	case hintFact:
		at, ok := hintTime(value)
		return d, at, ok
	case nameFact:
		n, ok := decodeName(value)
		return n.Digest, n.asOf, ok
	case linkFact:
		l, sound := decodeLink(value)
		_, rest, _ = strings.Cut(rest, "\x00") // registry
		_, rest, _ = strings.Cut(rest, "\x00") // repository
		if rest == "" {
			return d, at, false
		}
		d, _, ok = cutDigest(rest[1:])
		return d, l.at, ok && sound
	case parentFact:
		_, rest, _ = cutDigest(rest)
	}
	d, _, ok = cutDigest(rest)
	return d, at, ok
}
