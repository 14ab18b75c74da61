package cluster

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// Event is a word that one member says to all. Nothing in it is ever taken for content: it can make a member ask again,
// forget, or hold back for a while, and so the worst that a false one does is to cost a question.
type Event struct {
	Kind EventKind
	From string    // the member that says it
	At   time.Time // when; no two of one member's are of the same time

	Ref     cache.Ref      // a manifest's name; of Purged without tag and digest, and of Dropped always: its repository
	Digests []cache.Digest // of Moved what the tag is now, none: gone; of Dropped what is to go
	AsOf    time.Time      // of Moved: when the registry said so
	Of      string         // of Unpinned: whose pin, or of one member's own its copies' (see HeldFor); of Limited: which limit, in a word that means nothing to others
	Body    []byte         // of Limited: what the way to the registries says to its likes
}

// EventKind says what an Event is about.
type EventKind uint8

// The kinds. A number's meaning never changes; one that is not known is passed on and otherwise passed over.
const (
	Moved    EventKind = 1 + iota // a tag stands for something else
	Purged                        // a name, or all of a repository, is to be forgotten
	Dropped                       // content of a repository is to be forgotten
	Unpinned                      // a pin is taken back
	Limited                       // what a registry said of its limits
)

// lasting are events that somebody who is away for a day is still to hear; the others are of use for some hours.
func (k EventKind) lasting() bool { return k == Purged || k == Dropped || k == Unpinned }

// An event travels as a version and then fields, each a tag, a length and as many bytes, as a member's meta does.
const (
	eventVersion = 1
	// eventMax leaves room in one packet of gossip for what memberlist says beside it.
	eventMax = 1 << 10

	tagKind     = 1 // one byte
	tagFrom     = 2
	tagAt       = 3 // eight bytes: nanoseconds since 1970
	tagRegistry = 4
	tagRepo     = 5
	tagTag      = 6
	tagOf       = 7 // the Ref's digest, as text
	tagDigest   = 8 // as text; several of them
	tagAsOf     = 9
	tagWhose    = 10
	tagBody     = 11
)

var (
	errEvent     = errors.New("cluster: an event cannot be read")
	errLongEvent = errors.New("cluster: an event is too long for a message")
)

// encode writes e. What is too long for a message is refused.
func (e Event) encode() ([]byte, error) {
	b := []byte{eventVersion}
	field := func(tag byte, value string) {
		if value != "" {
			b = append(binary.AppendUvarint(append(b, tag), uint64(len(value))), value...)
		}
	}
	field(tagKind, string([]byte{byte(e.Kind)}))
	field(tagFrom, e.From)
	field(tagAt, moment(e.At))
	field(tagRegistry, e.Ref.Registry)
	field(tagRepo, e.Ref.Repo)
	field(tagTag, e.Ref.Tag)
	field(tagOf, e.Ref.Digest.String())
	for _, d := range e.Digests {
		field(tagDigest, d.String())
	}
	if !e.AsOf.IsZero() {
		field(tagAsOf, moment(e.AsOf))
	}
	field(tagWhose, e.Of)
	field(tagBody, string(e.Body))
	if len(b) > eventMax {
		return nil, errLongEvent
	}
	return b, e.check()
}

func moment(t time.Time) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(t.UnixNano())))
}

// decodeEvent reads what a member, or anybody who has the key, says. Nothing in b is believed: not its lengths, not its
// texts.
func decodeEvent(b []byte) (e Event, err error) {
	if len(b) == 0 || len(b) > eventMax || b[0] != eventVersion {
		return e, errEvent
	}
	for b = b[1:]; len(b) > 0; {
		tag := b[0]
		size, n := binary.Uvarint(b[1:])
		if n <= 0 || size == 0 || size > uint64(len(b)-1-n) {
			return e, errEvent
		}
		value := b[1+n : 1+n+int(size)]
		b = b[1+n+int(size):]
		if err := e.set(tag, value); err != nil {
			return e, err
		}
	}
	return e, e.check()
}

func (e *Event) set(tag byte, value []byte) (err error) {
	var d cache.Digest
	switch tag {
	case tagKind:
		e.Kind = EventKind(value[0])
	case tagFrom:
		e.From = string(value)
	case tagAt:
		e.At, err = readMoment(value)
	case tagRegistry:
		e.Ref.Registry, e.Ref.Kind = string(value), cache.KindManifest
	case tagRepo:
		e.Ref.Repo = string(value)
	case tagTag:
		e.Ref.Tag = string(value)
	case tagOf:
		e.Ref.Digest, err = cache.ParseDigest(string(value))
	case tagDigest:
		d, err = cache.ParseDigest(string(value))
		e.Digests = append(e.Digests, d)
	case tagAsOf:
		e.AsOf, err = readMoment(value)
	case tagWhose:
		e.Of = string(value)
	case tagBody:
		e.Body = append([]byte{}, value...)
	}
	return err
}

func readMoment(b []byte) (time.Time, error) {
	if len(b) != 8 {
		return time.Time{}, errEvent
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(b))), nil
}

// check says whether an event can be what it says. Of a kind that is not known only who says it, and when, is looked at.
func (e Event) check() error {
	if err := CheckName(e.From); err != nil {
		return err
	}
	if e.Kind == 0 || e.At.UnixNano() <= 0 {
		return errEvent
	}
	switch e.Kind {
	case Moved:
		if e.Ref.Tag == "" || len(e.Digests) > 1 || e.AsOf.IsZero() {
			return errEvent
		}
		return e.Ref.Check()
	case Unpinned:
		if len(e.Of) > maxOwner || !isPrintable(e.Of) {
			return errEvent
		}
		return e.Ref.Check()
	case Purged, Dropped:
		return e.checkPurge()
	case Limited:
		if len(e.Body) == 0 || !isText(e.Of) {
			return errEvent
		}
	}
	return nil
}

func (e Event) checkPurge() error {
	ref := e.Ref
	if ref.Tag == "" && ref.Digest.IsZero() {
		ref.Tag = "any"
	} else if e.Kind == Dropped {
		return errEvent
	}
	if (e.Kind == Dropped) != (len(e.Digests) > 0) {
		return errEvent
	}
	return ref.Check()
}

// subject is what an event is about: a later one about the same takes its place.
func (e Event) subject() string {
	s := string([]byte{byte(e.Kind)})
	switch e.Kind {
	case Moved, Purged:
		return s + e.Ref.String()
	case Unpinned:
		return s + e.Of + "\x00" + e.Ref.String()
	case Limited:
		return s + e.From + "\x00" + e.Of
	}
	return s + e.From + "\x00" + moment(e.At) // one of its own
}

// after reports whether e is a later word than o; of two at the same time one counts for all members alike.
func (e Event) after(o Event) bool {
	if !e.At.Equal(o.At) {
		return e.At.After(o.At)
	}
	return e.From > o.From
}
