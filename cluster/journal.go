package cluster

import (
	"encoding/binary"
	"time"
)

// journal holds the last word on each subject, for those who were away when it was said. What it once held it never
// takes for news again.
type journal struct {
	most  int           // subjects
	life  time.Duration // of a word
	words map[string]word
	floor time.Time // words up to then were forgotten, to make room: nothing as old is news
}

// word is an event as it came, so that what a newer version says in it is passed on whole.
type word struct {
	Event
	raw []byte
}

const (
	// What lasts is still told to a member that was away for a day; a hint for as long as the longest limit that it may be
	// about.
	lastingLife, hintLife = 24 * time.Hour, 6 * time.Hour
	// A purge of a large repository is some hundred events; hints come at the pace of tags that move.
	mostLasting, mostHints = 1024, 256
	// stateMax bounds what members tell each other when they meet, beside who there is: every half minute, a few KB mostly.
	stateMax = 512 << 10
)

// news reports whether e says something that was not known.
func (j *journal) news(e Event, now time.Time) bool {
	if now.Sub(e.At) >= j.life {
		return false
	}
	if w, ok := j.words[e.subject()]; ok && w.At.Sub(now) <= ahead { // else our own clock was wrong then
		return e.after(w.Event)
	}
	return e.At.After(j.floor)
}

// add takes a word in, and makes room for it.
func (j *journal) add(w word, now time.Time) {
	if j.words == nil {
		j.words = map[string]word{}
	}
	j.words[w.subject()] = w
	if len(j.words) <= j.most {
		return
	}
	j.expire(now)
	for len(j.words) > j.most {
		oldest, at := "", now.Add(j.life)
		for subject, w := range j.words {
			if w.At.Before(at) {
				oldest, at = subject, w.At
			}
		}
		delete(j.words, oldest)
		if at.After(j.floor) {
			j.floor = at
		}
	}
}

func (j *journal) expire(now time.Time) {
	for subject, w := range j.words {
		if now.Sub(w.At) >= j.life {
			delete(j.words, subject)
		}
	}
}

// append writes the words for another member, as far as they fit.
func (j *journal) append(b []byte, now time.Time) []byte {
	j.expire(now)
	for _, w := range j.words {
		if len(b)+len(w.raw)+binary.MaxVarintLen64 <= stateMax {
			b = append(binary.AppendUvarint(b, uint64(len(w.raw))), w.raw...)
		}
	}
	return b
}

// cutWord is the first of the words that append wrote, and those that follow. None: the end, or nothing that it wrote.
func cutWord(b []byte) (raw, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size == 0 || size > uint64(min(eventMax, len(b)-n)) {
		return nil, nil, false
	}
	return b[n : n+int(size)], b[n+int(size):], true
}
