package cluster

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Whoever reads the keys while they turn reads whole keys, and those that are kept among them: the race detector says
// whether the keyring changes what it handed out.
func TestKeysTurnUnderTheirReaders(t *testing.T) {
	secret := func(c string) []byte { return []byte(strings.Repeat(c, minSecret)) }
	a, b, c, kept := secret("a"), secret("b"), secret("c"), secret("k")
	ring, err := keyring([][]byte{a, kept})
	if err != nil {
		t.Fatal(err)
	}
	keep, err := derive(kept, labelGossip)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				if !slices.ContainsFunc(ring.GetKeys(), func(k []byte) bool { return bytes.Equal(k, keep) }) {
					t.Error("a key that is kept was not there")
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for range 200 {
		for _, next := range [][][]byte{{a, b, kept}, {b, kept, c}, {kept}, {kept, a}, {c, b, a, kept}, {a, kept}} {
			keys, err := gossipKeys(next)
			if err != nil {
				t.Fatal(err)
			}
			if err := turn(ring, keys); err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(ring.GetKeys(), keys, bytes.Equal) {
				t.Fatalf("%d keys, not the %d in their order", len(ring.GetKeys()), len(keys))
			}
		}
	}
	close(done)
	readers.Wait()
}
