package sim

import (
	"slices"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cache/sourcetest"
	"github.com/tidepool-oci/tidepool/cluster"
)

// rest is how long after a change members may treat each other by what they knew before: until all have heard of it, and
// those who were silent are asked again.
const rest = notice + 10*time.Second

// disturb notes that something changed among the members.
func (s *Sim) disturb() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = time.Now()
}

// calm says whether nothing has changed for a while and all who reach each other agree.
func (s *Sim) calm() bool { return s.calmSince(time.Now()) }

// calmSince says so of all the time since then.
func (s *Sim) calmSince(then time.Time) bool {
	s.mu.Lock()
	quiet := then.Sub(s.changed) > rest
	s.mu.Unlock()
	return quiet && s.agreed()
}

// wellSince says whether, since then and for a while before, the hub was well and a member reached it.
func (s *Sim) wellSince(m *member, then time.Time) bool {
	_, since := s.hub.state()
	s.mu.Lock()
	up, linked := s.uplinks[m]
	s.mu.Unlock()
	then = then.Add(-grace)
	return !since.IsZero() && since.Before(then) && linked && up.Before(then)
}

// window is how old an answer about a tag may be that does not say that it is. By a clock that was set back a tag may
// look fresh once more that was so when the clock showed the same before.
func (s *Sim) window() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.skewed {
		return cache.Forever
	}
	return fresh + time.Second
}

// survey is what the hub may send in the step that begins; nil: that cannot be said, because not all is calm.
func (s *Sim) survey() map[cache.Digest]int64 {
	s.account(nil)
	if !s.quiet() || !s.calm() {
		return nil
	}
	return s.allowed()
}

// allowed is what the hub may send from now on: of each content its size, once for each part of the cluster in which
// neither its owner has it nor who owned it before. Who does not reach the owner takes the next one for it, whether or not
// gossip has seen that.
func (s *Sim) allowed() map[cache.Digest]int64 {
	may := map[cache.Digest]int64{}
	for _, side := range s.sides() {
		ring := ringOf(side)
		for _, ref := range s.corpus.all() {
			size := int64(len(s.corpus.of(ref.Digest)))
			if s.holder(side, ring, ref) {
				size = 0
			}
			may[ref.Digest] += size
		}
		for _, tag := range s.corpus.names() {
			if d, b, _ := s.corpus.now(tag); !known(side, ring, tag) {
				may[d] += int64(len(b)) // beside that of who asks for it by its digest
			}
		}
	}
	return may
}

// ringOf is the ring of those who reach each other.
func ringOf(side []*running) *cluster.Ring {
	var all []cluster.Member
	for _, r := range side {
		all = append(all, r.says())
	}
	return cluster.NewRing(all)
}

// quiet says whether nobody waits, the hub is well, and everybody is honest and reaches it.
func (s *Sim) quiet() bool {
	s.mu.Lock()
	waiting := len(s.pending)
	s.mu.Unlock()
	for _, r := range s.live() {
		if waiting > 0 || r.member.lie.Load() != honest || r.store.Stats().Flights > 0 || !s.wellSince(r.member, time.Now()) {
			return false
		}
	}
	return true
}

// sides are the parts of the cluster whose members reach each other.
func (s *Sim) sides() [][]*running {
	var sides [][]*running
	for _, r := range s.live() {
		i := slices.IndexFunc(sides, func(side []*running) bool { return s.net.connected(side[0].member.host(), r.member.host()) })
		if i < 0 {
			sides = append(sides, []*running{r})
		} else {
			sides[i] = append(sides[i], r)
		}
	}
	return sides
}

// holder says whether the members of a side find a thing at its owner, or at who is asked by the owner for what it had
// before. The latter has it only for the repositories that it was asked for.
func (s *Sim) holder(side []*running, ring *cluster.Ring, ref cache.Ref) bool {
	for i, m := range ring.Owners(cluster.KeyOf(ref), 2) {
		if (i == 0 || !s.corpus.shared(ref.Digest)) && of(side, m).holds(ref) {
			return true
		}
	}
	return false
}

// of is the one of a side that is a member.
func of(side []*running, m cluster.Member) *running {
	return side[slices.IndexFunc(side, func(r *running) bool { return r.member.name == m.Name })]
}

// places says who owns a thing, and who holds it, for messages.
func (s *Sim) places(d cache.Digest) string {
	text := ""
	for _, ref := range s.corpus.all() {
		if ref.Digest != d {
			continue
		}
		text += ref.Kind.String() + " owned by"
		for _, m := range s.live()[0].view().Ring.Owners(cluster.KeyOf(ref), 3) {
			text += " " + m.Name
		}
		text += ", held by"
		for _, r := range s.live() {
			if r.holds(ref) {
				text += " " + r.member.name
			}
		}
	}
	return text
}

// known says whether the owner of a name knows what it was. One who does not asks by a GET, which brings the manifest.
func known(side []*running, ring *cluster.Ring, tag cache.Ref) bool {
	owners := ring.Owners(cluster.KeyOf(tag), 1)
	return len(owners) > 0 && of(side, owners[0]).store.Knows(tag)
}

// check is what must hold after each step. may is what the hub may have sent; nil: that is not known.
func (s *Sim) check(may map[cache.Digest]int64) {
	s.account(may)
	s.mu.Lock()
	var late []*request
	for q := range s.pending {
		if time.Since(q.began) > attempts*(tooLong+between) {
			late = append(late, q)
		}
	}
	s.mu.Unlock()
	for _, q := range late {
		s.fail("%s: asked for %v ago, and not over", q, time.Since(q.began))
	}
}

// account checks what the hub was asked for since the last time, and returns how many GETs that were of what nobody has
// reason to doubt.
func (s *Sim) account(may map[cache.Digest]int64) int {
	l := s.hub.account()
	s.mu.Lock()
	wanted := s.wanted
	s.wanted = map[cache.Digest]int{}
	s.result.Fetched += l.gets
	if may != nil {
		s.result.Strict++
	}
	s.mu.Unlock()
	if may == nil {
		return 0
	}
	sides := int64(len(s.sides()))
	for d, sent := range l.sent {
		most, known := may[d]
		if !known { // pushed meanwhile
			most = sides * int64(len(s.corpus.of(d)))
		}
		if sent > most && !s.doubted(d) {
			s.fail("the hub sent %d bytes of %.12s in a calm step, %d were to be had from nobody else: GETs of %v for %d requests; %s",
				sent, d.String()[7:], most, l.by[d], wanted[d], s.places(d))
		}
	}
	gets := 0
	for d, n := range l.opens {
		if !s.doubted(d) {
			gets += n
		}
	}
	return gets
}

// taint notes that something else may be sent in the place of d. s.mu is held.
func (s *Sim) taint(d cache.Digest) {
	if m, _ := s.hub.state(); m == lying || s.liars {
		s.tainted[d] = true
		s.poisoned = true
	}
}

// lied says whether anybody may ever have been sent something else: parts of it may wait for the rest.
func (s *Sim) lied() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.poisoned
}

// doubted says whether somebody may ever have been sent something else in the place of d: who was asks the hub itself, and
// wrong bytes may wait on the disk of one that is down for as long as a run is.
func (s *Sim) doubted(d cache.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tainted[d]
}

// files checks that every file of a store has the bytes that its name says.
func (s *Sim) files(m *member) {
	if err := sourcetest.Files(m.dir); err != nil {
		s.fail("the files of %s: %v", m.name, err)
	}
}
