package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

const (
	// lookEvery is how often the disk is looked at: how much room it has, and whether it takes writes again. An
	// operator who made room sees it taken at once, and a statfs costs nothing.
	lookEvery = 10 * time.Second
	// spare is the share of the file system that stays free, whatever the budget says: a full one hurts everybody.
	spare = 20 // a twentieth: 5 %
	// reclaim is how long a file system may take to give back the room of what was removed: some do it when they next
	// commit. What is missing until then is not missing a second time.
	reclaim = time.Minute
	// formatNumber is that of the layout described at disk. It changes when an older process would go wrong.
	formatNumber = 1
)

// fit sets the budget to what the file system can give: nothing below its last twentieth is ours.
func (d *disk) fit() {
	used := d.books.inUse()
	free, total, err := d.fs.Space(d.root)
	if err != nil || time.Now().Before(d.reclaimed) {
		return
	}
	wanted := d.wanted
	if wanted <= 0 {
		wanted = total / 100 * defaultShare
	}
	if d.books.trim(wanted, used+free-total/spare) {
		d.reclaimed = time.Now().Add(reclaim)
	}
}

// writable reports whether writing is worth a try.
func (d *disk) writable() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.trouble == nil
}

// failed notes a failed write: until a probe succeeds nothing else is written and pulls pass through.
func (d *disk) failed(err error) {
	d.mu.Lock()
	first := d.trouble == nil
	d.trouble = err
	d.mu.Unlock()
	if !first {
		return
	}
	d.log.Warn("the disk takes no writes: new content passes through without being kept", zap.Error(err))
	if noRoom(err) {
		d.books.shed()
	}
}

// probe tries a disk that took no writes again, so that no client has to.
func (d *disk) probe() {
	if d.writable() {
		return
	}
	err := d.try()
	d.mu.Lock()
	d.trouble = err
	d.mu.Unlock()
	if err == nil {
		d.log.Info("the disk takes writes again")
	}
}

// try does once what every landing needs.
func (d *disk) try() error {
	if err := errors.Join(d.makeDirs(), d.fs.Remove(d.in("CLEAN"))); err != nil {
		return err
	}
	f, path, err := d.temp()
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(make([]byte, 4<<10), 0); err == nil {
		err = d.sync()
	}
	d.books.scrap(gone{path: path})
	return errors.Join(err, f.Close())
}

// health is the trouble that lasts.
func (d *disk) health() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.trouble == nil {
		return nil
	}
	return fmt.Errorf("data directory %s takes no writes: %w", d.root, d.trouble)
}

// mark leaves word that all that is here is proven and durable.
func (d *disk) mark() error {
	if err := d.sync(); err != nil {
		return err
	}
	return d.writeFile("CLEAN", "")
}

// unmark reports whether the last process left that word, and takes it back: for good, before anything is written,
// or a power cut would bring it back.
func (d *disk) unmark() bool {
	_, err := d.fs.Lstat(d.in("CLEAN"))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	taken := d.fs.Remove(d.in("CLEAN"))
	if taken == nil {
		taken = d.sync()
	}
	if taken != nil {
		d.failed(taken)
	}
	return err == nil && taken == nil
}

// adopt makes the layout ours and reports whether it was. Of a newer one the content stays, for its names are digests
// in any layout; all else is put aside for the newer process to come back to.
func (d *disk) adopt() bool {
	found := d.format()
	if found == formatNumber {
		return true
	}
	if found > formatNumber {
		suffix := ".format" + strconv.Itoa(found)
		d.log.Warn("written by a newer tidepool: names, links and downloads under way are set aside",
			zap.String("as", d.in("*"+suffix)))
		for _, name := range []string{"facts.db", "partial", "CLEAN"} {
			if err := d.fs.Rename(d.in(name), d.unused(name+suffix)); err != nil && d.exists(name) {
				d.log.Warn("could not be set aside", zap.Error(err))
			}
		}
	}
	if err := d.writeFile("FORMAT", strconv.Itoa(formatNumber)+"\n"); err != nil {
		d.log.Warn("format not written", zap.Error(err))
	}
	return false
}

// format is the number of the layout; 0 where there is none that can be read.
func (d *disk) format() int {
	f, err := d.fs.OpenFile(d.in("FORMAT"), os.O_RDONLY, 0)
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	var buf [20]byte // as long as numbers are
	n, err := f.ReadAt(buf[:], 0)
	if err != io.EOF {
		return 0
	}
	number, _ := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	return number
}

// writeFile writes a small file of state, durably, in place of whatever has its name.
func (d *disk) writeFile(name, text string) error {
	if err := d.fs.Remove(d.in(name)); err != nil {
		return err
	}
	f, err := d.fs.OpenFile(d.in(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt([]byte(text), 0); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
