package setup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// work is a series of steps on files, of which none is done after one that failed. Then those before it are undone.
type work struct {
	err  error
	undo []func()
}

// done ends the work.
func (w *work) done() error {
	if w.err != nil {
		for i := len(w.undo) - 1; i >= 0; i-- {
			w.undo[i]()
		}
	}
	return w.err
}

// mkdirs makes dir and what is missing above it, and counts them.
func (w *work) mkdirs(dir string) (made int) {
	if _, err := os.Stat(dir); err == nil || w.err != nil {
		return 0
	}
	if parent := filepath.Dir(dir); parent != dir {
		made = w.mkdirs(parent)
	}
	if w.err != nil {
		return made
	}
	if w.err = os.Mkdir(dir, 0o755); w.err == nil {
		made++
		w.undo = append(w.undo, func() { _ = os.Remove(dir) })
	}
	return made
}

// Each backup has a name of its own. This many were made by somebody who keeps them all.
const maxBackups = 100

// backup copies f beside itself and returns the copy's path.
func (w *work) backup(f *file) string {
	for i := 1; w.err == nil && i <= maxBackups; i++ {
		name := f.path + ".before-tidepool"
		if i > 1 {
			name = fmt.Sprintf("%s-%d", name, i)
		}
		c, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if w.err = err; err != nil {
			return ""
		}
		w.undo = append(w.undo, func() { _ = os.Remove(name) })
		w.err = fill(c, f.text, f.info)
		if w.err == nil {
			w.err = os.Chtimes(name, f.info.ModTime(), f.info.ModTime())
		}
		return name
	}
	if w.err == nil {
		w.err = fmt.Errorf("there are %d backups beside it: remove those that nobody needs", maxBackups)
	}
	return ""
}

// record writes r beside f.
func (w *work) record(f *file, r record) {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		w.err = errors.Join(w.err, err)
	}
	w.put(f.recordPath(), string(b)+"\n", nil)
	if f.record == nil {
		w.undo = append(w.undo, func() { _ = os.Remove(f.recordPath()) })
	}
}

// replace makes text what f says, with the mode and the owner that it has.
func (w *work) replace(f *file, text string) { w.put(f.path, text, f.info) }

// put writes a file beside name and gives it that name, so that whoever reads it finds all of the old or all of the
// new one, also after a power cut.
func (w *work) put(name, text string, like fs.FileInfo) {
	if w.err != nil {
		return
	}
	dir := filepath.Dir(name)
	c, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*")
	if err != nil {
		w.err = err
		return
	}
	if w.err = fill(c, text, like); w.err == nil {
		w.err = os.Rename(c.Name(), name)
	}
	if w.err != nil {
		_ = os.Remove(c.Name())
		return
	}
	w.err = syncDir(dir)
}

// fill writes text to a new file, closes it, and gives it the mode and the owner of like; nil: those of a
// configuration that all may read.
func fill(c *os.File, text string, like fs.FileInfo) error {
	mode := fs.FileMode(0o644)
	var err error
	if like != nil {
		mode = like.Mode().Perm()
		if owner, ok := like.Sys().(*syscall.Stat_t); ok {
			err = c.Chown(int(owner.Uid), int(owner.Gid))
		}
	}
	if err == nil {
		err = c.Chmod(mode) // behind chown, which takes bits away
	}
	if err == nil {
		_, err = c.WriteString(text)
	}
	if err == nil {
		err = c.Sync()
	}
	return errors.Join(err, c.Close())
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
