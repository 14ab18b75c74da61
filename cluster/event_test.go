package cluster

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// image is a name of an image.
func imageName(repo, tag string) cache.Ref {
	return cache.Ref{Registry: "docker.io", Repo: repo, Kind: cache.KindManifest, Tag: tag}
}

// said are events of every kind.
func said() []Event {
	d := cache.Sum([]byte("content"))
	at := time.Unix(1_790_000_000, 7)
	all := []Event{
		{Kind: Moved, Ref: imageName("library/app", "1"), Digests: []cache.Digest{d}, AsOf: at.Add(-time.Second)},
		{Kind: Moved, Ref: imageName("library/app", "1"), AsOf: at},
		{Kind: Purged, Ref: imageName("library/app", "1")},
		{Kind: Purged, Ref: imageName("library/app", "").At(d)},
		{Kind: Purged, Ref: imageName("library/app", "")},
		{Kind: Dropped, Ref: imageName("library/app", ""), Digests: []cache.Digest{d, cache.Sum(nil)}},
		{Kind: Unpinned, Ref: imageName("library/app", "1"), Of: "operator"},
		{Kind: Limited, Of: "abc", Body: []byte(`{"limit":1}`)},
	}
	for i := range all {
		all[i].From, all[i].At = "m1", at.Add(time.Duration(i))
	}
	return all
}

func TestEventIsReadAsItWasWritten(t *testing.T) {
	for _, e := range said() {
		b, err := e.encode()
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		got, err := decodeEvent(b)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%v\n got %+v\nwant %+v", err, got, e)
		}
		newer, err := decodeEvent(append(bytes.Clone(b), 200, 3, 'n', 'e', 'w'))
		if err != nil || !reflect.DeepEqual(newer, e) {
			t.Errorf("with a field of a newer version: %v, %+v", err, newer)
		}
	}
}

func TestEventsThatCannotBe(t *testing.T) {
	d := cache.Sum(nil)
	for name, change := range map[string]func(*Event){
		"no kind":                func(e *Event) { e.Kind = 0 },
		"nobody's":               func(e *Event) { e.From = "" },
		"a stranger's name":      func(e *Event) { e.From = "M 1" },
		"no time":                func(e *Event) { e.At = time.Unix(0, 0) },
		"no tag":                 func(e *Event) { e.Ref.Tag = "" },
		"no repository":          func(e *Event) { e.Ref.Repo = "../.." },
		"no registry":            func(e *Event) { e.Ref.Registry = "" },
		"two digests":            func(e *Event) { e.Digests = []cache.Digest{d, d} },
		"not said when":          func(e *Event) { e.AsOf = time.Time{} },
		"dropped, and not what":  func(e *Event) { e.Kind, e.Ref.Tag, e.Digests = Dropped, "", nil },
		"dropped, with a tag":    func(e *Event) { e.Kind = Dropped },
		"purged, with digests":   func(e *Event) { e.Kind = Purged },
		"unpinned from nowhere":  func(e *Event) { e.Kind, e.Ref = Unpinned, cache.Ref{} },
		"unpinned by an escape":  func(e *Event) { e.Kind, e.Of = Unpinned, "\x1b[2J" },
		"limits without a word":  func(e *Event) { e.Kind = Limited },
		"longer than a message":  func(e *Event) { e.Kind, e.Body = Limited, make([]byte, eventMax) },
		"a repository too large": func(e *Event) { e.Ref.Repo = strings.Repeat("a", 600) },
	} {
		e := said()[0]
		change(&e)
		if _, err := e.encode(); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

// talkers are events without a network.
func talkers(heard func(context.Context, Event)) *events {
	m := &Members{o: Options{Name: "self", Heard: heard, Log: zap.NewNop()}}
	m.view.Store(&View{})
	m.events = newEvents(m)
	return m.events
}

// tells is what a member says, as it arrives.
func tells(t testing.TB, e Event) []byte {
	b, err := e.encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is told again and again, in any order, by way of anybody, is news once; and what was forgotten to make room is
// no news either.
func TestJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := map[string]int{}
		s := talkers(func(_ context.Context, e Event) { heard[e.Ref.Repo]++ })
		var all [][]byte
		for i := range mostLasting + 100 {
			all = append(all, tells(t, Event{Kind: Purged, From: "m1", At: time.Now(), Ref: imageName(fmt.Sprintf("r%d", i), "")}))
			time.Sleep(time.Second)
		}
		order := rand.New(rand.NewPCG(1, 2))
		for range 3 {
			for _, raw := range all {
				s.hear(t.Context(), raw, true)
			}
			order.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		}
		for repo, n := range heard {
			if n != 1 {
				t.Fatalf("%s was heard %d times", repo, n)
			}
		}
		if len(heard) != len(all) || len(s.lasting.words) != mostLasting {
			t.Errorf("%d of %d were heard, %d are remembered", len(heard), len(all), len(s.lasting.words))
		}
		time.Sleep(lastingLife)
		if state := s.lasting.append(nil, time.Now()); len(state) != 0 {
			t.Errorf("%d bytes of a day ago are told", len(state))
		}
		late := talkers(func(context.Context, Event) { t.Error("it was told of what happened more than a day ago") })
		late.hear(t.Context(), all[0], true)
	})
}

// TestClockSetBack: a member whose clock was a year ahead and was set right is heard again, and hears.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := 0
		s := talkers(func(context.Context, Event) { heard++ })
		wrong := time.Now().AddDate(1, 0, 0)
		own := Event{Kind: Purged, From: s.self, At: wrong, Ref: imageName("app", "")}
		s.last = wrong
		s.lasting.add(word{own, tells(t, own)}, wrong)
		s.hear(t.Context(), tells(t, Event{Kind: Purged, From: "m1", At: time.Now(), Ref: own.Ref}), false)
		if heard != 1 {
			t.Error("what another says of the same is no news, until next year")
		}
		time.Sleep(time.Second)
		s.tell(Event{Kind: Purged, Ref: own.Ref})
		if at := s.lasting.words[own.subject()].At; !at.Equal(time.Now()) {
			t.Errorf("it says something as of %s, at %s", at, time.Now())
		}
	})
}

// What one member knows is what another is told, within bounds.
func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, heard := talkers(nil), 0
		two := talkers(func(context.Context, Event) { heard++ })
		two.self = "other"
		for i := range 2000 {
			one.tell(Event{Kind: Limited, Of: fmt.Sprint(i), Body: bytes.Repeat([]byte("x"), 900)})
			one.tell(Event{Kind: Purged, Ref: imageName(fmt.Sprint("r", i), strings.Repeat("t", 128))})
		}
		state := gossip{&Members{events: one}}.LocalState(false)
		gossip{&Members{events: two}}.MergeRemoteState(state, false)
		two.merge(t.Context(), <-two.states)
		if len(state) > stateMax || heard != mostHints+mostLasting {
			t.Errorf("%d bytes, %d events", len(state), heard)
		}
		gossip{&Members{events: two}}.MergeRemoteState(make([]byte, stateMax+1), false)
		two.merge(t.Context(), []byte{5, 1, 2})
		if n := two.count.refused.Load(); n != 2 || len(two.states) > 0 {
			t.Errorf("%d refused, %d wait", n, len(two.states))
		}
	})
}

// Whoever has the key and says nothing but nonsense, or too much, or from the future, changes nothing.
func TestNonsense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := 0
		s := talkers(func(context.Context, Event) { heard++ })
		g := gossip{&Members{events: s}}
		random := rand.New(rand.NewPCG(3, 4))
		for range 1000 {
			b := make([]byte, random.IntN(2*eventMax))
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			g.NotifyMsg(append([]byte{eventVersion}, b...))
		}
		for len(s.inbox) > 0 {
			s.hear(t.Context(), <-s.inbox, false)
		}
		s.hear(t.Context(), tells(t, Event{Kind: Purged, From: "m1", At: time.Now().Add(ahead + time.Second), Ref: imageName("r", "")}), true)
		if n := s.count.refused.Load(); heard != 0 || n != 1001 {
			t.Errorf("%d heard, %d refused", heard, n)
		}
		for i := range 5000 { // a flood: what is heard is as much as one may say
			s.hear(t.Context(), tells(t, Event{Kind: Moved, From: "m1", At: time.Now().Add(time.Duration(i)), Ref: imageName(fmt.Sprint("r", i), "1"), AsOf: time.Now()}), false)
		}
		for range 2 * mostInbox {
			g.NotifyMsg([]byte{eventVersion})
		}
		if heard > 2*sayBurst || s.count.dropped.Load() < 4000 || s.spread.NumQueued() > mostSpread || len(s.hints.words) > mostHints {
			t.Errorf("%d heard, %d dropped, %d to be passed on, %d remembered", heard, s.count.dropped.Load(), s.spread.NumQueued(), len(s.hints.words))
		}
		s.hear(t.Context(), tells(t, Event{Kind: Purged, From: "m2", At: time.Now(), Ref: imageName("other", "")}), false)
		if heard > 2*sayBurst+1 {
			t.Errorf("%d heard", heard)
		}
	})
}

// A kind of a newer version is passed on and otherwise passed over.
func TestEventOfANewerVersion(t *testing.T) {
	s := talkers(func(_ context.Context, e Event) { t.Errorf("heard %+v", e) })
	raw := append(tells(t, Event{Kind: 99, From: "m1", At: time.Now()}), 250, 1, 7)
	s.hear(t.Context(), raw, false)
	if out := s.spread.GetBroadcasts(1, 1300); len(out) != 1 || !bytes.Equal(out[0], raw) {
		t.Errorf("%q is passed on", out)
	}
}

func FuzzEvent(f *testing.F) {
	for _, e := range said() {
		f.Add(tells(f, e))
	}
	f.Add([]byte{eventVersion, tagKind, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEvent(b)
		if err != nil {
			return
		}
		if again, err := e.encode(); err == nil { // what is written may be longer: digests are texts, fields come once
			if back, err := decodeEvent(again); err != nil || !reflect.DeepEqual(back, e) {
				t.Errorf("%v\n got %+v\nwant %+v", err, back, e)
			}
		}
		if len(e.subject()) > 2*eventMax {
			t.Errorf("a subject of %d bytes", len(e.subject()))
		}
		s := talkers(nil)
		state := append([]byte{}, b...)
		s.merge(t.Context(), state)
		s.hear(t.Context(), b, false)
		if raw, rest, ok := cutWord(b); ok && len(raw)+len(rest) >= len(b) {
			t.Errorf("%d bytes are %d and %d", len(b), len(raw), len(rest))
		}
	})
}
