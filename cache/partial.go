package cache

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// partial is the file of a download under way, and its map: a log of which bytes are held, each record with a
// checksum of the bytes and one of itself. Whatever a crash leaves of either, a stretch counts exactly if both fit,
// so the map needs no sync of its own and a killed process loses at most what it had not logged.
type partial struct {
	disk     *disk
	slot     slot
	path     string
	file     File
	reopened bool // with what an earlier download left in it

	mu       sync.Mutex // guards what follows, for a moment
	log      File       // the map; nil once it is closed
	logged   int64      // length of the map
	size     int64      // of the whole; -1: not known yet
	promised int64      // bytes reserved on the books
	written  int64      // bytes written
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	// recordSize is offset, length, the bytes' checksum and the record's own.
	recordSize = 8 + 8 + 4 + 4
	headerSize = 8 + 4
	// grant is how much is reserved at a time: large enough to be rare, small beside any budget.
	grant = 16 << 20
	// longestMap bounds the map: 2.8 million stretches are more than any client asks for.
	longestMap = 64 << 20
	// staleAfter is when a download that nobody continued is given up.
	staleAfter = 30 * 24 * time.Hour
)

const mapSuffix = ".map"

// mapPath is the map's name beside a partial's.
func mapPath(path string) string { return path + mapSuffix }

// partialMark tells the partials of one registry from another's: what one sent proves nothing of the other, so they
// never share one, and nobody can choose a registry's name so that they would. It is part of the file's name.
func partialMark(registry string) uint64 {
	sum := sha256.Sum256([]byte(registry))
	return binary.LittleEndian.Uint64(sum[:]) | 1 // never 0, which means landed
}

// startPartial opens the partial of s, with what an earlier download left in it, or makes a new one. size is -1 where
// the earlier one did not know it.
func (d *disk) startPartial(s slot) (p *partial, held spans, size int64, err error) {
	p = &partial{disk: d, slot: s, size: -1}
	path, n, proven := d.books.take(s)
	if p.path, p.promised = path, n; path != "" {
		held, err = p.reopen(proven)
		switch {
		case err == nil:
			return p, held, p.size, nil
		case exhausted(err): // not its fault
			p.close()
			d.books.park(s, n, p.promised, path, proven)
			return nil, nil, -1, err
		}
		d.log.Warn("partial download set aside", zap.Error(err))
		p.discard()
		p = &partial{disk: d, slot: s, size: -1}
	}
	return p, nil, -1, p.create()
}

func (p *partial) create() (err error) {
	d := p.disk
	for {
		name := s16(p.slot.partial) + "." + s16(d.serial.Add(1))
		p.path = filepath.Join(d.root, "partial", p.slot.digest.Algorithm(), p.slot.digest.Hex()+"-"+name)
		p.file, err = d.fs.OpenFile(p.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err == nil {
		p.log, err = d.fs.OpenFile(mapPath(p.path), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	}
	if err != nil {
		p.discard()
		return err
	}
	p.logged = headerSize
	p.noteHeader(p.log, -1)
	return nil
}

func s16(n uint64) string { return strconv.FormatUint(n, 16) }

// reopen reads the map and, unless that is known to be whole, checks each stretch against its checksum.
func (p *partial) reopen(proven bool) (held spans, err error) {
	d := p.disk
	if p.file, err = d.fs.OpenFile(p.path, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if p.log, err = d.fs.OpenFile(mapPath(p.path), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	size, records, logged, err := readMap(p.log)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if proven || p.intact(r) {
			held.add(r.off, r.off+r.n)
		}
	}
	p.size, p.logged, p.written, p.reopened = size, logged, held.total(), true
	p.promise(p.written - p.promised) // what the books had from the file's length is put right
	return held, nil
}

// intact reports whether the bytes of r are what they were.
func (p *partial) intact(r record) bool {
	sum := crc32.New(castagnoli)
	n, err := io.Copy(sum, io.NewSectionReader(p.file, r.off, r.n))
	return err == nil && n == r.n && sum.Sum32() == r.sum
}

// promise changes what is reserved by n, downwards too.
func (p *partial) promise(n int64) bool {
	if n > 0 && !p.disk.books.reserve(n) {
		return false
	}
	if n < 0 {
		p.disk.books.release(-n)
	}
	p.promised += n
	return true
}

// write puts b at off. ErrNoRoom where the books have no room for it.
func (p *partial) write(b []byte, off int64) error {
	if !p.claim(int64(len(b))) {
		return ErrNoRoom
	}
	_, err := p.file.WriteAt(b, off)
	return err
}

// claim reports whether there is room for n bytes more.
func (p *partial) claim(n int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written += n
	most := int64(forever)
	if p.size >= 0 {
		most = p.size // bytes that come twice need no room twice
	}
	short := min(p.written, most) - p.promised
	return short <= 0 || p.promise(min(max(short, grant), most-p.promised)) || p.promise(short)
}

// note logs that a stretch is held. A map that cannot be written costs a later download, not this one.
func (p *partial) note(r record) {
	p.mu.Lock()
	log, at := p.log, p.logged
	p.logged += recordSize
	p.mu.Unlock()
	if log == nil || at >= longestMap {
		return
	}
	if _, err := log.WriteAt(r.encode(), at); err != nil {
		p.disk.log.Debug("map of a partial download not written", zap.Error(err))
	}
}

// noteSize logs the size of the whole; -1: not known.
func (p *partial) noteSize(size int64) {
	p.mu.Lock()
	log, known := p.log, p.size == size
	p.size = size
	p.mu.Unlock()
	if log != nil && !known {
		p.noteHeader(log, size)
	}
}

// noteHeader writes the map's header.
func (p *partial) noteHeader(log File, size int64) {
	b := binary.LittleEndian.AppendUint64(nil, uint64(size))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := log.WriteAt(b, 0); err != nil {
		p.disk.log.Debug("map of a partial download not written", zap.Error(err))
	}
}

// open opens the file for one reader: two on one descriptor would lose each other's place.
func (p *partial) open() (File, error) { return p.disk.fs.OpenFile(p.path, os.O_RDONLY, 0) }

// close lets go of the descriptors.
func (p *partial) close() {
	p.mu.Lock()
	log := p.log
	p.log = nil
	p.mu.Unlock()
	for _, f := range []File{p.file, log} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// discard removes the partial.
func (p *partial) discard() {
	p.close()
	p.promise(-p.promised)
	p.disk.books.scrap(gone{slot: p.slot, path: p.path})
	p.disk.kick()
}

// park leaves the partial to a later download. One that holds nothing is not worth an entry.
func (p *partial) park(held int64) {
	if held == 0 {
		p.discard()
		return
	}
	p.close()
	p.disk.books.park(p.slot, held, p.promised, p.path, true)
}

// land hands the file over to be committed, with the readers it has. Its map stays until then: a process that is
// killed meanwhile has a whole download to continue.
func (p *partial) land(size int64, readers int, k Keeping) *entry {
	return p.disk.land(p.slot.digest, p.path, size, p.promised, readers, k)
}

// record is one line of the map: n bytes from off on, and their checksum.
type record struct {
	off, n int64
	sum    uint32
}

func (r record) encode() []byte {
	b := make([]byte, 0, recordSize)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.off))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.n))
	b = binary.LittleEndian.AppendUint32(b, r.sum)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errMap = errors.New("map of a partial download is damaged")

// readMap reads the records of a map that are whole, and how long it is with those that are not.
func readMap(f io.ReaderAt) (size int64, records []record, length int64, err error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, longestMap))
	if err != nil || len(b) < headerSize {
		return -1, nil, 0, cmp.Or(err, errMap)
	}
	if crc32.Checksum(b[:8], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return -1, nil, 0, errMap
	}
	size = max(-1, int64(binary.LittleEndian.Uint64(b)))
	length = headerSize
	for b = b[headerSize:]; len(b) >= recordSize; b = b[recordSize:] {
		length += recordSize
		if r, ok := decodeRecord(b[:recordSize]); ok && (size < 0 || r.off+r.n <= size) {
			records = append(records, r)
		}
	}
	return size, records, length, nil
}

func decodeRecord(b []byte) (r record, ok bool) {
	r = record{
		off: int64(binary.LittleEndian.Uint64(b)),
		n:   int64(binary.LittleEndian.Uint64(b[8:])),
		sum: binary.LittleEndian.Uint32(b[16:]),
	}
	whole := crc32.Checksum(b[:recordSize-4], castagnoli) == binary.LittleEndian.Uint32(b[recordSize-4:])
	return r, whole && r.off >= 0 && r.n > 0 && r.off <= forever-r.n
}

// findPartials enters on the books what downloads of earlier processes left. It runs before any download begins.
func (d *disk) findPartials() {
	for _, alg := range []string{"sha256", "sha512"} {
		dir := filepath.Join(d.root, "partial", alg)
		files, err := d.fs.ReadDir(dir)
		if err != nil {
			d.log.Warn("downloads that broke off are not continued", zap.Error(err))
		}
		for _, f := range files {
			path := filepath.Join(dir, f.Name())
			base, isMap := strings.CutSuffix(path, mapSuffix)
			if _, err := d.fs.Lstat(base); isMap && err == nil {
				continue // it goes with the other
			}
			if isMap || !d.findPartial(alg, path, f) {
				d.books.scrap(gone{path: path})
			}
		}
	}
	d.remove()
}

// findPartial reports whether the file at path may be continued.
func (d *disk) findPartial(alg, path string, f fs.DirEntry) bool {
	text, rest, _ := strings.Cut(f.Name(), "-")
	registry, _, _ := strings.Cut(rest, ".")
	g, err := ParseDigest(alg + ":" + text)
	n, err2 := strconv.ParseUint(registry, 16, 64)
	fi, err3 := f.Info()
	m, err4 := d.fs.Lstat(mapPath(path))
	if cmp.Or(err, err2, err3, err4) != nil || n == 0 || !fi.Mode().IsRegular() || !m.Mode().IsRegular() ||
		time.Since(fi.ModTime()) > staleAfter {
		return false
	}
	d.books.park(slot{digest: g, partial: n}, room(fi), 0, path, d.clean)
	return true
}

// room is what a file, which may be sparse, takes on disk.
func room(fi fs.FileInfo) int64 {
	if s, ok := fi.Sys().(*syscall.Stat_t); ok {
		const block = 512 // the unit of st_blocks, whatever the file system's own
		return min(fi.Size(), s.Blocks*block)
	}
	return fi.Size()
}
