// Package setup writes into the clients' own files on this machine that they pull through tidepool, and takes it out
// again.
//
// Its invariant: what is not about tidepool stays as it is, or the file is left alone. A file is replaced as a whole or
// not at all; what was in it before is kept beside it until it is put back.
package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidepool-oci/tidepool/deploy"
)

// Done is what became of a client's file.
type Done struct {
	File   string // links followed
	Change Change
	Backup string // has what was in File before tidepool; empty: there is none
	Next   string // what makes the client notice; empty: nothing changed
}

// Change is one way in which a file can fare.
type Change string

// What Write does.
const (
	Created   Change = "written"
	Added     Change = "tidepool added"
	Updated   Change = "what tidepool wrote before brought up to date"
	Unchanged Change = "nothing to change: it leads to tidepool already"
)

// What Undo does.
const (
	Restored Change = "as it was before tidepool again"
	Removed  Change = "removed: there was nothing but tidepool in it"
	TakenOut Change = "tidepool taken out; what else was changed since is kept"
	Absent   Change = "nothing of tidepool's is in it any more"
	NotOurs  Change = "left as it is: tidepool has written nothing there"
)

// String is d in one line.
func (d Done) String() string {
	line := d.File + ": " + string(d.Change)
	if d.Backup != "" {
		line += "; as it was before: " + d.Backup
	}
	return line
}

// Write has the client of that name pull through a server, by its file below root. Doing it twice is doing it once.
func Write(root, name string, to deploy.Server) (Done, error) {
	c, err := find(name, to.Fallback)
	if err != nil {
		return Done{}, err
	}
	f, err := open(root, c.file)
	if err != nil {
		return Done{}, f.failed(err)
	}
	if same, err := c.form.merge(f.text, to.Address); err == nil && f.info != nil && same == f.text {
		return Done{File: f.path, Change: Unchanged}, nil
	}
	base, err := f.without(c.form)
	if err != nil {
		return Done{}, f.failed(err)
	}
	text, err := c.form.merge(base, to.Address)
	if err != nil {
		return Done{}, f.failed(err)
	}
	d, err := f.write(text, to.Address, base != f.text)
	d.Next = c.next
	return d, f.failed(err)
}

// without is f's text without what an earlier Write put there.
func (f *file) without(form form) (string, error) {
	switch {
	case f.record == nil:
		return f.text, nil
	case f.untouched() && f.record.Backup == "":
		return "", nil
	case f.untouched():
		if before, ok := f.before(); ok {
			return before, nil
		}
	}
	return form.remove(f.text, f.record.Address)
}

// write makes text what f says, and keeps what it said before: of a file that said again of the server what it did
// before, by another address, that is kept already.
func (f *file) write(text, address string, again bool) (Done, error) {
	d := Done{File: f.path, Change: Created}
	r := record{Schema: 1, Address: address, Wrote: sum(text)}
	var w work
	r.Made = w.mkdirs(filepath.Dir(f.path))
	switch {
	case again:
		d.Change = Updated
		r.Backup, r.Before, r.Made = f.record.Backup, f.record.Before, f.record.Made
		if !f.untouched() {
			r.Wrote = "" // to put back what was before would undo what others did since
		}
	case f.info != nil:
		d.Change, d.Backup, r.Before = Added, w.backup(f), sum(f.text)
		r.Backup = filepath.Base(d.Backup)
	}
	w.record(f, r)
	w.replace(f, text)
	return d, w.done()
}

// Undo takes out what Write put into the file of the client of that name below root. Where nothing else was changed
// since, the file is what it was before.
func Undo(root, name string) (Done, error) {
	c, err := find(name, false) // either is taken out
	if err != nil {
		return Done{}, err
	}
	f, err := open(root, c.file)
	if err != nil {
		return Done{}, f.failed(err)
	}
	if f.record == nil {
		return Done{File: f.path, Change: NotOurs}, nil
	}
	d := Done{File: f.path, Next: c.next}
	if d.Change, err = f.restore(c.form); err != nil {
		return Done{}, f.failed(err)
	}
	if d.Change == Absent {
		d.Next = ""
	}
	if _, ok := f.before(); ok && d.Change != Restored {
		d.Backup = f.backupPath()
	}
	if err := os.Remove(f.recordPath()); !errors.Is(err, fs.ErrNotExist) {
		return d, f.failed(err)
	}
	return d, nil
}

// restore makes f what it was before, or takes tidepool out of what it is now.
func (f *file) restore(form form) (Change, error) {
	if f.untouched() {
		if f.record.Backup == "" {
			return Removed, f.remove()
		}
		if _, ok := f.before(); ok {
			return Restored, errors.Join(os.Rename(f.backupPath(), f.path), syncDir(filepath.Dir(f.path)))
		}
	}
	text, err := form.remove(f.text, f.record.Address)
	if err != nil {
		return "", err
	}
	switch left := strings.TrimSpace(text); {
	case f.info == nil || text == f.text:
		return Absent, nil
	case f.record.Backup == "" && (left == "" || left == "{}"):
		return Removed, f.remove()
	}
	var w work
	w.replace(f, text)
	return TakenOut, w.done()
}

// remove removes f, and what directories were made for it if nothing else came into them.
func (f *file) remove() error {
	if err := os.Remove(f.path); err != nil {
		return err
	}
	dir := filepath.Dir(f.path)
	if err := errors.Join(os.Remove(f.recordPath()), syncDir(dir)); err != nil {
		return err
	}
	for range f.record.Made {
		if os.Remove(dir) != nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return nil
}

// failed says what err is about, and what to do where it is about permissions.
func (f *file) failed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s was not changed: %w: run it as root, or say --root DIR to write below DIR", f.path, err)
	default:
		return fmt.Errorf("%s was not changed: %w", f.path, err)
	}
}
