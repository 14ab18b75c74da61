package cache

import (
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"
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

	mu       sync.Mutex
	log      File
	logged   int64 // length of the map
	promised int64 // bytes reserved on the books
	written  int64 // bytes held
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	// recordSize is offset, length, the bytes' checksum and the record's own.
	recordSize = 8 + 8 + 4 + 4
	headerSize = 8 + 4
	// grant is how much is reserved at a time: large enough to be rare, small beside any budget.
	grant = 16 << 20
)

// mapPath is the map's name beside a partial's.
func mapPath(path string) string { return path + ".map" }

// partialMark tells the partials of one registry from another's: what one sent proves nothing of the other, so they
// never share one. It is part of the file's name.
func partialMark(registry string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, registry)
	return h.Sum64() | 1 // never 0, which means landed
}

// startPartial opens the partial of s, with what an earlier download left in it, or makes a new one. size is -1 where
// the earlier one did not know it.
func (d *disk) startPartial(s slot) (p *partial, held spans, size int64, err error) {
	p = &partial{disk: d, slot: s}
	if path, n := d.books.take(s); path != "" {
		p.path, p.promised = path, n
		if held, size, err = p.reopen(); err == nil {
			p.reopened = true
			return p, held, size, nil
		}
		d.log.Warn("partial download set aside", zap.Error(err))
		p.discard()
		p = &partial{disk: d, slot: s}
	}
	err = p.create()
	return p, nil, -1, err
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
	p.noteSize(-1)
	return nil
}

func s16(n uint64) string { return strconv.FormatUint(n, 16) }

// reopen reads the map and, after a crash, checks each stretch against its checksum.
func (p *partial) reopen() (held spans, size int64, err error) {
	d := p.disk
	if p.file, err = d.fs.OpenFile(p.path, os.O_RDWR, 0); err != nil {
		return nil, -1, err
	}
	if p.log, err = d.fs.OpenFile(mapPath(p.path), os.O_RDWR, 0); err != nil {
		return nil, -1, err
	}
	size, records, err := readMap(p.log)
	if err != nil {
		return nil, -1, err
	}
	p.logged = headerSize + int64(len(records))*recordSize
	for _, r := range records {
		if d.clean || p.intact(r) {
			held.add(r.off, r.off+r.n)
		}
	}
	p.written = held.total()
	p.promise(p.written - p.promised) // what the books had from the file's length is put right
	return held, size, nil
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

// write puts b at off. errNoRoom where the books have no room for it.
func (p *partial) write(b []byte, off int64) error {
	n := int64(len(b))
	p.mu.Lock()
	short := p.written + n - p.promised
	ok := short <= 0 || p.promise(max(short, grant)) || p.promise(short)
	p.written += n
	p.mu.Unlock()
	if !ok {
		return errNoRoom
	}
	_, err := p.file.WriteAt(b, off)
	return err
}

// note logs that a stretch is held. A map that cannot be written costs a later download, not this one.
func (p *partial) note(r record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log == nil {
		return
	}
	if _, err := p.log.WriteAt(r.encode(), p.logged); err != nil {
		p.disk.log.Debug("map of a partial download not written", zap.Error(err))
		return
	}
	p.logged += recordSize
}

// noteSize logs the whole's size, the map's header.
func (p *partial) noteSize(size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log == nil {
		return
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(size))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := p.log.WriteAt(b, 0); err == nil {
		p.logged = max(p.logged, headerSize)
	}
}

// open opens the file for one reader: two on one descriptor would lose each other's place.
func (p *partial) open() (File, error) { return p.disk.fs.OpenFile(p.path, os.O_RDONLY, 0) }

// close lets go of the descriptors.
func (p *partial) close() {
	for _, f := range []File{p.file, p.log} {
		if f != nil {
			_ = f.Close()
		}
	}
	p.log = nil
}

// discard removes the partial.
func (p *partial) discard() {
	p.close()
	p.promise(-p.promised)
	for _, name := range []string{p.path, mapPath(p.path)} {
		if err := p.disk.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.disk.log.Debug("left over", zap.Error(err))
		}
	}
}

// park leaves the partial to a later download. One that holds nothing is not worth an entry.
func (p *partial) park(held int64) {
	if held == 0 {
		p.discard()
		return
	}
	p.close()
	p.disk.books.park(p.slot, held, p.promised, p.path)
}

// land hands the file over to be committed, with the readers it has.
func (p *partial) land(size int64, readers int) *entry {
	return p.disk.land(p.slot.digest, p.path, size, p.promised, readers)
}

// dropMap removes the map of what has landed.
func (p *partial) dropMap() { _ = p.disk.fs.Remove(mapPath(p.path)) }

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

// readMap reads a map up to its first torn record.
func readMap(f File) (size int64, records []record, err error) {
	const most = 64 << 20 // 2.8 million stretches: more than any client asks for
	b, err := io.ReadAll(io.NewSectionReader(f, 0, most))
	if err != nil || len(b) < headerSize {
		return -1, nil, cmp.Or(err, errMap)
	}
	if crc32.Checksum(b[:8], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return -1, nil, errMap
	}
	size = int64(binary.LittleEndian.Uint64(b))
	for b = b[headerSize:]; len(b) >= recordSize; b = b[recordSize:] {
		r := record{
			off: int64(binary.LittleEndian.Uint64(b)),
			n:   int64(binary.LittleEndian.Uint64(b[8:])),
			sum: binary.LittleEndian.Uint32(b[16:]),
		}
		whole := crc32.Checksum(b[:recordSize-4], castagnoli) == binary.LittleEndian.Uint32(b[recordSize-4:])
		if !whole || r.off < 0 || r.n <= 0 || r.off > forever-r.n || (size >= 0 && r.off+r.n > size) {
			break
		}
		records = append(records, r)
	}
	return size, records, nil
}

// findPartials enters on the books what downloads of earlier processes left. It runs before any download begins.
func (d *disk) findPartials() {
	for _, alg := range []string{"sha256", "sha512"} {
		dir := filepath.Join(d.root, "partial", alg)
		files, _ := d.fs.ReadDir(dir)
		for _, f := range files {
			if name := f.Name(); strings.HasSuffix(name, ".map") {
				if _, err := d.fs.Lstat(strings.TrimSuffix(filepath.Join(dir, name), ".map")); err != nil {
					_ = d.fs.Remove(filepath.Join(dir, name))
				}
				continue
			}
			d.findPartial(alg, dir, f)
		}
	}
}

func (d *disk) findPartial(alg, dir string, f fs.DirEntry) {
	path := filepath.Join(dir, f.Name())
	text, rest, _ := strings.Cut(f.Name(), "-")
	mark, _, _ := strings.Cut(rest, ".")
	g, err := ParseDigest(alg + ":" + text)
	n, err2 := strconv.ParseUint(mark, 16, 64)
	fi, err3 := f.Info()
	m, err4 := d.fs.Lstat(mapPath(path))
	if err := cmp.Or(err, err2, err3, err4); err != nil || n == 0 || !fi.Mode().IsRegular() || !m.Mode().IsRegular() {
		_ = d.fs.Remove(path)
		_ = d.fs.Remove(mapPath(path))
		return
	}
	if time.Since(fi.ModTime()) > staleAfter {
		_ = d.fs.Remove(path)
		_ = d.fs.Remove(mapPath(path))
		return
	}
	d.books.park(slot{digest: g, partial: n}, room(fi), 0, path)
}

// room is what a file, which may be sparse, takes on disk.
func room(fi fs.FileInfo) int64 {
	if s, ok := fi.Sys().(*syscall.Stat_t); ok {
		const block = 512 // the unit of st_blocks, whatever the file system's own
		return min(fi.Size(), s.Blocks*block)
	}
	return fi.Size()
}

// staleAfter is when a download that nobody continued is given up.
const staleAfter = 30 * 24 * time.Hour
