package main_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"golang.org/x/sys/unix"
)

// hosts are the registries that images of these tests are named after: the hub, which is open, and one that wants a
// login, which tidepool has and clients have not.
var hosts = []string{"docker.io", closed}

const closed = "closed.test"

// client is a program that pulls images.
type client interface {
	pull(t *testing.T, img *image)   // brings this platform's part of img, and proves that it is all there
	forget(t *testing.T, img *image) // makes it have nothing of img again
	cannot(img *image) string        // why it cannot pull img at all; "" where it can
}

// mustWrite writes a configuration file, with its directory.
func mustWrite(t *testing.T, name, content string) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(name), 0o700))
	must(t, os.WriteFile(name, []byte(content), 0o600))
	return name
}

// inMemory is a directory for what a client keeps, on no disk where this machine has the memory: they sync every layer, which
// on a disk takes longer than all else that they do.
func inMemory(t *testing.T) string {
	t.Helper()
	const at, enough = "/dev/shm", 4 << 30 // a few times the largest image, as some keep a copy of each layer with all below it
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil || s.Bavail*uint64(s.Bsize) < enough {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(at, "tidepool-client-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// docker is a dockerd with its own store and socket.
type docker struct{ host, mirror string }

// startDockerd starts a daemon whose registry-mirrors lead to mirror.
func startDockerd(t *testing.T, mirror string) client {
	t.Helper()
	conf := mustWrite(t, filepath.Join(t.TempDir(), "daemon.json"), fmt.Sprintf(`{"registry-mirrors": ["http://%s"]}`, mirror))
	return startDockerdBy(t, conf, mirror)
}

// startDockerdBy starts a daemon with a configuration file that leads to mirror, and with variables of its own.
func startDockerdBy(t *testing.T, conf, mirror string, env ...string) docker {
	t.Helper()
	needs(t, "dockerd", "docker")
	needsRoot(t)
	dir := inMemory(t)
	socket := "unix://" + filepath.Join(dir, "docker.sock")
	p := start(t, func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), env...) }, "dockerd", "--config-file", conf, "-H", socket, "-p", filepath.Join(dir, "docker.pid"),
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--storage-driver", "vfs",
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false")
	p.await(t, "dockerd answers", func() bool {
		_, err := try(nil, "docker", "-H", socket, "version")
		return err == nil
	})
	return docker{socket, mirror}
}

// name is what the daemon is asked for: mirrors are for docker.io alone, for others the mirror is part of the name.
func (d docker) name(img *image) string {
	if img.host != closed {
		return img.ref()
	}
	return d.mirror + "/" + img.ref()
}

func (d docker) pull(t *testing.T, img *image) {
	t.Helper()
	run(t, nil, "docker", "-H", d.host, "pull", "-q", d.name(img))
	var got []inspected
	mustJSON(t, run(t, nil, "docker", "-H", d.host, "image", "inspect", d.name(img)), &got)
	got[0].check(t, img)
}

func (d docker) forget(t *testing.T, img *image) {
	t.Helper()
	run(t, nil, "docker", "-H", d.host, "image", "rm", "-f", d.name(img))
}

func (d docker) cannot(img *image) string {
	switch {
	case img.zstd:
		return "Debian's dockerd 20.10 cannot take zstd"
	case img.artifact:
		return "dockerd takes images only"
	}
	return ""
}

// inspected is what docker and podman tell of an image that they have. Both hash each blob before they accept it.
type inspected struct {
	ID          string `json:"Id"`
	RepoDigests []string
	RootFS      struct{ Layers []string }
}

func (i inspected) check(t *testing.T, img *image) {
	t.Helper()
	if id := "sha256:" + strings.TrimPrefix(i.ID, "sha256:"); id != img.config {
		t.Errorf("config is %s, want %s", id, img.config)
	}
	if !slices.Equal(i.RootFS.Layers, img.diffIDs) {
		t.Errorf("layers are %v, want %v", i.RootFS.Layers, img.diffIDs)
	}
	if !slices.ContainsFunc(i.RepoDigests, func(d string) bool { return strings.HasSuffix(d, "@"+img.digest) }) {
		t.Errorf("digests are %v, want one of them to be %s", i.RepoDigests, img.digest)
	}
}

func mustJSON(t *testing.T, text string, into any) {
	t.Helper()
	must(t, json.Unmarshal([]byte(text), into))
}

// containerd is a containerd with its own store and socket.
type containerd struct{ socket, hosts, blobs string }

// startContainerd starts a daemon, and writes the hosts.toml files that lead to mirror and nowhere else.
func startContainerd(t *testing.T, mirror string) client {
	t.Helper()
	needs(t, "containerd", "ctr")
	needsRoot(t)
	dir := inMemory(t)
	c := containerd{
		socket: filepath.Join(dir, "containerd.sock"),
		hosts:  filepath.Join(dir, "certs.d"),
		blobs:  filepath.Join(dir, "root", "io.containerd.content.v1.content", "blobs", "sha256"),
	}
	conf := mustWrite(t, filepath.Join(dir, "config.toml"), fmt.Sprintf("version = 2\nroot = %q\nstate = %q\n"+
		"disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.socket))
	for _, host := range hosts {
		mustWrite(t, filepath.Join(c.hosts, host, "hosts.toml"), fmt.Sprintf("server = \"http://%[1]s\"\n"+
			"[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", mirror))
	}
	p := start(t, nil, "containerd", "--config", conf)
	p.await(t, "containerd answers", func() bool {
		_, err := try(nil, "ctr", "-a", c.socket, "version")
		return err == nil
	})
	return c
}

func (c containerd) pull(t *testing.T, img *image) {
	t.Helper()
	run(t, nil, "ctr", "-a", c.socket, "images", "pull", "--hosts-dir", c.hosts, "--snapshotter", "native", img.ref())
	checkBlobs(t, c.blobs, img.parts()...)
}

func (c containerd) forget(t *testing.T, img *image) {
	t.Helper()
	run(t, nil, "ctr", "-a", c.socket, "images", "rm", "--sync", img.ref())
}

func (c containerd) cannot(img *image) string {
	if img.artifact {
		return "ctr unpacks what it pulls"
	}
	return ""
}

// checkBlobs hashes what lies in dir under these digests.
func checkBlobs(t *testing.T, dir string, digests ...string) {
	t.Helper()
	for _, digest := range digests {
		hex := strings.TrimPrefix(digest, "sha256:")
		if got := hashFile(t, filepath.Join(dir, hex)); got != hex {
			t.Errorf("%s: the bytes kept are those of %s", digest, got)
		}
	}
}

func hashFile(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Error(err)
		return "nothing"
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// registriesConf is the configuration of podman and skopeo that leads to mirror.
func registriesConf(t *testing.T, mirror string) string {
	t.Helper()
	var conf string
	for _, host := range hosts {
		conf += fmt.Sprintf("[[registry]]\nprefix = %[1]q\nlocation = %[1]q\n"+
			"[[registry.mirror]]\nlocation = %[2]q\ninsecure = true\n", host, mirror+"/"+host)
	}
	return mustWrite(t, filepath.Join(t.TempDir(), "registries.conf"), conf)
}

// anySignature is a policy.json for podman that asks for no signature.
const anySignature = `{"default": [{"type": "insecureAcceptAnything"}]}`

// podman is podman with its own store.
type podman struct {
	args []string // before the verb
	env  []string
	dir  string
}

func newPodman(t *testing.T, mirror string) client {
	t.Helper()
	needs(t, "podman")
	needsRoot(t)
	dir := inMemory(t)
	// The usual locks are in memory that it shares with the machine's own podman.
	conf := mustWrite(t, filepath.Join(dir, "containers.conf"),
		"[engine]\nlock_type = \"file\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n")
	return podman{
		dir: dir,
		env: []string{"CONTAINERS_REGISTRIES_CONF=" + registriesConf(t, mirror), "CONTAINERS_CONF=" + conf, "TMPDIR=" + dir},
		args: []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"),
			"--tmpdir", filepath.Join(dir, "tmp"), "--storage-driver", "vfs"},
	}
}

func (p podman) run(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, p.env, "podman", slices.Concat(p.args, args)...)
}

func (p podman) pull(t *testing.T, img *image) {
	t.Helper()
	policy := mustWrite(t, filepath.Join(p.dir, "policy.json"), anySignature)
	p.run(t, "pull", "-q", "--signature-policy", policy, img.ref())
	var got []inspected
	mustJSON(t, p.run(t, "image", "inspect", img.ref()), &got)
	got[0].check(t, img)
}

func (p podman) forget(t *testing.T, img *image) {
	t.Helper()
	p.run(t, "image", "rm", "-f", img.ref())
}

func (p podman) cannot(img *image) string {
	if img.artifact {
		return "podman takes images only"
	}
	return ""
}

// skopeo copies to a directory of files.
type skopeo struct{ conf, dir string }

func newSkopeo(t *testing.T, mirror string) client {
	t.Helper()
	needs(t, "skopeo")
	return skopeo{conf: registriesConf(t, mirror), dir: t.TempDir()}
}

func (s skopeo) pull(t *testing.T, img *image) {
	t.Helper()
	dir := filepath.Join(s.dir, img.host+"-"+img.tag)
	env := []string{"TMPDIR=" + s.dir}
	run(t, env, "skopeo", "--registries-conf", s.conf, "--insecure-policy",
		"copy", "-q", "--multi-arch", "system", "docker://"+img.ref(), "dir:"+dir)
	checkBlobs(t, dir, img.blobs()...)
	if got := "sha256:" + hashFile(t, filepath.Join(dir, "manifest.json")); got != img.manifest {
		t.Errorf("manifest is %s, want %s", got, img.manifest)
	}
}

func (s skopeo) forget(t *testing.T, img *image) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(s.dir, img.host+"-"+img.tag)))
}

func (s skopeo) cannot(*image) string { return "" }

// craner is the library that crane is made of; it asks by names that begin with the mirror's.
type craner struct{ mirror, dir string }

func newCrane(t *testing.T, mirror string) client { return craner{mirror, t.TempDir()} }

func (c craner) pull(t *testing.T, img *image) {
	t.Helper()
	got, err := crane.Pull(c.mirror+"/"+img.ref(), crane.Insecure, crane.WithPlatform(own()))
	must(t, err)
	dir := filepath.Join(c.dir, img.host+"-"+img.tag)
	must(t, crane.SaveOCI(got, dir))
	checkBlobs(t, filepath.Join(dir, "blobs", "sha256"), append(img.blobs(), img.manifest)...)
}

func (c craner) forget(t *testing.T, img *image) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(c.dir, img.host+"-"+img.tag)))
}

func (c craner) cannot(*image) string { return "" }
