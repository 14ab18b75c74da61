package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
)

// liar is a member that sends something else, whoever is to be asked instead.
type liar struct{ asked atomic.Int64 }

func (l *liar) Resolve(ctx context.Context, ref Ref, want Want) (Answer, error) {
	return l.Open(ctx, ref, want)
}

func (l *liar) Open(_ context.Context, ref Ref, _ Want) (Answer, error) {
	if l.asked.Add(1) > 100 {
		return Answer{}, errors.New("asked without end")
	}
	body := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)
	d := ref.Digest
	if d.IsZero() {
		d = Sum([]byte("something else"))
	}
	a := Answer{Desc: Desc{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: d, Size: int64(len(body))}, Via: "another"}
	a.Body = io.NopCloser(bytes.NewReader(body))
	return a, nil
}

// TestLiarAskedAgain: a manifest that is not what it should be is asked for once more, and then refused, also where the
// second answer comes from a member again.
func TestLiarAskedAgain(t *testing.T) {
	manifest := Ref{Registry: "docker.io", Repo: "library/app", Kind: KindManifest}
	byTag := manifest
	byTag.Tag = "1"
	for name, ref := range map[string]Ref{"by digest": manifest.At(Sum([]byte("x"))), "by tag": byTag} {
		t.Run(name, func(t *testing.T) {
			l := new(liar)
			c, err := New(t.Context(), l, Options{Dir: t.TempDir(), Disk: 1 << 20, ScrubRate: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Open(t.Context(), ref, Whole); !errors.Is(err, ErrCorrupt) {
				t.Error(err)
			}
			if n := l.asked.Load(); n > 2 {
				t.Errorf("it was asked %d times", n)
			}
		})
	}
}
