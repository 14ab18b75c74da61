package cache

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Who waits inside a database that another use has broken is left behind: see base.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/tidepool-oci/tidepool/cache.(*table).ask.func1"))
}

func TestPull(t *testing.T) {
	for _, size := range []int{0, 1, 1000, smallBlob, smallBlob + 1, 3 << 20} {
		for _, mode := range []string{"", "rigid", "blind", "rigid and blind"} {
			h := newHub()
			h.rigid, h.blind = mode[:min(5, len(mode))] == "rigid", len(mode) > 0 && mode[len(mode)-5:] == "blind"
			data := noise(1, size)
			ref := h.put("docker.io", "library/a", data)
			c := open(t, h, Options{})
			for i := range 3 {
				got, from, err := pull(t.Context(), c, ref, data)
				if err != nil {
					t.Fatalf("%d %s #%d: %d bytes from %s, %v", size, mode, i, got, from, err)
				}
				if i > 0 && from == FromUpstream {
					t.Errorf("%d %s #%d from %s", size, mode, i, from)
				}
			}
			if gets, heads := h.asked(); gets != 1 || heads != 0 {
				t.Errorf("%d %s: asked %q, %q", size, mode, h.opens, h.heads)
			}
		}
	}
}
