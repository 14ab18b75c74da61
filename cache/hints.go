package cache

import (
	"context"
	"encoding/binary"
	"time"
)

// A hint is a word that another room leaves here for itself and looks at again. It may be lost at any time, and is
// forgotten when it has not been left again for as long as any other fact.

const hintFact = "h" // a key of the room's own → when it was left, and the word

// Hint is the word that was left under key; "" where there is none.
func (c *Cache) Hint(key string) string {
	if b := c.facts.get(hintFact + key); len(b) > 8 {
		return string(b[8:])
	}
	return ""
}

// LeaveHint leaves a word under key; an empty one takes back what was left.
func (c *Cache) LeaveHint(key, word string) {
	if word == "" {
		c.facts.put(hintFact+key, nil)
		return
	}
	c.facts.put(hintFact+key, append(binary.LittleEndian.AppendUint64(nil, uint64(c.now().UnixNano())), word...))
}

// hintTime is when a hint was left.
func hintTime(value []byte) (at time.Time, ok bool) {
	if len(value) < 8 {
		return at, false
	}
	return time.Unix(0, int64(binary.LittleEndian.Uint64(value))), true
}

// Sure reports whether it is known, so that nobody need be asked, that ref's repository has what it names: a tag or a
// list that is fresh; content that the repository has shown to the one who asks, or that a manifest there contains.
func (c *Cache) Sure(ctx context.Context, ref Ref) bool {
	who := asked{ref, CallerOf(ctx)}
	if ref.Mutable() {
		known, have := c.recall(who)
		return have && c.conditionOf(who, known.asOf) == fresh
	}
	if c.linked(who) {
		return true
	}
	_, ok := c.expected(who)
	return ok
}
