package setup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// maxSize is a hundred times what such files have.
const maxSize = 1 << 20

// file is a client's file as it was found, and what is known of an earlier Write.
type file struct {
	path   string
	info   fs.FileInfo // nil: there is none
	text   string
	record *record // nil: tidepool has written nothing
}

// record stands beside a file that tidepool wrote, so that undoing does not have to guess.
type record struct {
	Schema  int    `json:"schema"`
	Address string `json:"address"`          // of the server
	Wrote   string `json:"wrote"`            // the sum of the file as tidepool left it; empty: others had changed it already
	Backup  string `json:"backup,omitempty"` // the name of the file's copy beside it; empty: there was no file
	Before  string `json:"before,omitempty"` // the sum of that copy
	Made    int    `json:"made,omitempty"`   // how many directories were made for the file
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(s[:])
}

// open reads the file of that name below root. It is never nil.
func open(root, name string) (*file, error) {
	f := &file{path: filepath.Join(root, name)}
	info, err := os.Stat(root)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", root)
	}
	if err == nil {
		f.path, err = locate(root, name)
	}
	if err == nil {
		err = f.read()
	}
	if err == nil {
		err = f.readRecord()
	}
	return f, err
}

func (f *file) read() error {
	info, err := os.Lstat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is no file but something else: remove it first")
	case info.Size() > maxSize:
		return errors.New("it has more than 1 MiB, and so is no configuration")
	}
	b, err := os.ReadFile(f.path)
	f.info, f.text = info, string(b)
	return err
}

func (f *file) readRecord() error {
	b, err := os.ReadFile(f.recordPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var r record
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && (r.Schema != 1 || r.Address == "" || r.Backup != "" && r.Backup != filepath.Base(r.Backup)) {
		err = errors.New("no tidepool known here wrote it")
	}
	if err != nil {
		return fmt.Errorf("what tidepool did to it before cannot be read from %s: %w: remove that file and change this one by hand", f.recordPath(), err)
	}
	f.record = &r
	return nil
}

// A path with more links than this leads round in circles: it is the kernel's own limit.
const maxLinks = 40

// locate is where name, below root, really is: its links are followed as a process would that has root as its root.
// Who owns root is trusted not to change it meanwhile.
func locate(root, name string) (string, error) {
	done, rest := "/", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		next := path.Join(done, rest[0]) // .. does not lead out of /
		rest = rest[1:]
		target, err := os.Readlink(filepath.Join(root, next))
		if err != nil { // no link, or nothing there
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s is reached by too many symbolic links: they lead round in circles", filepath.Join(root, name))
		}
		if path.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return filepath.Join(root, done), nil
}

// recordPath is hidden: clients that read all files of a directory by a suffix pass it over, and people too.
func (f *file) recordPath() string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+".tidepool-setup")
}

// backupPath is empty where there is no backup.
func (f *file) backupPath() string {
	if f.record.Backup == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(f.path), f.record.Backup)
}

// untouched reports whether f is as tidepool left it.
func (f *file) untouched() bool {
	return f.record != nil && f.info != nil && f.record.Wrote == sum(f.text)
}

// before is what f said before tidepool, if that is still there.
func (f *file) before() (string, bool) {
	b, err := os.ReadFile(f.backupPath())
	return string(b), err == nil && sum(string(b)) == f.record.Before
}
