package cluster

import (
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// temper is what is known of how a member answers, and so how long it is waited for.
type temper struct {
	mu    sync.Mutex
	usual time.Duration              // until its first sign, smoothed; 0: not known
	fails int                        // in a row
	shut  bool                       // it is not asked, until it says how it does
	heard time.Time                  // its last sign
	lies  int                        // answers of late that turned out to be something else
	last  time.Time                  // the last of them
	about map[cache.Digest]time.Time // what it was asked for when it did, and when
}

const (
	// A member is given firstPatience until it is known, later eight times what it usually takes, but no less than
	// leastPatience: a garbage collection or a busy processor is no death. It is passed over by all askers alike, for each
	// of them learns the same.
	firstPatience = time.Second
	leastPatience = 250 * time.Millisecond
	mostPatience  = 3 * time.Second
	// After a failure it is left alone, for longer each time, and then asked how it does: see sounding.
	firstRest, longRest = 500 * time.Millisecond, 4 * time.Second
	// One that has sent other bytes mostLies times, none of which reached anybody, is left alone for disgrace after each
	// further time: a bit may flip once, and what it has is had from elsewhere. Nobody is called a liar for ever.
	mostLies, disgrace, forgotten = 3, time.Minute, 10 * time.Minute
	// doubted is how long it is not asked for the thing itself: what it holds may have rotted, and its scrub finds that.
	doubted = time.Hour
	// mostAbout bounds what is remembered of that.
	mostAbout = 256
)

// asked reports whether the member may be asked now.
func (t *temper) asked(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.shut && !t.disgraced(now)
}

func (t *temper) disgraced(now time.Time) bool {
	return t.lies >= mostLies && now.Sub(t.last) < disgrace
}

// lied notes that what it has sent turned out to be something else.
func (t *temper) lied(d cache.Digest, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.last) > forgotten {
		t.lies = 0
	}
	t.lies, t.last = t.lies+1, now
	if t.about == nil || len(t.about) >= mostAbout {
		t.about = map[cache.Digest]time.Time{}
	}
	t.about[d] = now
}

// liedAbout reports whether it has sent something else in the place of d of late.
func (t *temper) liedAbout(d cache.Digest, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, did := t.about[d]
	return did && now.Sub(at) < doubted
}

// silent reports whether the member was asked last in vain, or is not asked.
func (t *temper) silent(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fails > 0 || t.disgraced(now)
}

// patience is how long its first sign is waited for.
func (t *temper) patience() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.usual == 0 {
		return firstPatience
	}
	return min(mostPatience, max(leastPatience, 8*t.usual))
}

// answered notes a sign of life.
func (t *temper) answered(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard = time.Now()
	if t.fails, t.shut = 0, false; t.usual == 0 {
		t.usual = max(took, time.Microsecond)
		return
	}
	t.usual += (took - t.usual) / 8
}

// sign notes that the member says how it does, which says nothing of how soon it answers.
func (t *temper) sign(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard = now
}

// known reports whether it was heard of, or found silent, so lately that nobody need ask how it does.
func (t *temper) known(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shut || now.Sub(t.heard) < leastPatience
}

// failed notes that there was none, and says how long it is left alone for that. Not first: it is already, and who asked
// before has waited as long.
func (t *temper) failed() (rest time.Duration, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		return 0, false
	}
	t.shut = true
	t.fails++
	return min(longRest, firstRest<<min(t.fails-1, 6)), true
}

// open has it be asked again. Whether it answers is not known before it has.
func (t *temper) open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shut = false
}
