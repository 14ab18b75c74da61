package cache

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// site is a hub with two repositories that share a layer, all of it pulled.
type site struct {
	*hub
	c    *Cache
	data map[Ref][]byte
	refs map[string]Ref
}

// newSite has docker.io/a:1, which is a:latest too, a:2 and a:10, and docker.io/b:1. "own" is a layer of a:1 alone,
// "shared" one of a:1 and a:2, "both" one of a:1 and b:1.
func newSite(t *testing.T, o Options) *site {
	s := &site{hub: newHub(), data: map[Ref][]byte{}, refs: map[string]Ref{}}
	layer := func(name, repo string, seed uint64) Ref {
		b := noise(seed, 200<<10)
		ref := s.put("docker.io", repo, b)
		s.data[ref], s.refs[repo+"/"+name] = b, ref
		return ref
	}
	tag := func(name, repo, tag string, layers ...Ref) {
		b := imageOf(name, layers...)
		ref := s.hub.tag("docker.io", repo, tag, b)
		s.data[ref], s.data[ref.At(Sum(b))], s.refs[repo+":"+tag] = b, b, ref
		s.have("docker.io", repo, Sum(b), bytes.NewReader(b))
	}
	own, shared, both := layer("own", "a", 1), layer("shared", "a", 2), layer("both", "a", 3)
	tag("one", "a", "1", own, shared, both)
	tag("one", "a", "latest", own, shared, both)
	tag("two", "a", "2", shared)
	tag("ten", "a", "10", layer("ten", "a", 4))
	tag("other", "b", "1", layer("both", "b", 3))
	o.ScrubRate = -1
	s.c = open(t, s, o)
	s.pullAll(t)
	return s
}

func (s *site) pullAll(t *testing.T) {
	t.Helper()
	for ref, b := range s.data {
		if _, _, err := pull(t.Context(), s.c, ref, b); err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
	}
}

func (s *site) purge(t *testing.T, ref Ref) Purged {
	t.Helper()
	p, err := s.c.Purge(t.Context(), ref, time.Now(), false)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// holds are those of the layers that are held.
func (s *site) holds(names ...string) (held []string) {
	for _, name := range names {
		if s.c.holds(s.refs[name].Digest) {
			held = append(held, name)
		}
	}
	return held
}

var layersOfSite = []string{"a/own", "a/shared", "a/both", "a/ten", "b/both"}

// What goes with a name is what nothing else needs.
func TestPurge(t *testing.T) {
	allOf := func(repo string) func(*site) Ref {
		return func(*site) Ref { return Ref{Registry: "docker.io", Repo: repo, Kind: KindManifest} }
	}
	tag := func(name string) func(*site) Ref { return func(s *site) Ref { return s.refs[name] } }
	for name, c := range map[string]struct {
		first, scope func(*site) Ref
		names        int
		things       int
		stay         string
	}{
		"a tag whose manifest has another name":   {nil, tag("a:1"), 1, 0, "a/own a/shared a/both a/ten b/both"},
		"the last name of a manifest":             {tag("a:latest"), tag("a:1"), 1, 2, "a/shared a/both a/ten b/both"},
		"a tag that another begins with":          {nil, tag("a:10"), 1, 2, "a/own a/shared a/both b/both"},
		"a repository":                            {nil, allOf("a"), 4, 6, "a/both b/both"},
		"the other repository":                    {nil, allOf("b"), 1, 1, "a/own a/shared a/both a/ten b/both"},
		"both":                                    {allOf("a"), allOf("b"), 1, 2, ""},
		"a manifest by its digest, named or not":  {nil, func(s *site) Ref { return s.refs["a:1"].At(Sum(s.data[s.refs["a:1"]])) }, 0, 2, "a/shared a/both a/ten b/both"},
		"a layer by its digest, needed or not":    {nil, func(s *site) Ref { r := s.refs["a/shared"]; r.Kind = KindManifest; return r }, 0, 1, "a/own a/both a/ten b/both"},
		"what was never there":                    {nil, func(s *site) Ref { return Ref{Registry: "docker.io", Repo: "a", Kind: KindManifest, Tag: "3"} }, 0, 0, "a/own a/shared a/both a/ten b/both"},
		"a repository whose name begins likewise": {nil, allOf("a/b"), 0, 0, "a/own a/shared a/both a/ten b/both"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, Options{})
				if c.first != nil {
					s.purge(t, c.first(s))
				}
				time.Sleep(settled)
				before := s.c.Stats()
				dry, err := s.c.Purge(t.Context(), c.scope(s), time.Now(), true)
				if err != nil || s.c.Stats() != before {
					t.Errorf("dry: %v, %+v, was %+v", err, s.c.Stats(), before)
				}
				p := s.purge(t, c.scope(s))
				if p.Names != c.names || p.Things != c.things || p.Names != dry.Names || p.Things != dry.Things || p.Bytes != dry.Bytes {
					t.Errorf("%+v, dry %+v", p, dry)
				}
				if freed := before.DiskBytes - s.c.Stats().DiskBytes; freed != p.Bytes {
					t.Errorf("%d bytes went, and %d were told", freed, p.Bytes)
				}
				if got := strings.Join(s.holds(layersOfSite...), " "); got != c.stay {
					t.Errorf("held are %q, want %q", got, c.stay)
				}
				time.Sleep(settled)
				s.pullAll(t)
			})
		})
	}
}

// What was purged is asked for again, and no permission for it is left; a restart brings nothing back.
func TestPurgedIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{Dir: ramDir(t), Aging: func(Ref) Aging { return Aging{Fresh: Forever} }}
		s := newSite(t, o)
		time.Sleep(time.Second)
		s.purge(t, Ref{Registry: "docker.io", Repo: "a", Kind: KindManifest})
		time.Sleep(settled)
		shut(t, s.c)
		s.c = open(t, s, Options{Dir: o.Dir, Aging: o.Aging, ScrubRate: -1})
		if got := s.holds("a/own", "a/shared", "a/ten"); len(got) > 0 {
			t.Errorf("after a restart %q are held", got)
		}
		s.set(func(h *hub) { h.down = true })
		for _, name := range []string{"a:1", "a/own"} {
			if _, _, err := pull(t.Context(), s.c, s.refs[name], s.data[s.refs[name]]); !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, _, err := pull(t.Context(), s.c, s.refs["b:1"], s.data[s.refs["b:1"]]); err != nil {
			t.Error(err)
		}
		s.set(func(h *hub) { h.down, h.opens, h.heads = false, nil, nil })
		if _, _, err := pull(t.Context(), s.c, s.refs["a/both"], s.data[s.refs["a/both"]]); err != nil {
			t.Error(err)
		}
		if gets, heads := s.asked(); gets+heads != 1 {
			t.Errorf("for what is held and was forgotten: %q, %q", s.opens, s.heads)
		}
	})
}

// One who hears late of a purge forgets what was known then, and not what was learned since.
func TestPurgeHeardLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{})
		time.Sleep(time.Second)
		at := time.Now()
		time.Sleep(time.Second)
		scope := Ref{Registry: "docker.io", Repo: "a", Kind: KindManifest}
		s.purge(t, scope)
		time.Sleep(time.Second)
		s.pullAll(t)
		p, err := s.c.Purge(t.Context(), scope, at, false)
		if err != nil || p.Names+p.Things > 0 {
			t.Errorf("%v, %+v", err, p)
		}
		before, _ := s.asked()
		s.pullAll(t)
		if gets, _ := s.asked(); gets != before {
			t.Errorf("%q", s.opens[before:])
		}
	})
}

// Another who forgot the name says what belonged to it.
func TestDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{})
		var all []Digest
		for _, name := range layersOfSite {
			all = append(all, s.refs[name].Digest)
		}
		time.Sleep(time.Second)
		s.c.facts.each(childFact, func(key string, _ []byte) { s.c.facts.put(key, nil) }) // as one who never had the manifests
		s.c.facts.each(parentFact, func(key string, _ []byte) { s.c.facts.put(key, nil) })
		p, err := s.c.Drop(t.Context(), s.refs["a:1"], all, time.Now())
		if got := strings.Join(s.holds(layersOfSite...), " "); err != nil || p.Things != 3 || got != "a/both b/both" {
			t.Errorf("%v, %+v, held are %q", err, p, got)
		}
	})
}

// What is pinned is not purged; what it needs is spared.
func TestPurgePinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{})
		time.Sleep(settled)
		two := s.refs["a:2"]
		d := Sum(s.data[two])
		pin := Pin{Ref: two, Owner: "operator", Parts: []Part{
			{Ref: two, Desc: Desc{Digest: d, Size: 1}, AsOf: time.Now()}, {Ref: two.At(d), Desc: Desc{Digest: d, Size: 1}},
			{Ref: s.refs["a/shared"], Desc: Desc{Digest: s.refs["a/shared"].Digest, Size: 1}},
		}}
		if err := s.c.Pin(t.Context(), pin); err != nil {
			t.Fatal(err)
		}
		shared := s.refs["a/shared"]
		shared.Kind = KindManifest
		for _, scope := range []Ref{two, two.At(d), shared, repository(two)} {
			if _, err := s.c.Purge(t.Context(), scope, time.Now(), false); !errors.Is(err, ErrPinned) || !strings.Contains(err.Error(), "unpin") {
				t.Errorf("%s: %v", scope, err)
			}
		}
		s.purge(t, s.refs["a:latest"])
		s.purge(t, s.refs["a:1"])
		if got := strings.Join(s.holds(layersOfSite...), " "); got != "a/shared a/both a/ten b/both" {
			t.Errorf("held are %q", got)
		}
		if ok, err := s.c.UnpinOlder("operator", two, time.Now().Add(-time.Minute)); ok || err != nil {
			t.Errorf("a pin that was set later: %v, %v", ok, err)
		}
		if ok, err := s.c.Unpin("operator", two); !ok || err != nil || !s.c.Unpinned("operator", two).Equal(time.Now()) {
			t.Errorf("%v, %v, %v", ok, err, s.c.Unpinned("operator", two))
		}
		s.purge(t, repository(two))
	})
}

// TestPinsInOfMany: what is pinned of one image is found at once among many pins.
func TestPinsInOfMany(t *testing.T) {
	c, err := New(t.Context(), nil, Options{Dir: t.TempDir(), ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ref := Ref{Registry: "docker.io", Kind: KindManifest, Tag: "1"}
	for i := range 100 {
		ref.Repo = fmt.Sprint("library/n", i)
		if err := c.Pin(t.Context(), Pin{Ref: ref, Owner: "o"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(10, func() {
		if pins := c.PinsIn(ref); len(pins) != 1 || pins[0].Ref != ref {
			t.Errorf("of %s: %v", ref, pins)
		}
	}); n > 10 {
		t.Errorf("%v allocations", n)
	}
}

// While something is read, it may be purged: each reader has all of it, and who comes later has it fetched.
func TestPurgeWhileItIsRead(t *testing.T) {
	h := newHub()
	data := noise(9, 3<<20)
	blob := h.put("docker.io", "a", data)
	tag := h.tag("docker.io", "a", "1", imageOf("hot", blob))
	c := open(t, h, Options{ScrubRate: -1})
	var stop atomic.Bool
	var readers sync.WaitGroup
	var reads atomic.Int64
	for range 16 {
		readers.Go(func() {
			for !stop.Load() {
				if _, _, err := pull(t.Context(), c, blob, data); err != nil {
					t.Error(err)
					return
				}
				if b, _, err := readTag(t, c, tag); err != nil || !tag.At(Sum(b)).Digest.Names(b) {
					t.Error(err)
					return
				}
				reads.Add(1)
			}
		})
	}
	slow, err := c.Open(t.Context(), blob, Whole)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	purges := 0
	for n := reads.Load(); purges < 8; purges++ {
		if _, err := c.Purge(t.Context(), repository(tag), time.Now(), false); err != nil {
			t.Error(err)
		}
		for late := time.Now().Add(time.Minute); reads.Load() < n+20 && time.Now().Before(late); {
			_, _, _ = pull(t.Context(), c, blob, data)
		}
		n = reads.Load()
	}
	stop.Store(true)
	readers.Wait()
	var all bytes.Buffer
	if err := slow.SendRange(t.Context(), &all, 0, -1); err != nil || !bytes.Equal(all.Bytes(), data) {
		t.Errorf("who read while it went: %d bytes, %v", all.Len(), err)
	}
	gets, _ := h.asked()
	if gets < purges || int64(gets) > reads.Load() {
		t.Errorf("%d purges, %d reads, %d fetches", purges, reads.Load(), gets)
	}
	t.Logf("%d purges, %d reads, %d fetches", purges, reads.Load(), gets)
}

// Whoever hears that a tag has moved asks when somebody wants to know, and not before it, and once.
func TestOutdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		tag := h.tag("docker.io", "a", "1", manifestOf(1))
		var told []Digest
		c := open(t, h, Options{ScrubRate: -1, Aging: func(Ref) Aging { return Aging{Fresh: time.Hour, Grace: time.Hour, Stale: Forever} },
			Moved: func(ref Ref, d Digest, asOf time.Time) {
				if ref != tag || !asOf.Equal(time.Now()) {
					t.Errorf("told of %s at %v", ref, asOf)
				}
				told = append(told, d)
			}})
		first, _, err := readTag(t, c, tag)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		now := time.Now()
		if c.Outdate(tag, Sum(first), now) || c.Outdate(tag, Sum(nil), now.Add(-2*time.Minute)) || c.Outdate(h.tag("docker.io", "a", "9", first), Sum(nil), now) {
			t.Error("it is what is known, or older, or nothing is known")
		}
		h.tag("docker.io", "a", "1", manifestOf(2))
		if b, _, err := readTag(t, c, tag); err != nil || !bytes.Equal(b, first) {
			t.Errorf("%q, %v", b, err)
		}
		if !c.Outdate(tag, Sum(manifestOf(2)), now.Add(time.Hour)) { // by a clock that is ahead
			t.Error("it is news")
		}
		if gets, heads := h.asked(); gets != 1 || heads != 0 {
			t.Errorf("nobody wants to know: %d, %d", gets, heads)
		}
		time.Sleep(time.Second)
		h.set(func(h *hub) { h.down = true })
		if b, f, err := readTag(t, c, tag); err != nil || !bytes.Equal(b, first) || !f.Stale() {
			t.Errorf("the hub is down: %q, %v", b, err)
		}
		h.set(func(h *hub) { h.down = false })
		time.Sleep(time.Minute)
		for range 3 {
			if b, _, err := readTag(t, c, tag); err != nil || !bytes.Equal(b, manifestOf(2)) {
				t.Errorf("%q, %v", b, err)
			}
		}
		if gets, heads := h.asked(); gets != 2 || heads != 2 {
			t.Errorf("%d, %d", gets, heads)
		}
		time.Sleep(3 * time.Hour)
		h.set(func(h *hub) { delete(h.tags, "docker.io/a:1") })
		if _, _, err := readTag(t, c, tag); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if len(told) != 2 || told[0] != Sum(manifestOf(2)) || !told[1].IsZero() {
			t.Errorf("told %v", told)
		}
	})
}
