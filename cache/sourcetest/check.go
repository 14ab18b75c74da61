package sourcetest

import (
	"bytes"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// described checks what an answer says of the content; it reports whether there is an answer.
func (s *suite) described(a cache.Answer, err error, mediaType string, d cache.Digest, size int) bool {
	s.Helper()
	if err != nil {
		s.Errorf("%s: %v", d, err)
		return false
	}
	if a.MediaType != mediaType || a.Digest != d || a.Size != int64(size) && a.Size != -1 {
		s.Errorf("said to be %+v, want %q, %s, %d bytes", a.Desc, mediaType, d, size)
	}
	if a.AsOf.After(time.Now()) {
		s.Errorf("%s: said at %s, which is yet to come", d, a.AsOf)
	}
	if a.Stale {
		s.Errorf("%s: stale, though the hub can be asked", d)
	}
	return true
}

// bodiless checks that nothing was fetched.
func (s *suite) bodiless(a cache.Answer) {
	s.Helper()
	if a.Body != nil {
		s.Errorf("%s: a body where a HEAD would do", a.Digest)
	}
	s.discard(a)
}

// brings reads the body and checks that it is the part of content that was wanted, or more where the source cannot
// skip.
func (s *suite) brings(a cache.Answer, content []byte, want cache.Want) {
	s.Helper()
	if a.Body == nil {
		if !a.Digest.IsZero() { // else there was no answer, which was said already
			s.Errorf("%s: no body", a.Digest)
		}
		return
	}
	got := s.read(a)
	end := int64(len(content))
	if want.N >= 0 {
		end = want.Off + want.N
	}
	last := a.Off + int64(len(got))
	switch {
	case a.Off < 0 || a.Off > want.Off:
		s.Errorf("begins at %d, want %d", a.Off, want.Off)
	case last > int64(len(content)) || !bytes.Equal(got, content[a.Off:last]):
		s.Errorf("%d bytes from %d are not the content's", len(got), a.Off)
	case last < end:
		s.Errorf("ends at %d, want %d", last, end)
	case last > end && a.Off > 0:
		s.Errorf("ends at %d, want %d: a source that can skip can stop", last, end)
	}
}

// read reads a body to its end.
func (s *suite) read(a cache.Answer) []byte {
	s.Helper()
	var b bytes.Buffer
	b.Grow(int(max(a.Size, 0)) + bytes.MinRead) // without it most of the suite's time goes into growing
	n, err := b.ReadFrom(a.Body)
	if err != nil {
		s.Errorf("%s: after %d bytes: %v", a.Digest, n, err)
	}
	if err := a.Body.Close(); err != nil {
		s.Errorf("%s: close: %v", a.Digest, err)
	}
	return b.Bytes()
}

// discard closes a body that is of no interest.
func (s *suite) discard(a cache.Answer) {
	if a.Body != nil {
		_ = a.Body.Close()
	}
}
