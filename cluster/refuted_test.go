package cluster_test

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
)

// accusation is a packet that takes a member for dead, as one says who has missed it (memberlist's net.go). The member
// refutes it.
func accusation(t *testing.T, name string, incarnation uint32) []byte {
	t.Helper()
	msg := append([]byte{3, 0x83, 0xab}, "Incarnation\xce"...) // MessagePack: a map of three
	msg = binary.BigEndian.AppendUint32(msg, incarnation)
	msg = append(append(msg, 0xa4), "Node"...)
	msg = append(append(msg, 0xa0|byte(len(name))), name...)
	msg = append(append(msg, 0xa4), "From\xa1x"...)
	return sealed(t, msg, false)
}

// accused has a member be accused without end.
func accused(t *testing.T, name, at string) {
	t.Helper()
	to, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	var accusing sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		accusing.Wait()
		to.Close()
	})
	accusing.Go(func() {
		for n := uint32(1000); ; n += 10 { // each is of later than the last refutation, for hours: there is no end of numbers
			select {
			case <-stop:
				return
			default:
				to.Write(accusation(t, name, n))
			}
		}
	})
}

// What a member says of itself reaches the others also when a refutation comes between: memberlist drops it then.
func TestWhoRefutesIsHeard(t *testing.T) {
	one, two, at := real(t)
	accused(t, "one", at)
	for i := range 40 {
		state := []cluster.State{cluster.Draining, cluster.Ready}[i%2]
		began, late := time.Now(), time.After(patience)
		one.SetState(state)
		for changed := two.Changed(); two.View().Members["one"].State != state; changed = two.Changed() {
			select {
			case <-changed:
			case <-late:
				t.Fatalf("what one has said for the %d. time is not heard: %+v", i+1, two.View().Members["one"])
			}
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Logf("the %d. time it was heard after %v", i+1, took)
			return // it was dropped once, and said again
		}
	}
	t.Log("nothing was dropped")
}
