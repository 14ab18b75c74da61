package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// step has clients ask for things, perhaps something happen in the midst of it, and then time pass. What must hold is
// checked when it has.
func (s *Sim) step() error {
	s.result.Steps++
	before := s.survey()
	span := s.between(time.Second, 12*time.Second)
	var at []time.Duration // when somebody asks
	for range s.random.IntN(5) {
		at = append(at, s.between(0, span))
	}
	slices.Sort(at)
	event, when := s.event(), s.between(0, span)
	if event != nil {
		before = nil
	}
	s.severed = nil
	began := time.Now()
	for _, t := range at {
		if event != nil && when <= t {
			time.Sleep(when - time.Since(began))
			if err := event(); err != nil {
				return err
			}
			event = nil
		}
		time.Sleep(t - time.Since(began))
		s.ask()
	}
	if event != nil {
		time.Sleep(when - time.Since(began))
		if err := event(); err != nil {
			return err
		}
	}
	time.Sleep(s.between(5*time.Second, 270*time.Second))
	s.settle()
	if s.severed != nil {
		before = s.severed
		s.result.Cuts++
	}
	s.check(before)
	return nil
}

func (s *Sim) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.random.Int64N(int64(most-least)+1))
}

func (s *Sim) one(of []*running) *running { return of[s.random.IntN(len(of))] }

// ask has one client, or a crowd, ask for something.
func (s *Sim) ask() {
	live := s.live()
	r, names := s.one(live), s.corpus.names()
	tag := names[s.random.IntN(len(names))]
	switch s.random.IntN(12) {
	case 0, 1: // all members at once
		for _, r := range live {
			s.asking.Go(func() { s.pull(r, tag) })
		}
	case 2: // all of one member's clients at once
		for range 4 {
			s.asking.Go(func() { s.pull(r, tag) })
		}
	case 3, 4: // a part of something
		all := s.corpus.all()
		ref := all[s.random.IntN(len(all))]
		size := int64(len(s.corpus.of(ref.Digest)))
		off := s.random.Int64N(size)
		n := 1 + s.random.Int64N(size-off)
		if ref.Kind == cache.KindBlob {
			s.asking.Go(func() { _, _ = s.fetch(&request{sim: s, run: r, ref: ref, off: off, n: n}) })
		}
	case 5: // somebody who does not stay
		all := s.corpus.all()
		q := &request{sim: s, run: r, ref: all[s.random.IntN(len(all))], n: -1, leave: s.between(time.Millisecond, 3*time.Second)}
		s.asking.Go(func() { _, _ = s.fetch(q) })
	case 6: // what there is not
		ref := tag
		ref.Tag = fmt.Sprintf("none%d", s.random.IntN(3))
		s.asking.Go(func() { _, _ = s.fetch(&request{sim: s, run: r, ref: ref, n: -1}) })
	default:
		s.asking.Go(func() { s.pull(r, tag) })
	}
}

// most is how much content there may be: in the end all of it is pulled from everywhere.
const most = 20

// event draws what happens; nil: nothing does.
func (s *Sim) event() func() error {
	live := s.live()
	r := s.one(live)
	var down []*member
	for _, m := range s.members {
		if m.run == nil {
			down = append(down, m)
		}
	}
	switch n := s.random.IntN(100); {
	case n < 45:
		return nil
	case n < 55 && len(live) > 2:
		dark := s.random.IntN(2) == 0
		return func() error {
			s.logf("crash of %s; dark: %v", r.member.name, dark)
			return s.crash(r.member, dark)
		}
	case n < 66 && len(down) > 0:
		m := down[s.random.IntN(len(down))]
		return func() error { return s.restart(m) }
	case n < 69 && len(s.members) < s.o.Members+2:
		return func() error {
			m := s.found()
			s.logf("%s joins", m.name)
			s.linked()
			return s.start(m)
		}
	case n < 72 && len(live) > 2:
		if s.random.IntN(2) == 0 {
			return func() error {
				s.logf("%s stops", r.member.name)
				return s.stop(r.member)
			}
		}
		return func() error {
			s.logf("%s drains", r.member.name)
			return s.leave(r.member)
		}
	case n < 78:
		return s.partition()
	case n < 84:
		return func() error { s.heal(); return nil }
	case n < 91:
		return s.swing()
	case n < 94:
		return s.lie(r.member)
	case n < 96:
		return s.jump(r.member)
	default:
		repo := s.corpus.names()[s.random.IntN(len(s.corpus.names()))].Repo
		return func() error {
			if len(s.corpus.all()) > most {
				return nil
			}
			s.logf("push of %s", repo)
			s.corpus.push(s.random, repo)
			return nil
		}
	}
}

func (s *Sim) restart(m *member) error {
	s.logf("%s starts again", m.name)
	if m.dark {
		m.dark = false
		s.net.power(m.host(), true)
		s.cutAir()
	}
	s.linked()
	return s.start(m)
}

// partition cuts some members off from the others, from the hub, or from both.
func (s *Sim) partition() func() error {
	var a, b []*member
	for _, m := range s.members {
		if s.random.IntN(2) == 0 {
			a = append(a, m)
		} else {
			b = append(b, m)
		}
	}
	kind, oneWay := s.random.IntN(4), s.random.IntN(5) == 0
	names := s.corpus.names()
	tag := names[s.random.IntN(len(names))]
	return func() error {
		var ways []way
		names := ""
		for _, m := range a {
			names += " " + m.name
			if kind < 2 { // from the hub
				ways = append(ways, way{m.host(), hubHost}, way{hubHost, m.host()})
			}
			for _, o := range b {
				if kind > 0 {
					ways = append(ways, way{m.host(), o.host()})
				}
				if kind > 0 && !oneWay {
					ways = append(ways, way{o.host(), m.host()})
				}
			}
		}
		s.logf("cut of%s; from the hub: %v, from the others: %v, one way: %v", names, kind < 2, kind > 0, oneWay)
		still := kind > 1 && !oneWay && s.quiet() && s.calm()
		s.account(nil)
		s.net.cut(ways...)
		s.cutAir()
		s.linked()
		if still { // all that follows is the cut's doing, from before anybody has seen it
			s.severed = s.allowed()
		}
		s.tell(nil)
		for _, r := range s.live() {
			s.asking.Go(func() { s.pull(r, tag) })
		}
		return nil
	}
}

func (s *Sim) heal() {
	s.logf("all ways are open")
	s.net.heal()
	s.cutAir()
	s.linked()
	s.tell(nil)
}

// linked notes who reaches the hub.
func (s *Sim) linked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.members {
		_, was := s.uplinks[m]
		switch is := s.net.connected(m.host(), hubHost); {
		case !is:
			delete(s.uplinks, m)
		case !was:
			s.uplinks[m] = time.Now()
		}
	}
}

// swing changes the hub's mood.
func (s *Sim) swing() func() error {
	now, _ := s.hub.state()
	m := mood(s.random.IntN(int(moods)))
	if now != well && s.random.IntN(2) == 0 {
		m = well
	}
	takes := s.between(time.Second, 12*time.Second)
	if m == paced {
		takes /= 60
	}
	return func() error {
		s.logf("the hub is %v (%v)", m, takes)
		s.hub.turn(m, takes)
		s.mark()
		return nil
	}
}

// lie has a member lie, or be honest again.
func (s *Sim) lie(m *member) func() error {
	lie := honest
	if m.lie.Load() == honest {
		lie = 1 + uint32(s.random.IntN(int(manyLies)-1))
	}
	return func() error {
		s.logf("%s %s", m.name, lieNames[lie])
		m.lie.Store(lie)
		s.disturb()
		s.mark()
		return nil
	}
}

// mark notes whether somebody sends other bytes now, and what may be on its way.
func (s *Sim) mark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.liars = false
	for _, m := range s.members {
		s.liars = s.liars || m.lie.Load() == flips
	}
	for q := range s.pending {
		d, _, _ := s.corpus.now(q.ref)
		s.taint(d)
	}
}

// jump sets a member's clock, wrong or right.
func (s *Sim) jump(m *member) func() error {
	to := time.Duration(0)
	if m.skew.Load() == 0 {
		to = s.between(-2*time.Hour, 2*time.Hour)
	}
	return func() error {
		s.logf("the clock of %s is off by %v", m.name, to)
		m.skew.Store(int64(to))
		s.mu.Lock()
		defer s.mu.Unlock()
		s.skewed = true
		return nil
	}
}
