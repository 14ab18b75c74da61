package cluster

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
)

// noPackets is what memberlist logs, and tells in no other way, of a member that answers by TCP alone.
var noPackets = []byte("over TCP but UDP probes failed")

const (
	// troubled is how long a trouble is told after it was seen last. A member is probed each second: of 60 each once.
	troubled = time.Minute
	// unwell is a health beyond which it is no hiccup: half of the eight that memberlist counts to.
	unwell = 4
)

func (c *counts) streamed(now time.Time) {
	c.streams.Add(1)
	c.lastStream.Store(now.UnixNano())
}

// streaming reports whether UDP does not get through to some member.
func (c *counts) streaming(now time.Time) bool {
	last := c.lastStream.Load()
	return last > 0 && now.Sub(time.Unix(0, last)) < troubled
}

// called notes whether all who were to be joined were called in vain.
func (c *counts) called(inVain bool, now time.Time) {
	if !inVain {
		c.inVain.Store(0)
		return
	}
	c.inVain.CompareAndSwap(0, now.UnixNano())
}

// alone reports whether nobody has answered for a while.
func (c *counts) alone(now time.Time) bool {
	since := c.inVain.Load()
	return since > 0 && now.Sub(time.Unix(0, since)) >= troubled
}

var errAlone = errors.New("none of the members that it was told to join, or has lost, answers, so that it does everything by itself: " +
	"see that they run, that their addresses are right (--join) and open to UDP and TCP, and that they have the same secret")

var errUnwell = errors.New("the gossip of the other members is not answered in time: this one is short of processor time, or cut off from some of them")

// Trouble is what keeps this member from finding the others, or from hearing of them in time, though what it can do by
// itself works: nil where all is well.
func (m *Members) Trouble() error {
	all := m.unfound.trouble()
	if err := m.namesakes.trouble(time.Now()); err != nil {
		all = append(all, err)
	}
	switch {
	case m.counts.streaming(time.Now()):
		all = append(all, fmt.Errorf("members are reached by TCP but not by UDP, so that deaths and changes are heard of late: "+
			"let UDP to port %d through between all members", m.here.Port()))
	case m.alone() && m.counts.alone(time.Now()): // else somebody has come by himself
		all = append(all, errAlone)
	case m.list.GetHealthScore() >= unwell:
		all = append(all, errUnwell)
	}
	return inOneLine(all)
}

// inOneLine is nil for none.
func inOneLine(all []error) error {
	if len(all) < 2 {
		return errors.Join(all...)
	}
	texts := make([]string, len(all))
	for i, err := range all {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

// complaint is what was last said of this member's trouble. Only rejoinAll has one.
type complaint struct {
	text string
	when time.Time
	open bool // it has not been said to be over
}

// complainAgain is how often a trouble that lasts is said again: often enough for who looks at the last page of a log, seldom
// enough not to fill it.
const complainAgain = 10 * time.Minute

// say logs a trouble where it is news, and again now and then; and once that it is over. Of one that comes and goes, or of
// several, no more than one a minute.
func (c *complaint) say(err error, now time.Time, log *zap.Logger) {
	switch {
	case err == nil && c.open:
		c.open = false
		log.Info("cluster: the trouble is over", zap.String("it_was", c.text))
	case err == nil:
	case (!c.open || err.Error() != c.text) && now.Sub(c.when) >= troubled, now.Sub(c.when) >= complainAgain:
		*c = complaint{err.Error(), now, true}
		log.Warn("cluster: this member has trouble with the others", zap.Error(err))
	}
}
