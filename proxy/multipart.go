package proxy

import (
	"crypto/rand"
	"io"
	"strconv"
)

// parts is a multipart/byteranges body (RFC 9110, section 14.6). It is written by hand so that its length is known
// before its first byte, and so that the bytes of each part can take the way of all bytes.
type parts struct {
	boundary string
	heads    []string // what stands before the bytes of each span
	spans    []span
}

// newParts describes spans of content of the given size and type. The boundary is random: nobody can make content
// that holds it.
func newParts(spans []span, size int64, mediaType string) *parts {
	p := &parts{boundary: rand.Text(), spans: spans}
	delimiter := "--" + p.boundary
	for _, s := range spans {
		p.heads = append(p.heads, delimiter+"\r\nContent-Type: "+mediaType+
			"\r\nContent-Range: "+s.of(size)+"\r\n\r\n")
		delimiter = "\r\n--" + p.boundary
	}
	return p
}

func (p *parts) contentType() string { return "multipart/byteranges; boundary=" + p.boundary }

func (p *parts) tail() string { return "\r\n--" + p.boundary + "--\r\n" }

// length is the length of the whole body in bytes.
func (p *parts) length() int64 {
	n := int64(len(p.tail()))
	for i, s := range p.spans {
		n += int64(len(p.heads[i])) + s.n
	}
	return n
}

// send writes the body; bytes writes those of one span.
func (p *parts) send(w io.Writer, bytes func(span) error) error {
	for i, s := range p.spans {
		if _, err := io.WriteString(w, p.heads[i]); err != nil {
			return err
		}
		if err := bytes(s); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, p.tail())
	return err
}

// of is s as Content-Range has it (RFC 9110, section 14.4).
func (s span) of(size int64) string {
	return "bytes " + strconv.FormatInt(s.off, 10) + "-" + strconv.FormatInt(s.off+s.n-1, 10) + "/" +
		strconv.FormatInt(size, 10)
}
