package cluster_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"io"
	"log"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/tidepool-oci/tidepool/cluster"
)

// Who lacks the key, or has another, or gossips for another cluster, never joins, however often it tries; and those who
// are in notice nothing of it but in their counts.
func TestStrangersNeverJoin(t *testing.T) {
	inside := func(o *cluster.Options) { o.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30")} } // hosts 1 to 3
	for what, change := range map[string]func(*cluster.Options){
		"another key":   func(o *cluster.Options) { o.Secrets = secrets(secretB) },
		"another label": func(o *cluster.Options) { o.Label = "other" },
		"elsewhere":     func(o *cluster.Options) { o.PeerAddr = "10.0.0.2:5002" }, // its peer listener would pass
	} {
		t.Run(what, func(t *testing.T) {
			inField(t, func(t *testing.T, f *field) {
				f.joinAll(3, inside)
				before := f.all["m1"].View()
				stranger := f.join("m4", 4, change, func(o *cluster.Options) { o.Rejoin = 100 * time.Millisecond })
				stranger.SetState(cluster.Ready)
				time.Sleep(20 * time.Minute) // ten thousand tries and more
				if f.all["m1"].View() != before {
					t.Errorf("it is in: %s", f)
				}
				if lone := what != "elsewhere"; lone != (stranger.Trouble() != nil && strings.Contains(stranger.Trouble().Error(), "the same secret")) {
					t.Errorf("its trouble: %v", stranger.Trouble())
				}
				if err := f.all["m1"].Trouble(); err != nil {
					t.Errorf("a member's trouble: %v", err)
				}
				tries := f.all["m1"].Stats().Refused
				t.Logf("%d were counted", tries)
				if tries < 10000 && what != "elsewhere" {
					t.Errorf("%d tries were counted, want ten thousand", tries)
				}
			})
		})
	}
}

// One without any key is bare memberlist: Join refuses to be that beyond loopback.
func TestOneWithoutAKeyNeverJoins(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(3)
		before := f.all["m1"].View()
		transport, err := f.net.Listen(host(4))
		if err != nil {
			t.Fatal(err)
		}
		c := memberlist.DefaultLANConfig()
		c.Name, c.Label, c.Transport, c.Logger = "m4", "tidepool", transport, log.New(io.Discard, "", 0)
		list, err := memberlist.Create(c)
		if err != nil {
			t.Fatal(err)
		}
		defer list.Shutdown()
		for range 100 {
			if n, err := list.Join([]string{host(1).String()}); n > 0 || err == nil {
				t.Fatalf("it joined %d", n)
			}
		}
		time.Sleep(time.Minute)
		if f.all["m1"].View() != before || list.NumMembers() != 1 {
			t.Errorf("it is in: %s", f)
		}
	})
}

// Nothing on the wire tells a name to who has no key.
func TestGossipIsEncrypted(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		var said int
		var plain [][]byte
		f.net.Tap(func(b []byte) {
			said += len(b)
			for _, word := range []string{"marsh", "mallow", "5002"} {
				if bytes.Contains(b, []byte(word)) {
					plain = append(plain, bytes.Clone(b))
				}
			}
		})
		f.join("marsh", 1).SetState(cluster.Ready)
		f.join("mallow", 2).SetState(cluster.Ready)
		f.until("they agree", 10*time.Second, f.agree)
		time.Sleep(5 * time.Minute)
		f.net.Tap(nil)
		if said < 10000 || len(plain) > 0 {
			t.Errorf("of %d bytes %d messages had a name in plain: %.300q", said, len(plain), plain)
		}
	})
}

// The three steps at one member after the other, half a minute apart, under way: no view changes.
func TestRotationDropsNobody(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(5)
		before := map[string]uint64{}
		for name, m := range f.all {
			before[name] = m.View().Version
		}
		for _, step := range [][][]byte{secrets(secretA, secretB), secrets(secretB, secretA), secrets(secretB)} {
			for _, m := range f.all {
				if err := m.Follow(step); err != nil {
					t.Fatal(err)
				}
				time.Sleep(30 * time.Second)
			}
		}
		for name, m := range f.all {
			if n := m.View().Version - before[name]; n != 0 {
				t.Errorf("the view of %s changed %d times: %s", name, n, f)
			}
			if err := m.Follow(nil); err == nil {
				t.Error("no secret at all was taken")
			}
		}
		members := f.all
		f.all = map[string]*cluster.Members{}
		f.join("m9", 9).SetState(cluster.Ready) // with the old secret
		time.Sleep(10 * time.Minute)
		if len(f.all["m9"].View().Members) != 1 || len(members["m1"].View().Members) != 5 {
			t.Error("one with the old secret joined")
		}
		f.kill("m9")
		f.join("m9", 9, func(o *cluster.Options) { o.Secrets = secrets(secretB) }).SetState(cluster.Ready)
		for name, m := range members {
			f.all[name] = m
		}
		f.until("one with the new secret is in", 10*time.Second, f.agree)
	})
}

// One that is not given the new secret is out when the old one is.
func TestARemovedMemberIsOut(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(4)
		for _, step := range [][][]byte{secrets(secretA, secretB), secrets(secretB, secretA), secrets(secretB)} {
			for _, name := range []string{"m1", "m2", "m3"} {
				if err := f.all[name].Follow(step); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
		}
		f.until("the three are by themselves", time.Minute, func() bool { return f.agreeAmong("m1", "m2", "m3") })
		time.Sleep(time.Hour)
		if !f.agreeAmong("m1", "m2", "m3") || !f.agreeAmong("m4") {
			t.Errorf("an hour later: %s", f)
		}
	})
}

// bare is memberlist itself with the cluster's key: one that says of itself what it likes.
func (f *field) bare(name string, n int, meta []byte) *memberlist.Memberlist {
	f.t.Helper()
	transport, err := f.net.Listen(host(n))
	if err != nil {
		f.t.Fatal(err)
	}
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.Transport, c.SecretKey, c.Logger = name, "tidepool", transport, gossipKey(f.t), log.New(io.Discard, "", 0)
	c.Delegate = says(meta)
	list, err := memberlist.Create(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return list
}

// gossipKey is the key of secretA, in words of its own: members of two versions must derive the same.
func gossipKey(t *testing.T) []byte {
	t.Helper()
	key, err := hkdf.Key(sha256.New, []byte(secretA), nil, "tidepool cluster gossip v1", 32)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
