package cache

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// listed reads a list of tags.
func listed(t *testing.T, ctx context.Context, c *Cache, ref Ref) ([]string, Found, error) {
	t.Helper()
	b, err := c.Open(ctx, ref, Whole)
	if err != nil {
		return nil, Found{}, err
	}
	var list tagList
	if err := json.Unmarshal(b.Bytes(), &list); err != nil {
		t.Error(err)
	}
	slices.Sort(list.Tags)
	return slices.Compact(list.Tags), b.Found, b.Close()
}

// What is held is listed while the registry cannot be asked: to anyone for anyone's, and to one whose own permission
// counts nothing that another was told.
func TestHeldTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		list := Ref{Registry: "docker.io", Repo: "library/a", Kind: KindTags}
		for i, tag := range []string{"1", "2", "3"} {
			h.tag("docker.io", "library/a", tag, manifestOf(i))
			h.tag("docker.io", "library/ab", "x"+tag, manifestOf(i))
		}
		c := open(t, h, Options{Aging: func(ref Ref) Aging {
			if ref.Tag == "3" {
				return Aging{Fresh: time.Minute, Stale: time.Minute}
			}
			return Aging{Fresh: time.Minute, Stale: Forever}
		}})
		read := func(ctx context.Context, ref Ref) {
			t.Helper()
			b, err := c.Open(ctx, ref, Whole)
			if err != nil {
				t.Fatal(err)
			}
			_ = b.Close()
		}
		somebody := WithCaller(t.Context(), "somebody")
		for _, tag := range []string{"1", "3"} {
			read(t.Context(), Ref{Registry: "docker.io", Repo: "library/a", Kind: KindManifest, Tag: tag})
		}
		read(t.Context(), Ref{Registry: "docker.io", Repo: "library/ab", Kind: KindManifest, Tag: "x1"})
		read(somebody, Ref{Registry: "docker.io", Repo: "library/a", Kind: KindManifest, Tag: "2"})
		if _, _, err := listed(t, t.Context(), c, list); !errors.Is(err, ErrNotFound) {
			t.Errorf("the registry lists nothing: %v", err)
		}
		h.set(func(h *hub) { h.down = true })
		time.Sleep(time.Hour)
		tags, found, err := listed(t, t.Context(), c, list)
		if err != nil || !slices.Equal(tags, []string{"1"}) || !found.Stale() || !found.AsOf.IsZero() {
			t.Errorf("never listed: %v, %+v, %v", tags, found, err)
		}
		if tags, _, err := listed(t, somebody, c, list); err == nil {
			t.Errorf("to somebody: %v", tags)
		}
		h.set(func(h *hub) { h.down, h.lists[list] = false, []byte(`{"name":"library/a","tags":["0"]}`) })
		time.Sleep(time.Minute)
		if tags, found, err := listed(t, t.Context(), c, list); err != nil || !slices.Equal(tags, []string{"0"}) || found.Stale() {
			t.Errorf("listed: %v, %+v, %v", tags, found, err)
		}
		asOf := time.Now()
		h.set(func(h *hub) { h.down = true })
		time.Sleep(time.Hour)
		tags, found, err = listed(t, t.Context(), c, list)
		if err != nil || !slices.Equal(tags, []string{"0", "1"}) || !found.Stale() || !found.AsOf.Equal(asOf) {
			t.Errorf("listed once: %v, %+v, %v", tags, found, err)
		}
	})
}

// A hint is there for the next process, until it is taken back or nobody has left it for long.
func TestHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var later atomic.Int64
		o := Options{Dir: ramDir(t), Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }}
		c := open(t, newHub(), o)
		c.LeaveHint("a", "x/y")
		c.LeaveHint("b", "z")
		c.LeaveHint("b", "")
		shut(t, c)
		c = open(t, newHub(), o)
		if a, b := c.Hint("a"), c.Hint("b"); a != "x/y" || b != "" {
			t.Errorf("%q, %q", a, b)
		}
		later.Store(int64(oldFact - time.Hour))
		c.LeaveHint("new", "n")
		c.facts.flush()
		c.prune(t.Context())
		if c.Hint("a") == "" {
			t.Error("forgotten early")
		}
		later.Add(int64(2 * time.Hour))
		c.prune(t.Context())
		if c.Hint("a") != "" || c.Hint("new") != "n" {
			t.Error("kept for ever, or not at all")
		}
	})
}

// Sure is what need not be asked for.
func TestSure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		layer := h.put("docker.io", "library/a", noise(1, 100))
		ref := h.tag("docker.io", "library/a", "1", []byte(`{"schemaVersion":2,"config":{"digest":"`+layer.Digest.String()+`","size":100},"layers":[]}`))
		other := h.tag("docker.io", "library/b", "1", manifestOf(1))
		c := open(t, h, Options{})
		for _, r := range []Ref{ref, layer, other} {
			if c.Sure(t.Context(), r) {
				t.Errorf("%s, of which nothing is known", r)
			}
		}
		_, found, err := readTag(t, c, ref)
		if err != nil {
			t.Fatal(err)
		}
		elsewhere := layer
		elsewhere.Repo = "library/b"
		for r, want := range map[Ref]bool{ref: true, ref.At(found.Digest): true, layer: true, elsewhere: false, other: false} {
			if c.Sure(t.Context(), r) != want {
				t.Errorf("%s: %v", r, !want)
			}
			if c.Sure(WithCaller(t.Context(), "somebody"), r) {
				t.Errorf("%s, to somebody", r)
			}
		}
		time.Sleep(6 * time.Minute)
		if c.Sure(t.Context(), ref) || !c.Sure(t.Context(), layer) {
			t.Error("a tag ages, a digest does not")
		}
		if gets, heads := h.asked(); gets != 1 || heads != 0 {
			t.Errorf("%d GETs, %d HEADs", gets, heads)
		}
	})
}
