package cluster_test

import (
	"bytes"
	"compress/lzw"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/tidepool-oci/tidepool/cluster"
)

// real are two members on loopback, over UDP and TCP as in life.
func real(t *testing.T) (one, two *cluster.Members, at string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skip("there is no 127.0.0.2 here: ", err)
	}
	at = free.Addr().String()
	free.Close()
	join := func(name, bind string, seeds ...string) *cluster.Members {
		m, err := cluster.Join(t.Context(), cluster.Options{
			Name: name, Bind: bind, Secrets: secrets(secretA), Join: seeds, PeerAddr: ":5002", Rejoin: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		m.SetState(cluster.Ready)
		return m
	}
	one, two = join("one", at), join("two", "127.0.0.3:0", at)
	both(t, one)
	both(t, two)
	return one, two, at
}

// patience is how long anything may take that takes a moment on an idle machine. It is only ever waited out by a test that
// fails.
const patience = time.Minute

// both waits until m knows two that are ready.
func both(t *testing.T, m *cluster.Members) {
	t.Helper()
	late := time.After(patience)
	for {
		changed := m.Changed()
		if len(m.View().Ring.Owners(1, 2)) == 2 {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%s knows %v", m.View().Self, m.View().Members)
		}
	}
}

// garbage is what a stranger may send who knows how memberlist frames its messages (net.go there), and not the key.
func garbage() [][]byte {
	random := rand.New(rand.NewPCG(11, 72))
	label := append([]byte{244, 8}, "tidepool"...)           // the label header of this cluster, which is no secret
	huge := binary.BigEndian.AppendUint32([]byte{10}, 1<<31) // "encrypted, 2 GiB follow"
	var all [][]byte
	for kind := range 256 { // each kind of message, alone, with a count that promises more than there is, and with noise
		all = append(all, []byte{byte(kind)}, append([]byte{byte(kind)}, 0xdd, 0xff, 0xff, 0xff, 0xff))
		noise := make([]byte, 1+random.IntN(1400))
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		all = append(all, append([]byte{byte(kind)}, noise...))
	}
	all = append(all, nil, huge, bytes.Repeat([]byte{9}, 1400), []byte("GET / HTTP/1.1\r\n\r\n"))
	for _, b := range all[:len(all):len(all)] {
		all = append(all, append(bytes.Clone(label), b...))
	}
	return all
}

// Garbage to the gossip port changes nothing: not the view, and not the memory for longer than it takes to refuse it.
func TestGarbageChangesNothing(t *testing.T) {
	one, two, at := real(t)
	view := one.View()
	heap := inUse()
	sent := 0
	for _, b := range garbage() {
		send(t, at, b, b)
		sent += 2
	}
	shrinksTo(t, heap+64<<20)
	t.Logf("%d messages, %d refused", sent, one.Stats().Refused)
	if one.View() != view || len(two.View().Members) != 2 {
		t.Errorf("the view is now %+v", one.View())
	}
	if one.Stats().Refused < 1000 {
		t.Errorf("%d refused", one.Stats().Refused)
	}
	stillHears(t, one, two)
}

// send sends a packet, and a stream to whose answer it waits.
func send(t *testing.T, to string, packet, stream []byte) {
	t.Helper()
	udp, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	udp.Write(packet) // one that is too long for UDP is not sent
	tcp, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	tcp.SetDeadline(time.Now().Add(patience))
	tcp.Write(stream)
	tcp.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, io.LimitReader(tcp, 1<<20))
}

// stillHears has one member say something to the other.
func stillHears(t *testing.T, one, two *cluster.Members) {
	t.Helper()
	two.SetState(cluster.Draining)
	late := time.After(patience)
	for {
		changed := one.Changed()
		if one.View().Members["two"].State == cluster.Draining {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatal("it is deaf")
		}
	}
}

// One with the key is trusted, and still breaks nothing by messages that promise more than they hold, or unpack to more
// than anybody needs.
func TestGarbageWithTheKeyBreaksNothing(t *testing.T) {
	one, two, at := real(t)
	heap := inUse()
	all := append(garbage(), bomb(t, 64<<20), bomb(t, 30<<20)) // the limit is 40
	for _, b := range all {
		if len(b) == 0 || b[0] == 5 || b[0] == 3 { // of two bytes, "dead" and "suspect" can be true by chance
			continue
		}
		send(t, at, sealed(t, b, false), sealed(t, b, true))
	}
	shrinksTo(t, heap+64<<20)
	if n := len(one.View().Members); n != 2 {
		t.Errorf("%d members: %v", n, one.View().Members)
	}
	stillHears(t, one, two)
}

// bomb is a compressed message that unpacks to n zeros.
func bomb(t *testing.T, n int) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := lzw.NewWriter(&packed, lzw.LSB, 8)
	for zeros := make([]byte, 1<<20); n > 0; n -= len(zeros) {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	msg := append([]byte{9, 0x82, 0xa4}, "Algo\x00\xa3Buf\xc6"...) // MessagePack: a map of two
	return append(binary.BigEndian.AppendUint32(msg, uint32(packed.Len())), packed.Bytes()...)
}

// sealed is a message as a member sends it, as a packet or as a stream (memberlist's security.go and net.go).
func sealed(t *testing.T, msg []byte, stream bool) []byte {
	t.Helper()
	block, err := aes.NewCipher(gossipKey(t))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	label, with, head := "tidepool", []byte(nil), []byte{244, 8}
	head = append(head, label...)
	if stream {
		with = binary.BigEndian.AppendUint32([]byte{10}, uint32(1+gcm.NonceSize()+len(msg)+gcm.Overhead()))
		head = append(head, with...)
	}
	nonce := make([]byte, gcm.NonceSize())
	return gcm.Seal(append(append(head, 1), nonce...), nonce, msg, append(with, label...))
}

// shrinksTo waits until the heap is no larger: what was sent last may still be in somebody's hands.
func shrinksTo(t *testing.T, most int64) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(patience); inUse() > most; <-tick.C {
		if time.Now().After(late) {
			t.Errorf("the heap is %d MiB larger than it may be", (inUse()-most)>>20)
			return
		}
	}
}

func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// One with the key who lies about itself comes into the gossip at most, and into no view.
func TestAMemberThatLies(t *testing.T) {
	for what, lie := range map[string]struct {
		name string
		meta []byte
	}{
		"a name for many":       {"*", []byte{1, 4, 1, 1}},
		"an address for a name": {"10.0.0.1", []byte{1, 4, 1, 1}},
		"a long name":           {strings.Repeat("n", 200), []byte{1, 4, 1, 1}},
		"another version":       {"liar", []byte{9, 4, 1, 1}},
		"a length beyond":       {"liar", []byte{1, 4, 200, 1}},
		"nothing":               {"liar", nil},
		"another's URL":         {"liar", append([]byte{1, 1, 12}, "a/b?c#d:5002"...)},
	} {
		t.Run(what, func(t *testing.T) {
			inField(t, func(t *testing.T, f *field) {
				f.joinAll(2)
				view, other := f.all["m1"].View(), f.all["m2"].View()
				liar := f.bare(lie.name, 4, lie.meta)
				defer liar.Shutdown()
				liar.Join([]string{host(1).String()})
				time.Sleep(time.Minute)
				if f.all["m1"].View() != view || f.all["m2"].View() != other {
					t.Errorf("the view is now %+v", f.all["m1"].View())
				}
			})
		})
	}
}

// A member of a later version is one, as far as this one understands it.
func TestAMemberOfALaterVersion(t *testing.T) {
	inField(t, func(t *testing.T, f *field) {
		f.joinAll(2)
		later := f.bare("later", 4, append([]byte{1, 4, 1, 1, 77, 3}, "new"...))
		defer later.Shutdown()
		later.Join([]string{host(1).String()})
		f.until("it is on the ring", 10*time.Second, func() bool { return len(f.all["m2"].View().Ring.Owners(1, 9)) == 3 })
	})
}

// says is a delegate with nothing but a meta.
type says []byte

func (s says) NodeMeta(int) []byte           { return s }
func (says) NotifyMsg([]byte)                {}
func (says) GetBroadcasts(int, int) [][]byte { return nil }
func (says) LocalState(bool) []byte          { return nil }
func (says) MergeRemoteState([]byte, bool)   {}

var _ memberlist.Delegate = says(nil)
