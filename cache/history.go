package cache

import (
	"encoding/binary"
	"slices"
	"time"
)

// historyFact: a tag → what it was, one after the other, and since when.
const historyFact = "w"

// mostWas is how many versions of a tag are remembered: as many as a busy one has in a week.
const mostWas = 20

// Was is what a tag stood for from a time on, as its registry said to this cache; when it really moved, nobody knows.
type Was struct {
	Digest Digest
	Since  time.Time
}

// History is what a tag was known to stand for, the newest first. Of registries that are asked with their callers' own
// logins nothing is written down.
func (c *Cache) History(ref Ref) []Was {
	all := decodeHistory(c.facts.get(historyKey(ref)))
	slices.Reverse(all)
	return all
}

// AsOf is when the registry last said what a name is; zero where nothing is known.
func (c *Cache) AsOf(ref Ref) time.Time {
	r, _ := c.recall(asked{ref: ref})
	return r.asOf
}

func historyKey(ref Ref) string { return historyFact + nameKey(asked{ref: ref})[1:] }

// chronicle notes what a tag is, if that is news.
func (c *Cache) chronicle(who asked, n name) {
	if who.caller != "" || who.ref.Kind != KindManifest || who.ref.Tag == "" || c.byCaller(who.ref.Registry) {
		return
	}
	key := historyKey(who.ref)
	all := decodeHistory(c.facts.get(key))
	if len(all) > 0 && all[len(all)-1].Digest == n.Digest {
		return
	}
	all = append(all, Was{n.Digest, n.asOf})
	c.facts.put(key, encodeHistory(all[max(0, len(all)-mostWas):]))
}

func encodeHistory(all []Was) (b []byte) {
	for _, w := range all {
		b = binary.LittleEndian.AppendUint64(b, uint64(w.Since.UnixNano()))
		b = append(b, w.Digest.key()...)
	}
	return b
}

// decodeHistory reads as far as it can.
func decodeHistory(b []byte) (all []Was) {
	for len(b) > 8 {
		w := Was{Since: time.Unix(0, int64(binary.LittleEndian.Uint64(b)))}
		d, rest, ok := cutDigest(string(b[8:]))
		if !ok {
			return all
		}
		w.Digest = d
		all, b = append(all, w), []byte(rest)
	}
	return all
}
