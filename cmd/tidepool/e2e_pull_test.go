package main_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// clients are the programs that pull, each of which starts as the function says and asks the mirror.
var clients = []struct {
	name  string
	start func(t *testing.T, mirror string) client
}{
	{"dockerd", startDockerd},
	{"containerd", startContainerd},
	{"podman", newPodman},
	{"skopeo", newSkopeo},
	{"crane", newCrane},
}

// scene is tidepool before two registries that hold the same.
type scene struct {
	hub, closed *registry
	pool        *tidepool
}

func newScene(t *testing.T, config string) *scene {
	t.Helper()
	dir := t.TempDir()
	s := &scene{hub: open(t, dir, false), closed: open(t, dir, true)}
	secret := mustWrite(t, filepath.Join(t.TempDir(), "password"), password+"\n")
	conf := mustWrite(t, filepath.Join(t.TempDir(), "config.yaml"), fmt.Sprintf(`upstreams:
  docker.io: {endpoints: ["http://%s"]}
  %s:
    endpoints: ["http://%s"]
    credentials: [{username: %s, password_file: %s}]
    cleartext_login: true
%s`, s.hub.addr, closed, s.closed.addr, user, secret, config))
	s.pool = serve(t, "--config", conf)
	return s
}

// reached is what came to either registry since this was last asked, and was not refused for want of a login.
func (s *scene) reached() []request {
	all := append(s.hub.reached(), s.closed.reached()...)
	return slices.DeleteFunc(all, func(r request) bool { return r.status == 401 })
}

// catalogue is one of each kind of image that clients meet, made for one client, so that nothing of it is known yet.
func (s *scene) catalogue(t *testing.T, name string, seed uint64) []*image {
	t.Helper()
	k := &kitchen{t: t, repo: "library/" + name, seed: seed << 32}
	mine := k.oci(own(), types.OCILayer, 3, 1<<20)
	index := k.index(types.OCIImageIndex, mine, k.oci(other(), types.OCILayer, 1, 1<<10))
	mine2 := k.docker2(own(), 1, 1<<20)
	list := k.index(types.DockerManifestList, mine2, k.docker2(other(), 1, 1<<10))
	deep := k.docker2(own(), 30, 10<<10)
	zstd := k.oci(own(), types.OCILayerZStd, 2, 1<<20)
	artifact := k.artifact("application/vnd.example.report", mine)
	images := []*image{
		k.tag("docker.io", "index", index, mine),
		k.tag(closed, "list", list, mine2),
		k.tag("docker.io", "deep", deep, deep),
		k.tag(closed, "zstd", zstd, zstd),
		k.tag("docker.io", "artifact", artifact, artifact),
	}
	push(t, s.hub.addr, images...)
	return images
}

// TestRealClients has each client pull images cold, warm, and with the registries stopped, and the registries' access
// logs tell what reached them. What one client pulled is there for the next.
func TestRealClients(t *testing.T) {
	t.Parallel()
	s := newScene(t, "tags: [{match: '**', fresh: 1h}]\n") // longer than all clients take, or a warm pull would ask about the tag
	k := &kitchen{t: t, repo: "library/shared", seed: 1}
	big := k.oci(own(), types.OCILayer, 1, 256<<20)
	shared := append(s.catalogue(t, "shared", 1), k.tag("docker.io", "big", big, big))
	push(t, s.hub.addr, shared...)
	bought := map[*image]bool{} // what an earlier client pulled
	for i, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			it := tour{scene: s, client: c.start(t, s.pool.addr)}
			mine := s.catalogue(t, c.name, uint64(2+i))
			s.reached()
			it.each(t, "cold", mine, it.cold)
			it.each(t, "warm", mine, it.warm)
			it.each(t, "shared", shared, func(t *testing.T, img *image) {
				if bought[img] {
					it.warm(t, img)
				} else {
					it.cold(t, img)
				}
				bought[img] = true
			})
			s.hub.stop(t)
			s.closed.stop(t)
			it.each(t, "stopped", mine, it.pull)
			s.hub.restart()
			s.closed.restart()
		})
	}
}

// tour is what one client does; between any two pulls it has nothing.
type tour struct {
	*scene
	client
}

func (it tour) each(t *testing.T, name string, images []*image, do func(*testing.T, *image)) {
	for _, img := range images {
		t.Run(name+"/"+img.tag, func(t *testing.T) {
			if why := it.cannot(img); why != "" {
				t.Skip(why)
			}
			do(t, img)
			it.forget(t, img)
		})
	}
}

// cold pulls what nobody pulled before: each blob and each manifest of it leaves the registry once, and no other.
func (it tour) cold(t *testing.T, img *image) {
	it.pull(t, img)
	manifests, blobs := 0, map[string]int{}
	for _, r := range it.reached() {
		switch {
		case r.blob():
			blobs[filepath.Base(r.path)]++
		case r.manifest():
			manifests++
		}
	}
	for _, digest := range img.blobs() {
		if blobs[digest] != 1 && digest != nothing {
			t.Errorf("blob %s left the registry %d times, want once", digest, blobs[digest])
		}
		delete(blobs, digest)
	}
	if len(blobs) > 0 {
		t.Errorf("blobs of no concern left the registry: %v", blobs)
	}
	if want := len(img.manifests()); manifests != want {
		t.Errorf("%d manifests left the registry, want %d", manifests, want)
	}
}

// warm pulls what somebody pulled just before: nothing reaches the registry.
func (it tour) warm(t *testing.T, img *image) {
	it.pull(t, img)
	if r := it.reached(); len(r) > 0 {
		t.Errorf("a warm pull reached the registry: %v", r)
	}
}
