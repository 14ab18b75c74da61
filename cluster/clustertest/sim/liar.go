package sim

import (
	"bytes"
	"io"
	"net/http"
)

// lies are how a member may answer others.
const (
	honest   uint32 = iota
	flips           // a byte of each body is another
	breaks          // bodies break off at their first bytes
	mute            // it takes questions, and says nothing
	stalls          // it stops in the middle of bodies
	nonsense        // it says what no member says
	manyLies
)

var lieNames = [...]string{"honest", "flips bytes", "breaks bodies off", "mute", "stalls", "talks nonsense"}

// liar answers for a member as it is told to.
type liar struct {
	member *member
	true   http.Handler
}

// ServeHTTP implements http.Handler.
func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch lie := l.member.lie.Load(); lie {
	case honest:
		l.true.ServeHTTP(w, r)
	case mute:
		_, _ = io.Copy(io.Discard, r.Body) // only then net/http notices that who asked is gone
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case nonsense:
		http.Error(w, "<html>not a member</html>", http.StatusBadGateway)
	default:
		l.true.ServeHTTP(&spoiled{ResponseWriter: w, lie: lie, r: r}, r)
	}
}

// spoiled is an answer of which the body is not what it was.
type spoiled struct {
	http.ResponseWriter
	lie  uint32
	r    *http.Request
	sent int
}

// Unwrap is for http.ResponseController.
func (s *spoiled) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *spoiled) Write(p []byte) (int, error) {
	switch {
	case s.lie == breaks && s.sent == 0:
		_, _ = s.ResponseWriter.Write(p[:len(p)/2]) // it breaks off anyway
		panic(http.ErrAbortHandler)
	case s.lie == stalls && s.sent > 0:
		<-s.r.Context().Done()
		panic(http.ErrAbortHandler)
	case s.lie == flips && s.sent == 0 && len(p) > 7:
		p = bytes.Clone(p)
		p[7] ^= 1
	}
	s.sent += len(p)
	return s.ResponseWriter.Write(p)
}
