package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

const image = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[],"annotations":{"n":"%d"}}`

func manifestOf(n int) []byte { return fmt.Appendf(nil, image, n) }

// readTag pulls a manifest by its tag.
func readTag(t *testing.T, c *Cache, ref Ref) ([]byte, Found, error) {
	t.Helper()
	b, err := c.Open(t.Context(), ref, Whole)
	if err != nil {
		return nil, Found{}, err
	}
	return b.Bytes(), b.Found, b.Close()
}

// TestNameAges follows a tag through its life: fresh, aged, unchanged, moved, out of reach, gone.
func TestNameAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		ref := h.tag("docker.io", "library/a", "1", manifestOf(1))
		c := open(t, h, Options{})
		expect := func(when string, want []byte, stale bool, gets, heads int) {
			t.Helper()
			got, found, err := readTag(t, c, ref)
			g, hd := h.asked()
			if err != nil || !bytes.Equal(got, want) || found.Stale() != stale || g != gets || hd != heads {
				t.Errorf("%s: %q, stale %t, %v; %d GETs, %d HEADs", when, got, found.Stale(), err, g, hd)
			}
		}
		expect("never seen", manifestOf(1), false, 1, 0)
		time.Sleep(4 * time.Minute)
		expect("fresh", manifestOf(1), false, 1, 0)
		time.Sleep(2 * time.Minute)
		together(200, func(int) {
			if _, err := c.Stat(t.Context(), ref); err != nil {
				t.Error(err)
			}
		})
		expect("aged, asked for by 200", manifestOf(1), false, 1, 1)
		h.tag("docker.io", "library/a", "1", manifestOf(2))
		time.Sleep(6 * time.Minute)
		expect("moved", manifestOf(2), false, 2, 2)
		time.Sleep(6 * time.Minute)
		h.set(func(h *hub) { h.down = true })
		expect("out of reach", manifestOf(2), true, 2, 3)
		expect("out of reach a moment later", manifestOf(2), true, 2, 3)
		h.set(func(h *hub) { h.down = false })
		time.Sleep(6 * time.Minute)
		held := ref.At(Sum(manifestOf(2)))
		h.set(func(h *hub) { clear(h.tags) })
		if _, _, err := readTag(t, c, ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("gone: %v", err)
		}
		if got, _, err := readTag(t, c, held); err != nil || !bytes.Equal(got, manifestOf(2)) {
			t.Errorf("gone, but pulled by digest before: %q, %v", got, err)
		}
	})
}

// TestSlowHub has a client wait for a known name for two seconds at most; the answer serves who comes later.
func TestSlowHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		ref := h.tag("docker.io", "library/a", "1", manifestOf(1))
		c := open(t, h, Options{})
		if _, _, err := readTag(t, c, ref); err != nil {
			t.Fatal(err)
		}
		h.tag("docker.io", "library/a", "1", manifestOf(2))
		h.set(func(h *hub) { h.head = func(request) error { time.Sleep(time.Minute); return nil } })
		time.Sleep(6 * time.Minute)
		began := time.Now()
		got, found, err := readTag(t, c, ref)
		if took := time.Since(began); took > 3*time.Second || !found.Stale() || err != nil || !bytes.Equal(got, manifestOf(1)) {
			t.Errorf("after %s: %q, stale %t, %v", took, got, found.Stale(), err)
		}
		time.Sleep(2 * time.Minute)
		if got, _, err = readTag(t, c, ref); err != nil || !bytes.Equal(got, manifestOf(2)) {
			t.Errorf("later: %q, %v", got, err)
		}
	})
}

// TestNamesOutliveTheProcess: a restart asks nobody about what is fresh, and serves what is not when the hub is down.
func TestNamesOutliveTheProcess(t *testing.T) {
	h, dir := newHub(), t.TempDir()
	ref := h.tag("docker.io", "library/a", "1", manifestOf(1))
	for range 2 {
		c, err := New(context.Background(), h, Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := readTag(t, c, ref)
		if err = errors.Join(err, c.Close()); err != nil || !bytes.Equal(got, manifestOf(1)) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if gets, heads := h.asked(); gets != 1 || heads != 0 {
		t.Errorf("%d GETs, %d HEADs", gets, heads)
	}
}

// lying is what a hostile registry has under somebody else's digest: the right length, and no idea of the content.
func lying(size int) content { return bytes.NewReader(make([]byte, size)) }

// TestHostileUpstream has a registry claim the digests of another's private content, which is held.
func TestHostileUpstream(t *testing.T) {
	for _, size := range []int{100, smallBlob, 1 << 20} {
		h := newHub()
		secret := noise(7, size)
		private := h.put("registry.corp", "secret/a", secret)
		h.have("evil.example", "x/y", private.Digest, lying(size))
		c := open(t, h, Options{Private: func(r string) bool { return r == "" || r == "registry.corp" }})
		if _, _, err := pull(t.Context(), c, private, secret); err != nil {
			t.Fatal(err)
		}
		claim := private
		claim.Registry, claim.Repo = "evil.example", "x/y"
		for range 2 { // what the first try taught must not help the second
			b, err := c.Open(t.Context(), claim, Whole)
			var got bytes.Buffer
			if err == nil {
				err = errors.Join(b.SendRange(t.Context(), &got, 0, -1), b.Close())
			}
			if err == nil || bytes.Contains(secret, got.Bytes()) && got.Len() > 0 {
				t.Errorf("%d bytes: %d came, %v", size, got.Len(), err)
			}
		}
		h.set(func(h *hub) { h.down = true })
		if b, err := c.Open(t.Context(), claim, Whole); err == nil {
			t.Errorf("%d bytes, out of reach: served", size)
			_ = b.Close()
		}
		if _, _, err := pull(t.Context(), c, private, secret); err != nil {
			t.Errorf("%d bytes: the owner's own: %v", size, err)
		}
	}
}

// TestPossession: a registry that shows that it has what is held for another need not send all of it.
func TestPossession(t *testing.T) {
	h := newHub()
	data := noise(8, 1<<20)
	one := h.put("docker.io", "library/a", data)
	two := h.put("ghcr.io", "org/a", data)
	c := open(t, h, Options{})
	for _, ref := range []Ref{one, two, two} {
		if _, _, err := pull(t.Context(), c, ref, data); err != nil {
			t.Fatal(err)
		}
	}
	if sent := h.bytes(one.Digest); sent > int64(len(data))+sample {
		t.Errorf("%d bytes were sent for %d and a sample", sent, len(data))
	}
}

// TestRepositories: within one registry, content that is held is served to a repository once the registry says yes.
func TestRepositories(t *testing.T) {
	h := newHub()
	data := noise(9, 1<<20)
	one := h.put("docker.io", "library/a", data)
	two := h.put("docker.io", "library/b", data)
	three := one
	three.Repo = "library/c"
	c := open(t, h, Options{})
	for _, ref := range []Ref{one, two, two} {
		if _, _, err := pull(t.Context(), c, ref, data); err != nil {
			t.Fatal(err)
		}
	}
	if gets, heads := h.asked(); gets != 1 || heads != 1 {
		t.Errorf("%d GETs, %d HEADs", gets, heads)
	}
	if _, _, err := pull(t.Context(), c, three, data); !errors.Is(err, ErrNotFound) {
		t.Errorf("a repository without it: %v", err)
	}
}

// TestPrivateLinksAge: a yes that was given to credentials is asked for again after a day, and not believed while
// nobody can be asked.
func TestPrivateLinksAge(t *testing.T) {
	now := time.Now()
	h := newHub()
	data := noise(10, 1<<20)
	ref := h.put("registry.corp", "a/b", data)
	c := open(t, h, Options{Private: func(string) bool { return true }, Now: func() time.Time { return now }})
	if _, _, err := pull(t.Context(), c, ref, data); err != nil {
		t.Fatal(err)
	}
	h.set(func(h *hub) { h.down = true })
	now = now.Add(23 * time.Hour)
	if _, _, err := pull(t.Context(), c, ref, data); err != nil {
		t.Errorf("within a day, out of reach: %v", err)
	}
	now = now.Add(2 * time.Hour)
	if _, _, err := pull(t.Context(), c, ref, data); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after a day, out of reach: %v", err)
	}
	h.set(func(h *hub) { h.down = false })
	h.lose(ref)
	if _, _, err := pull(t.Context(), c, ref, data); !errors.Is(err, ErrNotFound) {
		t.Errorf("after a day, revoked: %v", err)
	}
}

// TestHeldOnly starts nothing and asks nobody.
func TestHeldOnly(t *testing.T) {
	h := newHub()
	data := noise(11, 1<<20)
	blob := h.put("docker.io", "library/a", data)
	tag := h.tag("docker.io", "library/a", "1", manifestOf(1))
	c := open(t, h, Options{})
	for _, ref := range []Ref{blob, tag, tag.At(Sum(manifestOf(1)))} {
		if _, err := c.Open(t.Context(), ref, Want{N: -1, HeldOnly: true}); !errors.Is(err, ErrNotHeld) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if gets, heads := h.asked(); gets+heads > 0 {
		t.Errorf("%d GETs, %d HEADs", gets, heads)
	}
	if _, _, err := pull(t.Context(), c, blob, data); err != nil {
		t.Fatal(err)
	}
	b, err := c.Open(t.Context(), blob, Want{N: -1, HeldOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.SendRange(t.Context(), io.Discard, 0, -1), b.Close()); err != nil {
		t.Error(err)
	}
}
