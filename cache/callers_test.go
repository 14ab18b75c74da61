package cache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const lasting = 5 * time.Minute

// withCallers is the options of a cache before a registry, reg.test, that is asked with its callers' logins.
func withCallers() Options {
	return Options{ScrubRate: -1, Absence: -1, Callers: func(registry string) time.Duration {
		if registry == "reg.test" {
			return lasting
		}
		return 0
	}}
}

// list is who may, and which may change.
type list struct {
	mu  sync.Mutex
	may []Caller
}

func (l *list) set(may ...Caller) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.may = may
}

// guards has h give to nobody else.
func (l *list) guards(h *hub) {
	no := func(r request) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !slices.Contains(l.may, r.caller) {
			return ErrDenied
		}
		return nil
	}
	h.head = no
	h.turn = func(r request) turn { return turn{err: no(r)} }
}

// A no ends every yes at once, also the one of a list; and a yes that was on its way is not one any more.
func TestNoEndsEveryYes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, who := newHub(), &list{may: []Caller{"alice"}}
		who.guards(h)
		blob := h.put("reg.test", "team/a", noise(1, 1<<20))
		tag := h.tag("reg.test", "team/a", "1", manifestOf(1))
		other := h.tag("reg.test", "team/a", "2", manifestOf(2))
		tags := Ref{Registry: "reg.test", Repo: "team/a", Kind: KindTags}
		h.lists[tags] = []byte(`{"tags":["1"]}`)
		c := open(t, h, withCallers())
		alice := WithCaller(t.Context(), "alice")
		refs := []Ref{blob, tag, tag.At(Sum(manifestOf(1))), tags}
		for _, ref := range refs {
			if _, err := c.Open(alice, ref, Whole); err != nil {
				t.Fatalf("%s: %v", ref, err)
			}
		}
		who.set()
		for _, ref := range refs { // nobody has said so yet
			if _, err := c.Stat(alice, ref); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		}
		time.Sleep(time.Second)
		if _, err := c.Open(alice, other, Whole); !errors.Is(err, ErrDenied) {
			t.Fatal(err)
		}
		for _, ref := range refs {
			if _, err := c.Open(alice, ref, Whole); !errors.Is(err, ErrDenied) {
				t.Errorf("%s: %v", ref, err)
			}
			if found, err := c.Stat(alice, ref); !errors.Is(err, ErrDenied) {
				t.Errorf("%s: %+v, %v", ref, found, err)
			}
		}
	})
}

func TestLateYes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := witnessed(newHub(), func(string) time.Duration { return lasting })
		who := asked{Ref{Registry: "reg.test", Repo: "a", Kind: KindManifest}, "alice"}
		began := time.Now()
		time.Sleep(time.Second)
		p.hear(who, time.Now(), ErrDenied)
		time.Sleep(time.Second)
		if p.hear(who, began, nil); p.allow(who) {
			t.Error("an answer to an older question undid a refusal")
		}
		if p.hear(who, time.Now(), ErrUnchanged); !p.allow(who) {
			t.Error("a new yes is none")
		}
		for kind, want := range map[Kind]bool{KindBlob: true, KindManifest: true, KindTags: false, KindReferrers: false} {
			if who.ref.Kind = kind; p.allow(who) != want {
				t.Errorf("a yes to a manifest, asked for %s: %v", kind, !want)
			}
		}
		time.Sleep(lasting)
		if who.ref.Kind = KindManifest; p.allow(who) {
			t.Error("it lasts for longer than it should")
		}
		who.ref.Repo = "b"
		if p.hear(who, time.Now(), ErrUnavailable); p.allow(who) {
			t.Error("no answer is a yes")
		}
		for _, kind := range []Kind{KindBlob, KindTags, KindReferrers} {
			who.ref.Kind = kind
			p.hear(who, time.Now(), nil)
		}
		if who.ref.Kind = KindManifest; p.allow(who) {
			t.Error("lists and blobs are a yes to manifests")
		}
	})
}

// What is still arriving outlives the permission of who began it, and of who follows it: they get it to the end, and who
// comes anew is asked about anew. So it is where nothing can be kept.
func TestArrivingOutlivesPermission(t *testing.T) {
	for name, o := range map[string]Options{"flight": withCallers(), "stream": withCallers()} {
		if name == "stream" {
			o.FS = full(0)
		}
		synctest.Test(t, func(t *testing.T) {
			h, who := newHub(), &list{may: []Caller{"alice", "bob"}}
			who.guards(h)
			h.pace = 10 * time.Second
			blob := newSynthetic(12, 8<<20)
			ref := h.have("reg.test", "team/a", blob.digest, blob)
			c := open(t, h, o)
			var wg sync.WaitGroup
			for _, caller := range []Caller{"alice", "bob"} {
				wg.Go(func() {
					if n, _, err := fetch(WithCaller(t.Context(), caller), c, ref, 0, -1, blob); err != nil {
						t.Errorf("%s, %s: %d bytes, %v", name, caller, n, err)
					}
				})
				time.Sleep(time.Millisecond)
			}
			time.Sleep(lasting / 2)
			who.set("bob")
			time.Sleep(lasting)
			if c.Stats().Flights == 0 {
				t.Fatalf("%s: nothing is arriving any more", name)
			}
			for _, caller := range []Caller{"alice", "eve"} {
				ctx := WithCaller(t.Context(), caller)
				if _, err := c.Open(ctx, ref, Whole); !errors.Is(err, ErrDenied) {
					t.Errorf("%s, %s comes anew: %v", name, caller, err)
				}
				for _, off := range []int64{100, 3 << 20, 5 << 20, 6 << 20} { // what has passed, and what is to come
					if _, err := c.Open(ctx, ref, Want{Off: off, N: 10}); !errors.Is(err, ErrDenied) {
						t.Errorf("%s, %s comes for a part: %v", name, caller, err)
					}
				}
				if found, err := c.Stat(ctx, ref); !errors.Is(err, ErrDenied) {
					t.Errorf("%s, %s asks: %+v, %v", name, caller, found, err)
				}
			}
			if found, err := c.Stat(WithCaller(t.Context(), "bob"), ref); err != nil {
				t.Errorf("%s, bob asks: %+v, %v", name, found, err)
			}
			wg.Wait()
			if sent := h.bytes(ref.Digest); sent != blob.size {
				t.Errorf("%s: %d bytes sent", name, sent)
			}
		})
	}
}

// Many layers wanted at once when the yes has ended: one question.
func TestOneRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, who := newHub(), &list{may: []Caller{"alice", "bob"}}
		who.guards(h)
		var refs []Ref
		for i := range 20 {
			refs = append(refs, h.put("reg.test", "team/a", noise(uint64(i), 1<<20)))
		}
		c := open(t, h, withCallers())
		all := func(caller Caller, want error) {
			t.Helper()
			together(len(refs), func(i int) {
				b, err := c.Open(WithCaller(t.Context(), caller), refs[i], Whole)
				if !errors.Is(err, want) {
					t.Errorf("%s: %s: %v", caller, refs[i], err)
				}
				if err == nil {
					_ = b.SendRange(t.Context(), new(discard), 0, -1)
					_ = b.Close()
				}
			})
		}
		all("alice", nil)
		time.Sleep(lasting)
		quick := h.head
		h.head = func(r request) error { time.Sleep(time.Second); return quick(r) } // so that all come meanwhile
		h.set(func(h *hub) { h.heads, h.opens = nil, nil })
		all("alice", nil)
		all("bob", nil)
		if gets, heads := h.asked(); gets != 0 || heads != 2 {
			t.Errorf("%d GETs, %q", gets, h.heads)
		}
		all("eve", ErrDenied)
		who.set()
		time.Sleep(lasting)
		all("alice", ErrDenied)
	})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// What callers were granted is nobody's, once the registry is asked with our own login again, or without one.
func TestBackToShared(t *testing.T) {
	h, who := newHub(), &list{may: []Caller{"alice"}}
	who.guards(h)
	blob := h.put("reg.test", "team/a", noise(1, 1<<20))
	tag := h.tag("reg.test", "team/a", "1", manifestOf(1))
	o := withCallers()
	o.Dir = t.TempDir()
	c := open(t, h, o)
	alice := WithCaller(t.Context(), "alice")
	if _, _, err := pull(alice, c, blob, noise(1, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(alice, tag, Whole); err != nil {
		t.Fatal(err)
	}
	shut(t, c)
	o.Callers = nil
	for _, ref := range []Ref{blob, tag, tag.At(Sum(manifestOf(1)))} { // each by itself: a no is remembered
		for _, ctx := range []context.Context{t.Context(), WithCaller(t.Context(), "eve")} {
			c = open(t, h, o)
			if found, err := c.Stat(ctx, ref); !errors.Is(err, ErrDenied) {
				t.Errorf("%s: %+v, %v", ref, found, err)
			}
			if c.facts.get(nameKey(asked{tag, "alice"})) != nil {
				t.Error("what nobody can ask for any more was written down")
			}
			shut(t, c)
		}
	}
}

// That there is nothing for one is no word to another, and that there is nothing any more is a no, whatever the rule for
// names that are gone.
func TestNothingForSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		var gone list
		gone.set("eve")
		hidden := func(r request) error {
			gone.mu.Lock()
			defer gone.mu.Unlock()
			if slices.Contains(gone.may, r.caller) {
				return ErrNotFound
			}
			return nil
		}
		h.head = hidden
		h.turn = func(r request) turn { return turn{err: hidden(r)} }
		tag := h.tag("reg.test", "team/a", "1", manifestOf(1))
		o := withCallers()
		o.Absence = time.Hour
		o.Aging = func(Ref) Aging { return Aging{Fresh: Forever, Stale: Forever, Keep: true} }
		c := open(t, h, o)
		ask := func(caller Caller, want error) {
			t.Helper()
			for _, ref := range []Ref{tag, tag.At(Sum(manifestOf(1)))} {
				ctx := WithCaller(t.Context(), caller)
				if found, err := c.Stat(ctx, ref); !errors.Is(err, want) {
					t.Errorf("%s, %s: %+v, %v", caller, ref, found, err)
				}
				if _, err := c.Open(ctx, ref, Whole); !errors.Is(err, want) {
					t.Errorf("%s, %s: %v", caller, ref, err)
				}
			}
		}
		ask("eve", ErrNotFound)
		ask("alice", nil)
		ask("eve", ErrNotFound)
		gone.set("alice", "eve")
		time.Sleep(lasting)
		ask("alice", ErrNotFound)
		h.down = true
		ask("alice", ErrNotFound)
	})
}

// That something is pinned is a permission for nobody who is asked for by name.
func TestPinnedForCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, who := newHub(), &list{may: []Caller{"alice"}}
		who.guards(h)
		tag := h.tag("reg.test", "team/a", "1", manifestOf(1))
		ref := tag.At(Sum(manifestOf(1)))
		c := open(t, h, withCallers())
		alice := WithCaller(t.Context(), "alice")
		if _, err := c.Open(alice, tag, Whole); err != nil {
			t.Fatal(err)
		}
		desc := Desc{Digest: ref.Digest, Size: int64(len(manifestOf(1)))}
		if err := c.Pin(t.Context(), Pin{Ref: tag, Parts: []Part{{Ref: tag, Desc: desc, AsOf: time.Now()}, {Ref: ref, Desc: desc}}}); err != nil {
			t.Fatal(err)
		}
		refused := func(ctx context.Context, want error) {
			t.Helper()
			for _, ref := range []Ref{tag, ref} {
				if found, err := c.Stat(ctx, ref); !errors.Is(err, want) {
					t.Errorf("%s, %s: %+v, %v", CallerOf(ctx), ref, found, err)
				}
				if _, err := c.Open(ctx, ref, Whole); !errors.Is(err, want) {
					t.Errorf("%s, %s: %v", CallerOf(ctx), ref, err)
				}
			}
		}
		refused(WithCaller(t.Context(), "eve"), ErrDenied)
		if _, err := c.Open(alice, tag, Whole); err != nil {
			t.Error(err)
		}
		time.Sleep(lasting)
		h.set(func(h *hub) { h.down, h.head, h.turn = true, nil, nil })
		refused(alice, ErrUnavailable)
		refused(WithCaller(t.Context(), "eve"), ErrUnavailable)
	})
}
