package main

import (
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// TestUnpinsCopies: a pin that is taken back anywhere is, here too, where only a copy of it is, and is not taken again.
func TestUnpinsCopies(t *testing.T) {
	bubble(t, "copies", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "1", origintest.Spec{})
		w := inBubble(t, o)
		w.pulls("1", img)
		time.Sleep(time.Second)
		ref := cache.Ref{Registry: "docker.io", Repo: repo, Kind: cache.KindManifest, Tag: "1"}
		pin := func(owner string) cache.Pin {
			t.Helper()
			p := cache.Pin{Ref: ref, Owner: owner, At: time.Now(), Parts: []cache.Part{
				{Ref: ref.At(img.Top.Digest), Desc: cache.Desc{Digest: img.Top.Digest, Size: img.Top.Content.Size()}},
			}}
			if err := w.store.Pin(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			return p
		}
		before := time.Now()
		time.Sleep(time.Second)
		mine := pin(cluster.HeldFor("m1", byHand))
		rules := pin(cluster.HeldFor("m1", "rules"))
		if n, err := unpinOlder(w.store, ref, before); n != 0 || err != nil || unpinnedSince(w.store)(mine) {
			t.Errorf("as of a time before it was set: %d, %v", n, err)
		}
		time.Sleep(time.Second)
		if n, err := unpinOlder(w.store, ref, time.Now()); n != 1 || err != nil || !unpinnedSince(w.store)(mine) || unpinnedSince(w.store)(rules) {
			t.Errorf("%d, %v", n, err)
		}
		if left := w.store.Pins(); len(left) != 1 || left[0].Owner != rules.Owner {
			t.Errorf("%+v", left)
		}
		c := &clustering{store: w.store, hearing: newHearing(), log: zap.NewNop()}
		close(c.hearing.opened)
		own := pin("rules")
		c.heard(t.Context(), cluster.Event{Kind: cluster.Unpinned, From: "m2", At: time.Now(), Ref: ref, Of: own.Owner})
		if len(w.store.Pins()) != 2 {
			t.Error("another member has unpinned what a rule of this one pins")
		}
		if _, err := (ruled{w.store, nil}).Unpin(own.Owner, ref); err != nil {
			t.Fatal(err)
		}
		c.heard(t.Context(), cluster.Event{Kind: cluster.Unpinned, From: "m2", At: time.Now(), Ref: ref, Of: cluster.HeldFor("m2", "rules")})
		if len(w.store.Pins()) != 1 {
			t.Error("a rule of m2 means it no longer, and the copy of what m1 pins is gone")
		}
		c.heard(t.Context(), cluster.Event{Kind: cluster.Unpinned, From: "m1", At: time.Now(), Ref: ref, Of: rules.Owner})
		if left := w.store.Pins(); len(left) != 0 || !unpinnedSince(w.store)(rules) {
			t.Errorf("no rule means it any more, and the copy stays: %+v", left)
		}
		time.Sleep(time.Second)
		if again := pin(byHand); unpinnedSince(w.store)(again) {
			t.Error("a pin that was set later counts as taken back")
		}
	})
}

// TestRulesTellWhatTheyUnpin: what a rule has unpinned is told to the others, and what was not pinned is not.
func TestRulesTellWhatTheyUnpin(t *testing.T) {
	members, err := cluster.Join(t.Context(), cluster.Options{Name: "m1", Bind: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	store, err := cache.New(t.Context(), nil, cache.Options{Dir: t.TempDir(), ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ref := cache.Ref{Registry: "docker.io", Repo: repo, Kind: cache.KindManifest, Tag: "1"}
	if err := store.Pin(t.Context(), cache.Pin{Ref: ref, Owner: "rules"}); err != nil {
		t.Fatal(err)
	}
	rules := ruled{store, &clustering{members: members}}
	for _, was := range []bool{true, false} {
		if ok, err := rules.Unpin("rules", ref); ok != was || err != nil {
			t.Errorf("%t, %v", ok, err)
		}
		if told := members.Stats().Events.Sent; told != 1 {
			t.Errorf("%d were told", told)
		}
	}
}
