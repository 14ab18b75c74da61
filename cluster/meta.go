package cluster

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"unicode/utf8"
)

// What a member says of itself travels beside its name, in at most 512 bytes (memberlist's MetaMaxSize): a version, and
// then fields, each a tag, a length and as many bytes. A tag that is not known is passed over, so that members of
// several versions get along; a tag's meaning never changes, and a new version says that no older one may read on.
const (
	metaVersion = 1
	metaMax     = 512

	tagAddr    = 1
	tagZone    = 2
	tagWeight  = 3 // one byte
	tagState   = 4 // one byte
	tagVersion = 5

	maxText = 63  // bytes of a zone or a version: people read them
	maxHost = 253 // bytes of a host name (RFC 1035, section 2.3.4)
)

var errMeta = errors.New("cluster: what a member says of itself cannot be read")

// encodeMeta writes m without its name. What checkMember lets pass fits.
func encodeMeta(m Member) []byte {
	b := []byte{metaVersion}
	field := func(tag byte, value ...byte) {
		if len(value) > 0 {
			b = append(binary.AppendUvarint(append(b, tag), uint64(len(value))), value...)
		}
	}
	field(tagAddr, []byte(m.Addr)...)
	field(tagZone, []byte(m.Zone)...)
	field(tagWeight, byte(weight(m)))
	field(tagState, byte(m.State))
	field(tagVersion, []byte(m.Version)...)
	return b
}

// decodeMeta reads what a member called name says of itself from the address gossip knows it by. Nothing in b is
// believed: not its lengths, not its texts. A state that is not known counts as Joining, which owns nothing.
func decodeMeta(name string, from netip.Addr, b []byte) (Member, error) {
	if len(b) == 0 || len(b) > metaMax || b[0] != metaVersion {
		return Member{}, errMeta
	}
	m := Member{Name: name, Weight: 1}
	for b = b[1:]; len(b) > 0; {
		tag := b[0]
		size, n := binary.Uvarint(b[1:])
		if n <= 0 || size > uint64(len(b)-1-n) {
			return Member{}, errMeta
		}
		value := b[1+n : 1+n+int(size)]
		b = b[1+n+int(size):]
		if len(value) > 0 {
			m.set(tag, value)
		}
	}
	m.Addr = reachable(m.Addr, from)
	return m, checkMember(m)
}

func (m *Member) set(tag byte, value []byte) {
	switch tag {
	case tagAddr:
		m.Addr = string(value)
	case tagZone:
		m.Zone = string(value)
	case tagWeight:
		m.Weight = int(value[0])
	case tagState:
		if m.State = State(value[0]); m.State > Draining {
			m.State = Joining
		}
	case tagVersion:
		m.Version = string(value)
	}
}

// reachable is addr with the address gossip comes from where addr names no host: a member that listens everywhere
// cannot know which of its addresses the others reach.
func reachable(addr string, from netip.Addr) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || !from.IsValid() {
		return addr
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return net.JoinHostPort(from.Unmap().String(), port)
	}
	return addr
}

// checkMember says whether a member can be what it says.
func checkMember(m Member) error {
	if err := CheckName(m.Name); err != nil {
		return err
	}
	if m.Addr != "" && !isHostPort(m.Addr) || !isText(m.Zone) || !isText(m.Version) || m.Weight < 1 || m.Weight > MaxWeight {
		return errMeta
	}
	return nil
}

// isHostPort keeps to addresses and host names: the text becomes part of a URL.
func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || len(host) > maxHost {
		return false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return !ip.IsMulticast()
	}
	for _, c := range []byte(host) {
		if c >= 0x80 || c != '-' && c != '.' && c != '_' && !(c >= '0' && c <= '9') && !(c|0x20 >= 'a' && c|0x20 <= 'z') {
			return false
		}
	}
	return host != ""
}

// isText keeps to what people read.
func isText(s string) bool { return len(s) <= maxText && isPrintable(s) }

// isPrintable keeps out what would garble a terminal or a log.
func isPrintable(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return false
		}
	}
	return true
}
