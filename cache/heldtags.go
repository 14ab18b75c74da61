package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// tagList is the document of a list of tags.
type tagList struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

// openTags brings the list of a repository's tags. While its registry cannot be asked, that is what it said last, with
// the tags that are held: whoever looks for something to pull finds all that can be had.
func (c *Cache) openTags(ctx context.Context, ref Ref, heldOnly bool) (Found, *document, error) {
	found, doc, err := c.openName(ctx, ref, heldOnly)
	if err == nil && found.Aged != Unconfirmed || err != nil && !unreachable(err) {
		return found, doc, err
	}
	who := asked{ref, CallerOf(ctx)}
	held := c.heldTags(who)
	if who.caller != "" || len(held) == 0 { // what anybody was told is no word to one whose permission counts
		return found, doc, err
	}
	list := tagList{Name: ref.Repo}
	if err == nil && json.Unmarshal(doc.data, &list) != nil {
		return found, doc, nil // as it is: its reader will say what is wrong with it
	}
	all, e := json.Marshal(tagList{list.Name, append(list.Tags, held...)})
	if e != nil {
		return Found{}, nil, errors.Join(err, e)
	}
	if err != nil {
		found = Found{From: FromMemory, Aged: Unconfirmed}
	}
	doc, e = parse(KindTags, all)
	if e != nil {
		return Found{}, nil, fmt.Errorf("%s: %w", ref, e)
	}
	doc.Digest = Sum(all)
	return found, doc, nil
}

// heldTags are the tags of a repository that can be served as they are.
func (c *Cache) heldTags(who asked) (tags []string) {
	prefix := nameKey(asked{Ref{Registry: who.ref.Registry, Repo: who.ref.Repo, Kind: KindManifest}, ""})
	c.facts.scan(prefix, func(key string, value []byte) bool {
		tag := key[len(prefix):]
		n, ok := decodeName(value)
		others := strings.IndexByte(tag, 0xff) >= 0 // what a caller was told
		if ok && !others && tag != "" &&
			c.conditionOf(asked{ref: Ref{Registry: who.ref.Registry, Repo: who.ref.Repo, Kind: KindManifest, Tag: tag}}, n.asOf) != unusable &&
			c.holds(n.Digest) {
			tags = append(tags, tag)
		}
		return true
	})
	return append(tags, c.pins.tags(who)...)
}

// holds reports whether content is at hand.
func (c *Cache) holds(d Digest) bool {
	_, ok := c.memory.get(d)
	return ok || c.disk.holds(d)
}
