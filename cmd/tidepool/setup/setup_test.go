package setup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/deploy"
)

var server = deploy.Server{Address: address}

// tree is all that is below root: each file with its mode and content, each link with where it leads.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		switch {
		case d.Type() == fs.ModeSymlink:
			all[rel], err = os.Readlink(name)
		case d.Type().IsRegular():
			var b []byte
			b, err = os.ReadFile(name)
			all[rel] = info.Mode().String() + " " + string(b)
		default:
			all[rel] = info.Mode().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func equal(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: %s is %q, want %q", what, name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s is there", what, name)
		}
	}
}

func put(t *testing.T, root, name, text string) string {
	t.Helper()
	name = filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func does(t *testing.T, want Change) func(Done, error) {
	t.Helper()
	return func(d Done, err error) {
		t.Helper()
		if err != nil || d.Change != want {
			t.Fatalf("%v, %v; want %q", d, err, want)
		}
	}
}

// Each client's file comes and goes without a trace, with the directories that it needed.
func TestWriteAndUndo(t *testing.T) {
	for name := range clients {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			before := tree(t, root)
			does(t, Created)(Write(root, name, server))
			written := tree(t, root)
			does(t, Unchanged)(Write(root, name, server))
			equal(t, "written twice", tree(t, root), written)
			does(t, Updated)(Write(root, name, deploy.Server{Address: "other:1"}))
			does(t, Removed)(Undo(root, name))
			equal(t, "undone", tree(t, root), before)
			does(t, NotOurs)(Undo(root, name))
		})
	}
	for _, name := range []string{"kind", "helm", "emacs"} {
		var none NoFileError
		if _, err := Write(t.TempDir(), name, server); !errors.As(err, &none) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Undo(t.TempDir(), name); !errors.As(err, &none) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file that was there is that file again, with its mode, owner and time; while tidepool is in it, its copy is beside
// it, once.
func TestUndoRestores(t *testing.T) {
	root := t.TempDir()
	name := put(t, root, "etc/docker/daemon.json", `{"debug": true}`)
	if err := os.Chmod(name, 0o640); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(name, 12, 34); err != nil {
			t.Fatal(err)
		}
	}
	stat, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	before := tree(t, root)
	does(t, Added)(Write(root, "docker", server))
	does(t, Unchanged)(Write(root, "docker", server))
	does(t, Updated)(Write(root, "docker", deploy.Server{Address: "other:1"}))
	files := tree(t, root)
	if got := files["etc/docker/daemon.json"]; got != `-rw-r----- {"debug": true,"registry-mirrors": ["http://other:1"]}` {
		t.Errorf("written: %q", got)
	}
	if files["etc/docker/daemon.json.before-tidepool"] != before["etc/docker/daemon.json"] || len(files) != len(before)+2 {
		t.Errorf("beside it: %q", files)
	}
	if owner := owner(t, name); owner != ownerOf(stat) {
		t.Errorf("owner %v, want %v", owner, ownerOf(stat))
	}
	does(t, Restored)(Undo(root, "docker"))
	equal(t, "undone", tree(t, root), before)
	if again, _ := os.Stat(name); !again.ModTime().Equal(stat.ModTime()) || ownerOf(again) != ownerOf(stat) {
		t.Errorf("%v %v, want %v %v", again.ModTime(), ownerOf(again), stat.ModTime(), ownerOf(stat))
	}
}

func owner(t *testing.T, name string) [2]uint32 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return ownerOf(info)
}

func ownerOf(info fs.FileInfo) [2]uint32 {
	s := info.Sys().(*syscall.Stat_t)
	return [2]uint32{s.Uid, s.Gid}
}

// What others changed since is kept, and what was before tidepool too.
func TestUndoAmongOthers(t *testing.T) {
	root := t.TempDir()
	name := put(t, root, "etc/docker/daemon.json", `{"debug": true}`)
	edit := func(old, new string) {
		b, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(b), old) {
			t.Fatalf("%q, %v", b, err)
		}
		put(t, root, "etc/docker/daemon.json", strings.Replace(string(b), old, new, 1))
	}
	does(t, Added)(Write(root, "docker", server))
	edit("true", "false")
	does(t, Updated)(Write(root, "docker", deploy.Server{Address: "other:1"}))
	does(t, TakenOut)(Undo(root, "docker"))
	files := tree(t, root)
	if got := files["etc/docker/daemon.json"]; got != `-rw-r--r-- {"debug": false}` {
		t.Errorf("left: %q", got)
	}
	if files["etc/docker/daemon.json.before-tidepool"] != `-rw-r--r-- {"debug": true}` {
		t.Errorf("beside it: %q", files)
	}
	d, err := Write(root, "docker", server) // the copy of then is not overwritten
	does(t, Added)(d, err)
	if filepath.Base(d.Backup) != "daemon.json.before-tidepool-2" {
		t.Errorf("the copy is %s", d.Backup)
	}
	edit(`,"registry-mirrors": ["http://10.0.0.1:5000"]`, "") // by hand
	does(t, Absent)(Undo(root, "docker"))
	does(t, NotOurs)(Undo(root, "docker"))
	does(t, Added)(Write(root, "docker", server))
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	does(t, Absent)(Undo(root, "docker"))

	// A copy that is gone, or that others wrote to, is not put back.
	does(t, Created)(Write(root, "docker", server))
	does(t, Removed)(Undo(root, "docker"))
	put(t, root, "etc/docker/daemon.json", `{"debug": true}`)
	d, err = Write(root, "docker", server)
	does(t, Added)(d, err)
	if err := os.WriteFile(d.Backup, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	does(t, TakenOut)(Undo(root, "docker"))
	if got := tree(t, root)["etc/docker/daemon.json"]; got != `-rw-r--r-- {"debug": true}` {
		t.Errorf("left: %q", got)
	}
}

// One form takes the place of the other, whether tidepool wrote that or somebody pasted it.
func TestFallback(t *testing.T) {
	open := deploy.Server{Address: address, Fallback: true}
	for _, name := range []string{"containerd", "nerdctl", "podman", "crio"} {
		root := t.TempDir()
		before := tree(t, root)
		does(t, Created)(Write(root, name, server))
		shut := tree(t, root)
		does(t, Updated)(Write(root, name, open))
		does(t, Unchanged)(Write(root, name, open))
		does(t, Updated)(Write(root, name, server))
		does(t, Unchanged)(Write(root, name, server))
		if got := tree(t, root)[clients[name].file[1:]]; got != shut[clients[name].file[1:]] {
			t.Errorf("%s: back again it is %q", name, got)
		}
		does(t, Removed)(Undo(root, name))
		equal(t, "undone", tree(t, root), before)

		put(t, root, clients[name].file, snippet(name, server))
		pasted := tree(t, root)
		does(t, Added)(Write(root, name, open))
		does(t, Restored)(Undo(root, name))
		equal(t, "undone", tree(t, root), pasted)
	}
}

// Two clients that share a file share what is done to it.
func TestSharedFile(t *testing.T) {
	root := t.TempDir()
	does(t, Created)(Write(root, "containerd", server))
	does(t, Unchanged)(Write(root, "nerdctl", server))
	does(t, Removed)(Undo(root, "nerdctl"))
	does(t, Created)(Write(root, "podman", server))
	does(t, Unchanged)(Write(root, "crio", server))
}

// Links lead within the root, wherever they point; what they lead to is changed, and they stay.
func TestLinks(t *testing.T) {
	outside := t.TempDir()
	root := t.TempDir()
	put(t, root, "srv/config/daemon.json", "{}")
	for name, target := range map[string]string{"etc": "../../../../srv/etc", "srv/etc/docker": "/srv/config", "srv/etc/buildkit": outside} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, root)
	d, err := Write(root, "docker", server)
	does(t, Added)(d, err)
	if d.File != filepath.Join(root, "srv/config/daemon.json") {
		t.Errorf("it is %s", d.File)
	}
	does(t, Restored)(Undo(root, "docker"))
	equal(t, "undone", tree(t, root), before)
	does(t, Created)(Write(root, "buildkit", server))
	if left := tree(t, outside); len(left) != 1 {
		t.Errorf("outside of the root: %q", left)
	}
	round := filepath.Join(root, "srv/config/daemon.json")
	if err := errors.Join(os.Remove(round), os.Symlink("daemon.json", round)); err != nil {
		t.Fatal(err)
	}
	if d, err := Write(root, "docker", server); err == nil || !strings.Contains(err.Error(), "in circles") {
		t.Errorf("%v, %v", d, err)
	}
}

// What cannot be changed is as it was, and nothing is beside it.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		client string
		make   func(t *testing.T, root string)
		why    string
	}{
		"others' content": {"buildkit", func(t *testing.T, root string) { put(t, root, "etc/buildkit/buildkitd.toml", "debug = true\n") },
			"add by hand what `tidepool setup buildkit --address 10.0.0.1:5000` prints"},
		"no JSON":     {"docker", func(t *testing.T, root string) { put(t, root, "etc/docker/daemon.json", "debug") }, "daemon.json was not changed: it is not valid JSON"},
		"a directory": {"docker", func(t *testing.T, root string) { put(t, root, "etc/docker/daemon.json/x", "") }, "it is no file"},
		"a pipe": {"docker", func(t *testing.T, root string) {
			put(t, root, "etc/docker/x", "")
			if err := unix.Mkfifo(filepath.Join(root, "etc/docker/daemon.json"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "it is no file"},
		"too large": {"docker", func(t *testing.T, root string) {
			put(t, root, "etc/docker/daemon.json", strings.Repeat(" ", maxSize+1))
		}, "more than 1 MiB"},
		"a file in the way": {"docker", func(t *testing.T, root string) { put(t, root, "etc/docker", "") }, "not a directory"},
		"a record of others": {"docker", func(t *testing.T, root string) {
			put(t, root, "etc/docker/.daemon.json.tidepool-setup", `{"schema": 1, "address": "a:1", "backup": "../../shadow"}`)
		}, "no tidepool known here"},
		"a record cut off": {"docker", func(t *testing.T, root string) { put(t, root, "etc/docker/.daemon.json.tidepool-setup", "") }, "cannot be read"},
		"copies without end": {"docker", func(t *testing.T, root string) {
			name := put(t, root, "etc/docker/daemon.json", "{}") + ".before-tidepool"
			for i := range maxBackups {
				suffix := ""
				if i > 0 {
					suffix = "-" + strconv.Itoa(i+1)
				}
				if err := os.WriteFile(name+suffix, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, "100 backups"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			c.make(t, root)
			before := tree(t, root)
			if d, err := Write(root, c.client, server); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v, %v; want a refusal that says %q", d, err, c.why)
			}
			equal(t, "refused", tree(t, root), before)
		})
	}
	if d, err := Write(filepath.Join(t.TempDir(), "nowhere"), "docker", server); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, %v", d, err)
	}
}

// A directory that cannot be written to is left as it is, with a word on what to do.
func TestReadOnlyDirectory(t *testing.T) {
	root := t.TempDir()
	put(t, root, "etc/docker/daemon.json", "{}")
	dir := filepath.Join(root, "etc/docker")
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	before := tree(t, root)
	asNobody(t, func() {
		if d, err := Write(root, "docker", server); err == nil || !strings.Contains(err.Error(), "run it as root") {
			t.Errorf("%v, %v", d, err)
		}
	})
	equal(t, "refused", tree(t, root), before)
}

// A step that fails takes those before it back.
func TestWorkUndone(t *testing.T) {
	root := t.TempDir()
	name := put(t, root, "daemon.json", "{}")
	f, err := open(root, "daemon.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(name), os.Mkdir(name, 0o755)); err != nil { // what no file can be put in the place of
		t.Fatal(err)
	}
	before := tree(t, root)
	if d, err := f.write("{}", address, false); err == nil {
		t.Errorf("%v", d)
	}
	equal(t, "undone", tree(t, root), before)
}

// asNobody does something with the file rights of nobody, where the test has those of root.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		do()
		return
	}
	const nobody = 65534
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setfsuid(nobody); err != nil {
			t.Error(err)
			return
		}
		do()
	}()
	<-ended
}

// Every client that is known to the manual is known here.
func TestEveryClient(t *testing.T) {
	for _, name := range deploy.Clients() {
		_, here := clients[name]
		if _, no := elsewhere[name]; here == no {
			t.Errorf("%s: here %t, elsewhere %t", name, here, no)
		}
	}
}
