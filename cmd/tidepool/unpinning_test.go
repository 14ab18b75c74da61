package main

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
)

// amid is the warming of a member, m1, that is alone now, and an image.
func amid(t *testing.T) (*warming, cache.Ref) {
	t.Helper()
	members, err := cluster.Join(t.Context(), cluster.Options{Name: "m1", Bind: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	store, err := cache.New(t.Context(), nil, cache.Options{Dir: t.TempDir(), ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := members.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &clustering{name: "m1", members: members, store: store, router: &cluster.Router{Remotes: new(cluster.Remotes)}, hearing: newHearing(), log: zap.NewNop()}
	close(c.hearing.opened)
	return &warming{store: store, cluster: c}, cache.Ref{Registry: "docker.io", Repo: repo, Kind: cache.KindManifest, Tag: "1"}
}

// TestUnpinWhatRulesLeft: what was pinned by hand and for rules of members that are gone is unpinned, and what a rule of a
// member that is there pins is kept, of which the answer names the member.
func TestUnpinWhatRulesLeft(t *testing.T) {
	w, ref := amid(t)
	places := []cache.Ref{ref}
	pin := func(owner string) {
		t.Helper()
		if err := w.store.Pin(t.Context(), cache.Pin{Ref: ref, Owner: owner}); err != nil {
			t.Fatal(err)
		}
	}
	unpin := func() (one unpinnedDoc, err error) {
		t.Helper()
		pins, silent := w.pinnedIn(t.Context(), []lookedUp{{places: places}})
		if len(silent) > 0 {
			t.Error(silent)
		}
		return one, w.unpin(&one, places, pins[0], silent)
	}
	if _, err := unpin(); err == nil || !strings.Contains(err.Error(), "not pinned") {
		t.Errorf("of nothing: %v", err)
	}
	pin("rules")
	if _, err := unpin(); err == nil || !strings.Contains(err.Error(), "a rule of m1") {
		t.Errorf("of a rule's: %v", err)
	}
	gone := cluster.HeldFor("m9", "rules")
	pin(gone)
	pin(cluster.HeldFor("m8", byHand))
	if err := pinnedError([]cluster.PinnedAt{{Pin: cache.Pin{Ref: ref, Owner: gone}, Member: "m2"}}, w.cluster); err == nil ||
		!strings.Contains(err.Error(), "m9, which is gone: unpin it first") {
		t.Error(err)
	}
	one, err := unpin()
	if err != nil || !one.Unpinned || strings.Join(one.Gone, " ") != "m9" || strings.Join(one.Rules, " ") != "m1" || strings.Join(one.At, " ") != "m1" {
		t.Errorf("%+v, %v", one, err)
	}
	if left := w.store.Pins(); len(left) != 1 || left[0].Owner != "rules" {
		t.Errorf("left are %+v", left)
	}
	if again := (cache.Pin{Ref: ref, Owner: gone, At: time.Now().Add(-time.Hour)}); !unpinnedSince(w.store)(again) {
		t.Error("the copy would be taken again from who keeps another")
	}
	if said := one.where(); !strings.Contains(said, "rules of m9") || !strings.Contains(said, "pinned by rules of m1") {
		t.Error(said)
	}
	// One that was missing, or away, is told of its own rule's copies.
	before := w.store.Pins()[0].At
	w.cluster.heard(t.Context(), cluster.Event{Kind: cluster.Unpinned, From: "m2", At: time.Now().Add(time.Minute), Ref: ref, Of: cluster.HeldFor("m1", "rules")})
	if left := w.store.Pins(); len(left) != 1 || left[0].At.Sub(before) < time.Minute {
		t.Errorf("set at %v, and now %+v: the others would not take it again", before, left)
	}
}

// TestUnpinOfTheSilent: who does not say what it has pinned is told, and named.
func TestUnpinOfTheSilent(t *testing.T) {
	w, ref := amid(t)
	var one unpinnedDoc
	err := w.unpin(&one, []cache.Ref{ref}, nil, []string{"m3"})
	if err == nil || !strings.Contains(err.Error(), "m3 did not answer") || w.cluster.members.Stats().Events.Sent != 1 {
		t.Errorf("%v, %d told", err, w.cluster.members.Stats().Events.Sent)
	}
}

// TestUnpinOfOneThatJustLeft: what a rule of a member pins there, which has left since it said so, is no copy that is left
// of it: nothing is unpinned, and least of all what this member's own rule of that name pins.
func TestUnpinOfOneThatJustLeft(t *testing.T) {
	w, ref := amid(t)
	if err := w.store.Pin(t.Context(), cache.Pin{Ref: ref, Owner: "rules"}); err != nil {
		t.Fatal(err)
	}
	its := []cluster.PinnedAt{{Pin: cache.Pin{Ref: ref, Owner: "rules"}, Member: "m5"}}
	var one unpinnedDoc
	if err := w.unpin(&one, []cache.Ref{ref}, its, nil); err == nil || !strings.Contains(err.Error(), "a rule of m5") || len(w.store.Pins()) != 1 {
		t.Errorf("%v, %+v, left are %+v", err, one, w.store.Pins())
	}
	if err := pinnedError(its, w.cluster); err == nil || !strings.Contains(err.Error(), "by a rule of m5") {
		t.Error(err)
	}
}
