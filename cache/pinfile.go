package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
)

const (
	// pinSchema is the number of a pin's file. It changes when an older process would go wrong.
	pinSchema = 1
	// largestPin is far beyond an index of all platforms with all their layers: 10,000 parts have 3 MB.
	largestPin = 16 << 20
	pinSuffix  = ".json"
	sumPrefix  = "sha256:"
)

// pinDoc is a pin as it is written.
type pinDoc struct {
	Schema     int       `json:"schema"`
	Registry   string    `json:"registry"`
	Repository string    `json:"repository"`
	Tag        string    `json:"tag,omitempty"`
	Digest     string    `json:"digest,omitempty"`
	Owner      string    `json:"owner"`
	At         time.Time `json:"pinned"`
	Parts      []partDoc `json:"parts"`
}

type partDoc struct {
	Kind      string     `json:"kind"`
	Tag       string     `json:"tag,omitempty"`
	Of        string     `json:"of,omitempty"` // of referrers: what they refer to
	MediaType string     `json:"mediaType,omitempty"`
	Digest    string     `json:"digest"`
	Size      int64      `json:"size"`
	AsOf      *time.Time `json:"as_of,omitempty"`
}

// encode is p as a file: one JSON document, and a line with the digest of all before it.
func (p Pin) encode() ([]byte, error) {
	doc := pinDoc{
		Schema: pinSchema, Registry: p.Ref.Registry, Repository: p.Ref.Repo, Tag: p.Ref.Tag, Owner: p.Owner,
		At: p.At.UTC(), Digest: text(p.Ref.Digest),
	}
	for _, x := range p.Parts {
		part := partDoc{Kind: x.Ref.Kind.String(), MediaType: x.MediaType, Digest: text(x.Digest), Size: x.Size}
		if x.Ref.Mutable() {
			at := x.AsOf.UTC()
			part.Tag, part.Of, part.AsOf = x.Ref.Tag, text(x.Ref.Digest), &at
		}
		doc.Parts = append(doc.Parts, part)
	}
	b, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	sum := sha256.Sum256(b)
	return append(b, sumPrefix+hex.EncodeToString(sum[:])+"\n"...), nil
}

func text(d Digest) string {
	if d.IsZero() {
		return ""
	}
	return d.String()
}

// errPinSum says that a file is not what was written.
var errPinSum = errors.New("its checksum is not that of its bytes")

func decodePin(b []byte) (Pin, error) {
	end := bytes.LastIndex(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) + 1
	sum := sha256.Sum256(b[:end])
	if string(b[end:]) != sumPrefix+hex.EncodeToString(sum[:])+"\n" {
		return Pin{}, errPinSum
	}
	var doc pinDoc
	if err := json.Unmarshal(b[:end], &doc); err != nil {
		return Pin{}, err
	}
	if doc.Schema != pinSchema {
		return Pin{}, fmt.Errorf("its format is %d, and this tidepool knows %d", doc.Schema, pinSchema)
	}
	return doc.pin()
}

func (doc pinDoc) pin() (p Pin, err error) {
	repo := Ref{Registry: doc.Registry, Repo: doc.Repository, Kind: KindManifest}
	p = Pin{Ref: repo, Owner: doc.Owner, At: doc.At}
	if p.Ref.Tag = doc.Tag; doc.Digest != "" {
		if p.Ref.Digest, err = ParseDigest(doc.Digest); err != nil {
			return p, err
		}
	}
	for _, x := range doc.Parts {
		part, err := x.part(repo)
		if err != nil {
			return p, err
		}
		p.Parts = append(p.Parts, part)
	}
	return p, p.check()
}

func (x partDoc) part(repo Ref) (part Part, err error) {
	part.Ref, part.MediaType, part.Size = repo, x.MediaType, x.Size
	if part.Digest, err = ParseDigest(x.Digest); err != nil {
		return part, err
	}
	if part.Ref.Kind, err = ParseKind(x.Kind); err != nil {
		return part, err
	}
	switch {
	case x.AsOf == nil:
		part.Ref.Digest = part.Digest
	case x.Of != "":
		part.AsOf = *x.AsOf
		part.Ref.Digest, err = ParseDigest(x.Of)
	default:
		part.AsOf, part.Ref.Tag = *x.AsOf, x.Tag
	}
	return part, err
}

// path is where the file of a pin is: that of a newer version beside that of the one that it replaces, until it is
// safe.
func (s *pins) path(p Pin) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", p.Owner, p.Ref, p.At.UnixNano()))
	return filepath.Join(s.dir(), hex.EncodeToString(sum[:16])+pinSuffix)
}

func (s *pins) dir() string { return s.disk.in("pins") }

// write puts p on disk. left: it failed, and the file may be there all the same.
func (s *pins) write(p Pin) (left bool, err error) {
	b, err := p.encode()
	if err != nil {
		return false, err
	}
	if len(b) > largestPin {
		return false, fmt.Errorf("it has too many parts: %d", len(p.Parts))
	}
	tmp, err := s.disk.spill(b)
	if err != nil {
		return false, err
	}
	if err = s.disk.syncFile(tmp); err == nil {
		err = s.disk.place(tmp, s.path(p))
	}
	if err != nil {
		s.disk.books.scrap(gone{path: tmp})
		return false, err
	}
	if err = s.disk.sync(); err != nil { // the name is as dear as the bytes
		left = s.erase(p) != nil
	}
	return left, err
}

// erase removes the file of p, for good.
func (s *pins) erase(p Pin) error {
	if err := s.disk.fs.Remove(s.path(p)); err != nil {
		return err
	}
	return s.disk.sync()
}

// loadPins reads what is pinned, before anything could be evicted. Files that are damaged are set aside; where some
// cannot be read at all, nothing is evicted while this process runs.
func loadPins(d *disk) *pins {
	s := &pins{disk: d, log: d.log, turn: make(chan struct{}, 1), all: map[pinKey]Pin{}, names: map[Ref][]Part{}, held: map[Ref]int{}}
	files, err := s.list()
	if err != nil {
		s.unread(s.dir(), err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), pinSuffix) {
			continue
		}
		path := filepath.Join(s.dir(), f.Name())
		p, err := s.read(path)
		switch {
		case err == nil && s.path(p) == path:
			s.enter(p)
		case err == nil:
			s.setAside(path, errors.New("it is named for another"))
		case isDiskError(err) && !errors.Is(err, fs.ErrNotExist):
			s.unread(path, err)
		default:
			s.setAside(path, err)
		}
	}
	for _, p := range s.all {
		d.books.pin(p.digests())
	}
	return s
}

// enter takes p in, unless a newer version of it is there.
func (s *pins) enter(p Pin) {
	old, was := s.find(p.Owner, p.Ref)
	if was && old.At.After(p.At) {
		old, p = p, old
	}
	if was {
		if err := s.disk.fs.Remove(s.path(old)); err != nil { // it will be in our way at the next start too
			s.log.Warn("an old pin could not be removed", zap.Error(err))
		}
	}
	s.swap(p)
}

// list is what is in the directory, which is made anew where it is missing or something else.
func (s *pins) list() ([]fs.DirEntry, error) {
	fi, err := s.disk.fs.Lstat(s.dir())
	if err == nil && !fi.IsDir() {
		s.setAside(s.dir(), errors.New("it is no directory"))
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.absent(s.disk.fs.MkdirAll(s.dir(), 0o700))
	}
	if err != nil {
		return nil, err
	}
	return s.disk.fs.ReadDir(s.dir())
}

// absent passes over that a directory which is not there cannot be made: nothing is pinned.
func (s *pins) absent(err error) error {
	if err != nil {
		s.log.Warn("nothing can be pinned", zap.Error(err))
	}
	return nil
}

func (s *pins) read(path string) (Pin, error) {
	f, err := s.disk.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return Pin{}, err
	}
	defer func() { _ = f.Close() }()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return Pin{}, errors.Join(err, errors.New("it is no file"))
	}
	b, err := io.ReadAll(io.LimitReader(f, largestPin+1))
	if err != nil {
		return Pin{}, err
	}
	return decodePin(b)
}

// setAside keeps for a person what is of no use to us.
func (s *pins) setAside(path string, why error) {
	to := path + ".bad"
	s.fault(fmt.Errorf("the pin in %s was lost: %w; pin the image again", path, why))
	s.log.Error("a pin could not be read and is set aside: what it kept may be evicted",
		zap.String("as", to), zap.Error(why))
	if err := errors.Join(s.disk.fs.Remove(to), s.disk.fs.Rename(path, to)); err != nil {
		s.log.Warn("could not be set aside", zap.Error(err))
	}
}

// unread has nothing evicted, since anything may be what is pinned.
func (s *pins) unread(path string, err error) {
	s.disk.books.freeze()
	s.fault(fmt.Errorf("what is pinned could not be read: %w; nothing is evicted, and new content passes through once the budget "+
		"is used up, until %s can be read and tidepool is started again", err, path))
	s.log.Error("what is pinned could not be read: nothing is evicted", zap.String("path", path), zap.Error(err))
}

func (s *pins) fault(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = errors.Join(s.bad, err)
}
