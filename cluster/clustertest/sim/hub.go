package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// mood is how a hub answers.
type mood uint8

const (
	well     mood = iota
	slow          // its first byte takes seconds
	paced         // its bytes trickle
	broken        // 5xx
	limiting      // 429
	silent        // nothing, until whoever asks gives up
	cutting       // half of its bodies break off
	lying         // half of its bodies have a wrong byte
	moods
)

func (m mood) String() string {
	return [...]string{"well", "slow", "paced", "broken", "limiting", "silent", "cutting", "lying"}[m]
}

// good says whether who asks gets what there is, sooner or later.
func (m mood) good() bool { return m <= paced }

const (
	// giveUp is how long a member waits for a word of the hub, and for the next byte: about what the way out to real
	// hubs has.
	giveUp = 15 * time.Second
	// connect is how long it tries to reach the hub at all.
	connect = 5 * time.Second
	// stride is how much a paced hub sends at a time.
	stride = 32 << 10
)

// hub has the corpus, and notes what it is asked for.
type hub struct {
	corpus *corpus
	net    *network
	seed   uint64

	mu     sync.Mutex
	mood   mood
	takes  time.Duration // of a slow hub, until its first byte; of a paced one, for each stride
	since  time.Time     // since when it is good; zero: it is not
	asked  int           // requests, to tell one from another
	ledger *ledger
}

// hubHost is where the hub is on the network.
const hubHost = "hub"

func newHub(seed uint64, c *corpus, n *network) *hub {
	return &hub{corpus: c, net: n, seed: seed, since: time.Now(), ledger: newLedger()}
}

// turn changes its mood.
func (h *hub) turn(m mood, takes time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.takes = takes; !m.good() {
		h.since = time.Time{}
	} else if h.since.IsZero() {
		h.since = time.Now()
	}
	h.mood = m
}

// state is its mood, and since when it is good.
func (h *hub) state() (mood, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mood, h.since
}

// ledger is what was asked of the hub in one step, and what it sent.
type ledger struct {
	sent  map[cache.Digest]int64 // bytes of bodies that a member took
	opens map[cache.Digest]int   // GETs
	heads map[cache.Ref]int      // questions about names
	by    map[cache.Digest][]string
	gets  int
}

func newLedger() *ledger {
	return &ledger{sent: map[cache.Digest]int64{}, opens: map[cache.Digest]int{}, heads: map[cache.Ref]int{}, by: map[cache.Digest][]string{}}
}

// account returns what was noted since the last time.
func (h *hub) account() *ledger {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.ledger
	h.ledger = newLedger()
	return l
}

// uplink is one running member's way to the hub. It implements cache.Source.
type uplink struct {
	hub  *hub
	host string
	dead chan struct{} // closed when the member has crashed: it asks nobody any more

	mu    sync.Mutex
	fails int       // in a row
	until time.Time // it is not asked before
	why   string
}

const (
	// patience is how many failures in a row, however quick, have a hub be left alone; silence does at once, and for up
	// to mostRest: as the way out to real hubs has it.
	patience, mostRest = 3, 15 * time.Second
)

// outage says that the hub is left alone for now.
func (u *uplink) outage() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Now().Before(u.until) {
		return &cache.OutageError{Registry: registry, Until: u.until, Why: u.why}
	}
	return nil
}

// worked notes how a request went.
func (u *uplink) worked(err error, silence bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		u.fails = 0
		return nil
	}
	if u.fails++; silence || u.fails >= patience {
		u.until, u.why = time.Now().Add(min(mostRest, time.Second<<min(u.fails, 4))), err.Error()
	}
	return err
}

// moment is what the hub does to one request.
type handling struct {
	mood
	takes time.Duration
	luck  uint64
}

// arrive is a request that comes in.
func (u *uplink) arrive(ref cache.Ref, d cache.Digest, get bool) handling {
	h := u.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	switch {
	case !get:
		h.ledger.heads[ref]++
	default:
		h.ledger.gets++
		h.ledger.opens[d]++
		h.ledger.by[d] = append(h.ledger.by[d], u.host)
	}
	f := fnv.New64a()
	_ = binary.Write(f, binary.LittleEndian, []uint64{h.seed, uint64(h.asked)}) // a hash takes all
	return handling{h.mood, h.takes, f.Sum64()}
}

// Resolve implements cache.Source.
func (u *uplink) Resolve(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	a, _, _, err := u.ask(ctx, ref, false)
	if err == nil && a.Digest == want.Known {
		err = cache.ErrUnchanged
	}
	return a, err
}

// Open implements cache.Source.
func (u *uplink) Open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	a, b, does, err := u.ask(ctx, ref, true)
	if err != nil {
		return a, err
	}
	end := int64(len(b))
	if want.N >= 0 {
		end = min(end, want.Off+want.N)
	}
	a.Off = want.Off
	if want.Off > end {
		return a, fmt.Errorf("%s: it has %d bytes, asked from %d on: %w", ref, len(b), want.Off, cache.ErrCorrupt)
	}
	b = b[want.Off:end]
	s := &sending{up: u, ctx: ctx, digest: a.Digest, left: b}
	switch {
	case does.mood == cutting && does.luck%2 == 0 && len(b) > 0:
		s.left, s.cut = b[:does.luck/2%uint64(len(b))], true
	case does.mood == lying && does.luck%2 == 0 && len(b) > 0:
		s.left = bytes.Clone(b)
		s.left[does.luck/2%uint64(len(b))] ^= 1
	case does.mood == paced:
		s.pace = does.takes
	}
	a.Body = s
	return a, nil
}

// ask is a request up to the head of its answer.
func (u *uplink) ask(ctx context.Context, ref cache.Ref, get bool) (cache.Answer, []byte, handling, error) {
	if err := u.outage(); err != nil {
		return cache.Answer{}, nil, handling{}, err
	}
	if !u.reach(ctx, connect) {
		if ctx.Err() != nil {
			return cache.Answer{}, nil, handling{}, ctx.Err()
		}
		return cache.Answer{}, nil, handling{}, u.worked(fmt.Errorf("%s: the hub cannot be reached: %w", ref, cache.ErrUnavailable), true)
	}
	d, b, found := u.hub.corpus.now(ref)
	does := u.arrive(ref, d, get)
	var err error
	wait := 20 * time.Millisecond
	switch does.mood {
	case slow:
		wait = does.takes
	case broken:
		err = fmt.Errorf("%s: 503 of the hub: %w", ref, cache.ErrUnavailable)
	case limiting:
		err = &cache.LimitedError{Registry: registry, Of: cache.LimitOnRequests, Until: time.Now().Add(time.Minute)}
	case silent:
		wait, err = giveUp, fmt.Errorf("%s: the hub says nothing: %w", ref, cache.ErrUnavailable)
	default:
	}
	if e := u.pause(ctx, wait); e != nil {
		return cache.Answer{}, nil, does, e
	}
	if does.mood != limiting { // of which the ledger of limits knows
		err = u.worked(err, does.mood == silent)
	}
	if err == nil && !found {
		err = fmt.Errorf("%s: %w", ref, cache.ErrNotFound)
	}
	if err != nil {
		return cache.Answer{}, nil, does, err
	}
	a := cache.Answer{Desc: cache.Desc{Digest: d, Size: int64(len(b))}}
	if ref.Kind == cache.KindManifest {
		a.MediaType = manifestType
	}
	return a, b, does, nil
}

// reach waits until the hub is heard of, for as long as a member does.
func (u *uplink) reach(ctx context.Context, patience time.Duration) bool {
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		there, changed := u.hub.net.open(u.host, hubHost)
		back, _ := u.hub.net.open(hubHost, u.host)
		if there && back {
			return ctx.Err() == nil && !over(u.dead)
		}
		select {
		case <-changed:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		case <-u.dead:
			return false
		}
	}
}

func (u *uplink) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-u.dead:
		return cache.ErrClosed
	}
}

func over(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// sending is a body on its way.
type sending struct {
	up     *uplink
	ctx    context.Context
	digest cache.Digest
	left   []byte
	cut    bool          // it breaks off
	pace   time.Duration // for each stride
}

// Read implements io.Reader.
func (s *sending) Read(p []byte) (int, error) {
	if !s.up.reach(s.ctx, giveUp) {
		return 0, fmt.Errorf("the hub went silent: %w", cache.ErrUnavailable)
	}
	if len(s.left) == 0 {
		if s.cut {
			return 0, fmt.Errorf("the hub breaks off: %w: %w", io.ErrUnexpectedEOF, cache.ErrUnavailable)
		}
		return 0, io.EOF
	}
	n := min(len(p), len(s.left))
	if s.pace > 0 {
		n = min(n, stride)
		if err := s.up.pause(s.ctx, s.pace); err != nil {
			return 0, err
		}
	}
	copy(p, s.left[:n])
	s.left = s.left[n:]
	s.up.hub.mu.Lock()
	defer s.up.hub.mu.Unlock()
	s.up.hub.ledger.sent[s.digest] += int64(n)
	return n, nil
}

// Close implements io.Closer.
func (s *sending) Close() error { return nil }
