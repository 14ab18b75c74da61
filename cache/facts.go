package cache

import (
	"encoding/binary"
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

func nameKey(r Ref) string {
	k := nameFact + r.Registry + "\x00" + r.Repo + "\x00" + string(rune('0'+r.Kind)) + r.Tag
	if !r.Digest.IsZero() {
		k += "\x00" + r.Digest.key()
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
	alg := algorithm(b[16])
	b = b[17:]
	if alg.size() == 0 || len(b) < alg.size() {
		return n, false
	}
	n.Digest.alg = alg
	copy(n.Digest.sum[:], b[:alg.size()])
	n.MediaType = string(b[alg.size():])
	return n, true
}

// link is a registry's yes to a digest in a repository. With an empty repository: the registry has proven that it has
// these very bytes, by having sent them.
type link struct {
	at   time.Time
	size int64
}

func linkKey(registry, repo string, kind Kind, d Digest) string {
	return linkFact + registry + "\x00" + repo + "\x00" + string(rune('0'+kind)) + d.key()
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

// expected is the size that a manifest of ref's repository tells of ref, so that nobody need be asked.
func (c *Cache) expected(ref Ref) (size int64, ok bool) {
	prefix := parentFact + ref.Digest.key()
	c.facts.scan(prefix, func(key string, value []byte) bool {
		var parent Digest
		if rest := key[len(prefix):]; len(rest) > 1 && len(value) == 8 {
			parent.alg = algorithm(rest[0])
			copy(parent.sum[:], rest[1:])
			if ok = c.linked(Ref{Registry: ref.Registry, Repo: ref.Repo, Kind: KindManifest, Digest: parent}); ok {
				size = int64(binary.LittleEndian.Uint64(value))
			}
		}
		return !ok
	})
	return size, ok
}
