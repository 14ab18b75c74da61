// Package sim is a cluster in a testing/synctest bubble: members with their stores, routers and listeners, clients and a
// hub, over a network in memory, to which a seed does what may happen within some hours. After every step it is checked
// that what must always hold does.
//
// A seed fixes the faults, the workload and the virtual times. The order of goroutines it does not fix: a seed that
// failed is run again and again.
package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/cluster/clustertest"
)

// Options say what is simulated.
type Options struct {
	Seed    uint64
	Members int           // to begin with; 0: three to five, by the seed
	Length  time.Duration // 0: an hour
	// Gossip has the members find each other as they do in the product, by memberlist. Else they are told, each some
	// seconds late.
	Gossip bool
	Log    *zap.Logger // of the members; nil: silence
}

// Result is how it went.
type Result struct {
	Faults   []string // what did not hold; none: all is well
	Log      string   // what happened, in virtual time
	Steps    int
	Strict   int // steps of which every byte that the hub sent is accounted for
	Cuts     int // of these, in which members were cut off from each other
	Requests int
	Fetched  int // GETs at the hub
	Longest  time.Duration
}

// String says how much was done.
func (r Result) String() string {
	return fmt.Sprintf("%d steps, %d of them to the byte, with %d cuts, %d requests, %d GETs, the longest %v", r.Steps, r.Strict, r.Cuts,
		r.Requests, r.Fetched, r.Longest.Round(time.Millisecond))
}

// Sim is one run.
type Sim struct {
	o        Options
	ctx      context.Context
	dir      string
	random   *rand.Rand // of the one goroutine that says what happens
	began    time.Time
	corpus   *corpus
	net      *network
	air      *clustertest.Net // of the gossip
	hub      *hub
	replicas int
	log      *zap.Logger
	severed  map[cache.Digest]int64 // what the hub may send in a step since members were cut off; nil: that is not known
	after    sync.WaitGroup         // remains of the dead
	asking   sync.WaitGroup

	mu       sync.Mutex // guards what is below
	members  []*member
	changed  time.Time             // when it was last changed who there is, who reaches whom, and who lies
	uplinks  map[*member]time.Time // since when a member reaches the hub; missing: it does not
	skewed   bool                  // a clock was set
	story    strings.Builder
	result   Result
	pending  map[*request]bool
	wanted   map[cache.Digest]int  // requests in this step
	tainted  map[cache.Digest]bool // of which somebody may have been sent something else
	liars    bool                  // somebody sends other bytes
	poisoned bool                  // somebody did
	requests int
}

// Run simulates. It must be called in a bubble, and returns when all that it began has ended.
func Run(ctx context.Context, o Options) (Result, error) {
	s := &Sim{
		o: o, ctx: ctx, random: rand.New(rand.NewPCG(o.Seed, 11)), began: time.Now(), corpus: newCorpus(), net: newNetwork(),
		air: clustertest.New(o.Seed), log: o.Log, pending: map[*request]bool{}, uplinks: map[*member]time.Time{},
		wanted: map[cache.Digest]int{}, tainted: map[cache.Digest]bool{},
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	if s.o.Length == 0 {
		s.o.Length = time.Hour
	}
	if s.o.Members == 0 {
		s.o.Members = 3 + s.random.IntN(3)
	}
	s.replicas = 1 + int(s.o.Seed/2%2)
	s.air.Delay(time.Millisecond, 3*time.Millisecond)
	s.air.Lose(0.01)
	s.hub = newHub(o.Seed, s.corpus, s.net)
	var err error
	if s.dir, err = directory(); err != nil {
		return Result{}, err
	}
	err = s.run()
	err = errors.Join(err, s.end(), os.RemoveAll(s.dir))
	s.result.Log, s.result.Requests = s.story.String(), s.requests
	return s.result, err
}

// directory is in memory where the machine has such a place: databases sync their files, and a bubble's time is virtual
// but the disk's is not.
func directory() (string, error) {
	if d, err := os.MkdirTemp("/dev/shm", "tidepool-sim-"); err == nil {
		return d, nil
	}
	return os.MkdirTemp("", "tidepool-sim-")
}

// run is all that happens.
func (s *Sim) run() error {
	for i := range 3 + s.random.IntN(3) {
		s.corpus.push(s.random, fmt.Sprintf("library/app%d", i))
	}
	for range s.o.Members {
		s.found()
	}
	for _, m := range s.members {
		if err := s.start(m); err != nil {
			return err
		}
	}
	s.logf("%d members, %d copies; gossip: %v", len(s.members), s.replicas, s.o.Gossip)
	for len(s.result.Faults) == 0 && time.Since(s.began) < s.o.Length {
		if err := s.step(); err != nil {
			return err
		}
	}
	if len(s.result.Faults) > 0 {
		return nil
	}
	return s.finale()
}

// found adds a place for a member.
func (s *Sim) found() *member {
	n := len(s.members) + 1
	m := &member{name: fmt.Sprintf("m%d", n), number: n, at: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})}
	if s.o.Seed%3 == 0 {
		m.zone = fmt.Sprintf("z%d", n%2)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = append(s.members, m)
	s.uplinks[m] = time.Now()
	return m
}

// live are the members that run.
func (s *Sim) live() []*running {
	s.mu.Lock()
	defer s.mu.Unlock()
	var live []*running
	for _, m := range s.members {
		if m.run != nil {
			live = append(live, m.run)
		}
	}
	return live
}

// runs notes who runs as a member.
func (s *Sim) runs(m *member, r *running) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.run = r
}

// owner is the running process of who owns a thing, in the eyes of a member.
func (s *Sim) owner(r *running, ref cache.Ref) *running {
	order := r.view().Ring.Owners(cluster.KeyOf(ref), 1)
	if len(order) == 0 {
		return nil
	}
	for _, o := range s.live() {
		if o.member.name == order[0].Name {
			return o
		}
	}
	return nil
}

// settle waits until everybody waits.
func (s *Sim) settle() { synctest.Wait() }

// end ends all that still runs.
func (s *Sim) end() error {
	s.net.heal()
	for _, m := range s.members {
		if m.dark {
			s.net.power(m.host(), true)
		}
	}
	var errs []error
	for _, r := range s.live() {
		s.runs(r.member, nil)
		close(r.gone)
		errs = append(errs, r.end())
	}
	for _, m := range s.members {
		s.net.hangUp(m.host())
	}
	s.after.Wait()
	s.asking.Wait()
	if s.o.Gossip {
		time.Sleep(2 * time.Minute) // until memberlist's timers have run out
	}
	time.Sleep(notice) // and ours
	s.settle()
	return errors.Join(errs...)
}

func (s *Sim) logf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(format, args...)
}

func (s *Sim) write(format string, args ...any) {
	fmt.Fprintf(&s.story, "%12v  "+format+"\n", append([]any{time.Since(s.began).Round(time.Microsecond)}, args...)...)
}

// fail notes that something does not hold.
func (s *Sim) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write("FAULT: "+format, args...)
	s.result.Faults = append(s.result.Faults, fmt.Sprintf("after %v: ", time.Since(s.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (s *Sim) longest(took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result.Longest = max(s.result.Longest, took)
}
