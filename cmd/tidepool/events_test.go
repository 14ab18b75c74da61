package main

import (
	"testing"
	"time"

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
		time.Sleep(time.Second)
		if again := pin(byHand); unpinnedSince(w.store)(again) {
			t.Error("a pin that was set later counts as taken back")
		}
	})
}
