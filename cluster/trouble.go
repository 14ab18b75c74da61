package cluster

import (
	"errors"
	"fmt"
	"time"
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

// Trouble is what keeps this member from hearing of the others in time, though the cluster works: nil where all is well.
func (m *Members) Trouble() error {
	if err := m.namesakes.trouble(time.Now()); err != nil {
		return err
	}
	switch {
	case m.counts.streaming(time.Now()):
		return fmt.Errorf("members are reached by TCP but not by UDP, so that deaths and changes are heard of late: "+
			"let UDP to port %d through between all members", m.here.Port())
	case m.counts.alone(time.Now()):
		return errAlone
	case m.list.GetHealthScore() >= unwell:
		return errUnwell
	}
	return nil
}
