package sim

import (
	"io/fs"
	"path/filepath"
	"time"
)

// finale has all faults end, and checks that nothing is left of them.
func (s *Sim) finale() error {
	s.logf("all is well again")
	s.hub.turn(well, 0)
	for _, m := range s.members {
		m.lie.Store(honest)
		m.skew.Store(0)
	}
	s.mark()
	s.heal()
	for _, m := range s.members {
		if m.run == nil && s.random.IntN(4) > 0 {
			if err := s.restart(m); err != nil {
				return err
			}
		}
	}
	time.Sleep(2 * time.Minute)
	if !s.agreed() {
		s.fail("two minutes after all is well the members do not agree")
	}
	s.asking.Wait()
	time.Sleep(linger)
	s.round("the first round", s.live())
	if n := s.round("the second round", s.some()); n > 0 {
		s.fail("the second round cost %d GETs", n)
	}
	for _, tag := range s.corpus.names() {
		s.corpus.push(s.random, tag.Repo)
	}
	time.Sleep(2*fresh + time.Second)
	s.newest()
	s.round("the round after all tags have moved", s.some())
	s.hub.turn(broken, 0)
	time.Sleep(fresh + time.Second)
	s.round("the round without the hub", s.some())
	return s.remains()
}

// some are two of the members.
func (s *Sim) some() []*running {
	live := s.live()
	s.random.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	return live[:min(2, len(live))]
}

// round has some members be asked for everything, and checks what that costs: so many GETs.
func (s *Sim) round(what string, by []*running) int {
	if len(s.result.Faults) > 0 {
		return 0
	}
	s.logf("%s", what)
	may := s.survey()
	if m, _ := s.hub.state(); may == nil && m.good() {
		s.fail("%s: not all is calm", what)
	}
	for _, r := range by {
		all := append(s.corpus.names(), s.corpus.all()...)
		s.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for i := range abreast {
			s.asking.Go(func() {
				for ; i < len(all); i += abreast {
					if _, err := s.fetch(&request{sim: s, run: r, ref: all[i], n: -1}); err != nil {
						s.fail("%s: %s: %s: %v", what, r.member.name, all[i], err)
					}
				}
			})
		}
	}
	s.asking.Wait()
	time.Sleep(linger) // all has landed, and nobody waits for more parts
	s.settle()
	return s.account(may)
}

// linger is longer than a download of which parts were wanted waits for more of them to be.
const linger = 70 * time.Second

// abreast is how many requests a client has at a time, as containerd does.
const abreast = 3

// newest checks that every tag is at every member what it is at the hub.
func (s *Sim) newest() {
	for _, r := range s.live() {
		for _, tag := range s.corpus.names() {
			want, _, _ := s.corpus.now(tag)
			f, err := r.store.Stat(s.ctx, tag)
			if err != nil || f.Digest != want {
				s.fail("%s: %s is %s (%v), as of %v, and %s at the hub", r.member.name, tag, f.Digest, err, f.AsOf, want)
			}
		}
	}
}

// remains checks that nothing is left open, and that the books are right.
func (s *Sim) remains() error {
	time.Sleep(3 * time.Minute)
	s.settle()
	for _, r := range s.live() {
		stats := r.store.Stats()
		if stats.Flights > 0 {
			s.fail("%s: %d downloads are under way though nobody asks", r.member.name, stats.Flights)
		}
		s.files(r.member)
		if on := onDisk(r.member.dir); on != stats.DiskBytes {
			s.fail("%s: %d bytes are on the books, %d on disk", r.member.name, stats.DiskBytes, on)
		}
	}
	return nil
}

// onDisk is how much the files of a store hold.
func onDisk(dir string) (sum int64) {
	for _, part := range []string{"blobs", "partial", "tmp"} {
		_ = filepath.WalkDir(filepath.Join(dir, "store", part), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // what is not there holds nothing
			}
			if i, err := d.Info(); err == nil {
				sum += i.Size()
			}
			return nil
		})
	}
	return sum
}
