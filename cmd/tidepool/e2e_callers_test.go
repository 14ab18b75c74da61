package main_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// guests is tidepool before a docker-registry with a token server, which is docker.io and is asked with the clients' own
// logins: alice may have the images, bob may have others, and nobody may have none.
type guests struct {
	*tokens
	hub  *registry
	pool *tidepool
	imgs []*image
	open *image // that everybody may have
}

func newGuests(t *testing.T) *guests {
	t.Helper()
	return guestsBy(t, "access: caller", "")
}

// guestsBy is newGuests with what the configuration says of access, and besides.
func guestsBy(t *testing.T, access, besides string) *guests {
	t.Helper()
	dir := t.TempDir()
	g := &guests{tokens: newTokens(t)}
	k := &kitchen{t: t, repo: "team/app", seed: 77 << 32}
	one, two := k.docker2(own(), 2, 1<<20), k.docker2(own(), 1, 2<<20)
	mine := k.oci(own(), types.OCILayer, 2, 1<<20)
	g.imgs = []*image{k.tag("docker.io", "one", one, one), k.tag("docker.io", "two", two, two),
		k.tag("docker.io", "three", k.index(types.OCIImageIndex, mine, k.oci(other(), types.OCILayer, 1, 1<<10)), mine)}
	k.repo = "team/open"
	four := k.docker2(own(), 1, 1<<20)
	g.open = k.tag("docker.io", "four", four, four)
	push(t, open(t, dir, false).addr, append(g.imgs, g.open)...)
	g.grant("", "team/open")
	g.grant("alice", "team/app", "team/open")
	g.grant("carol", "team/app", "team/open")
	g.grant("bob", "team/other", "team/open")
	g.hub = guarded(t, dir, g.auth())
	conf := mustWrite(t, filepath.Join(t.TempDir(), "config.yaml"), fmt.Sprintf(
		"upstreams:\n  docker.io: {endpoints: [\"http://%s\"], %s, realm: [%q]}\nmissing: 0s\n%s", g.hub.addr, access, g.URL, besides))
	g.pool = serve(t, "--config", conf)
	return g
}

// login is user as HTTP's Basic has it.
func login(user string) string { return base64.StdEncoding.EncodeToString([]byte(user + ":" + user)) }

// name is what a client that knows no mirrors calls an image.
func (g *guests) name(img *image) string { return g.pool.addr + "/" + img.ref() }

// wayIn is one way in which the login of a user, "" being none, comes with a pull.
type wayIn struct {
	name string
	pull func(t *testing.T, user string, img *image) error
}

// skopeoAs is skopeo with --src-creds, podman with a login for this host.
func (g *guests) skopeoAs(t *testing.T) wayIn {
	needs(t, "skopeo")
	dir := t.TempDir()
	return wayIn{"skopeo --src-creds", func(t *testing.T, user string, img *image) error {
		to := filepath.Join(dir, user+img.tag)
		must(t, os.RemoveAll(to))
		args := []string{"--insecure-policy", "copy", "-q", "--src-tls-verify=false"}
		if user != "" {
			args = append(args, "--src-creds", user+":"+user)
		}
		if _, err := try([]string{"TMPDIR=" + dir}, "skopeo", append(args, "docker://"+g.name(img), "dir:"+to)...); err != nil {
			return err
		}
		checkBlobs(t, to, img.blobs()...)
		return nil
	}}
}

func (g *guests) podmanAs(t *testing.T) wayIn {
	p := newPodman(t, g.pool.addr).(podman)
	policy := mustWrite(t, filepath.Join(p.dir, "policy.json"), anySignature)
	return wayIn{"podman login", func(t *testing.T, user string, img *image) error {
		auth := filepath.Join(p.dir, "auth-"+user+".json")
		if user != "" {
			p.run(t, "login", "--authfile", auth, "--tls-verify=false", "-u", user, "-p", user, g.pool.addr)
		} else {
			mustWrite(t, auth, "{}")
		}
		_, err := try(p.env, "podman", slices.Concat(p.args, []string{"pull", "-q", "--authfile", auth, "--tls-verify=false",
			"--signature-policy", policy, img.ref()})...) // which registries.conf leads here
		if err == nil {
			p.run(t, "image", "rm", "-f", img.ref())
		}
		return err
	}}
}

func (g *guests) craneAs(t *testing.T) wayIn {
	dir := t.TempDir()
	return wayIn{"crane auth login", func(t *testing.T, user string, img *image) error {
		auth := authn.Anonymous
		if user != "" {
			auth = &authn.Basic{Username: user, Password: user}
		}
		got, err := crane.Pull(g.name(img), crane.Insecure, crane.WithPlatform(own()), crane.WithAuth(auth))
		if err != nil {
			return err
		}
		return crane.SaveOCI(got, filepath.Join(dir, user+img.tag))
	}}
}

// dockerAs is dockerd in two ways: as it asks a mirror, with the login that it has for Docker Hub, and by tidepool's own
// name, with a login there.
func (g *guests) dockerAs(t *testing.T) []wayIn {
	d := startDockerd(t, g.pool.addr).(docker)
	pull := func(t *testing.T, user, server, name string) error {
		conf := filepath.Join(t.TempDir(), "docker")
		auths := "{}"
		if user != "" {
			auths = fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, server, login(user))
		}
		mustWrite(t, filepath.Join(conf, "config.json"), auths)
		_, err := try(nil, "docker", "--config", conf, "-H", d.host, "pull", "-q", name)
		if err == nil {
			run(t, nil, "docker", "-H", d.host, "image", "rm", "-f", name)
		}
		return err
	}
	return []wayIn{
		{"dockerd, a mirror, login of the hub", func(t *testing.T, user string, img *image) error {
			return pull(t, user, "https://index.docker.io/v1/", img.ref())
		}},
		{"docker login", func(t *testing.T, user string, img *image) error { return pull(t, user, g.pool.addr, g.name(img)) }},
	}
}

// containerdAs is containerd with the login that ctr is given, which is not what a pull secret of Kubernetes is, and with
// a header in hosts.toml.
func (g *guests) containerdAs(t *testing.T) []wayIn {
	c := startContainerd(t, g.pool.addr).(containerd)
	hosts := func(user string) string {
		dir := t.TempDir()
		header := ""
		if user != "" {
			header = fmt.Sprintf("  [host.\"http://%s\".header]\n    Authorization = \"Basic %s\"\n", g.pool.addr, login(user))
		}
		mustWrite(t, filepath.Join(dir, "docker.io", "hosts.toml"), fmt.Sprintf("server = \"http://%[1]s\"\n[host.\"http://%[1]s\"]\n"+
			"  capabilities = [\"pull\", \"resolve\"]\n%[2]s", g.pool.addr, header))
		return dir
	}
	pull := func(t *testing.T, img *image, args ...string) error {
		_, err := try(nil, "ctr", append([]string{"-a", c.socket, "images", "pull", "--snapshotter", "native"}, append(args, img.ref())...)...)
		if err == nil {
			checkBlobs(t, c.blobs, img.parts()...)
			c.forget(t, img)
			run(t, nil, "ctr", "-a", c.socket, "content", "prune", "references")
		}
		return err
	}
	return []wayIn{
		{"ctr --user", func(t *testing.T, user string, img *image) error {
			if user == "" {
				return pull(t, img, "--hosts-dir", hosts(""))
			}
			return pull(t, img, "--hosts-dir", hosts(""), "--user", user+":"+user)
		}},
		{"header in hosts.toml", func(t *testing.T, user string, img *image) error { return pull(t, img, "--hosts-dir", hosts(user)) }},
	}
}

// Two accounts at a real registry, by real clients: who may have an image gets it, by every way in that a login has; who
// may not gets nothing, whatever is held; and each byte leaves the registry once.
func TestLoginsOfClients(t *testing.T) {
	t.Parallel()
	g := newGuests(t)
	ways := []wayIn{g.skopeoAs(t), g.podmanAs(t), g.craneAs(t)}
	ways = append(ways, g.containerdAs(t)...)
	ways = append(ways, g.dockerAs(t)...)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			for _, img := range g.imgs {
				for _, user := range []string{"bob", "", "mallory", "alice", "carol", "bob", ""} {
					err := w.pull(t, user, img)
					switch may := user == "alice" || user == "carol"; {
					case may && err != nil:
						t.Errorf("%s of %s: %v\n%s", img.tag, user, err, tail(g.pool.log))
					case !may && err == nil:
						t.Errorf("LEAK: %s of %q came", img.tag, user)
					}
				}
			}
			for _, user := range []string{"bob", "", "alice"} {
				// dockerd sends nothing at all where it has no login for who asks for one.
				if err := w.pull(t, user, g.open); (err != nil) != (user == "" && strings.HasPrefix(w.name, "docker")) {
					t.Errorf("what everybody may have, %q: %v", user, err)
				}
			}
			t.Logf("%-36s alice: pulled, bob: refused, nobody: refused", w.name)
		})
	}
	seen := map[string]int{}
	for _, r := range g.hub.reached() {
		if r.status == http.StatusOK && r.method == http.MethodGet {
			seen[r.path]++
		}
	}
	for path, n := range seen {
		if strings.Contains(path, "/blobs/") && n > 1 {
			t.Errorf("%s left the registry %d times", path, n)
		}
	}
	g.mu.Lock()
	shown := map[string]int{}
	for _, user := range g.shown {
		shown[user]++
	}
	g.mu.Unlock()
	t.Logf("tokens asked for, by user: %v; blobs and manifests sent: %d", shown, len(seen))

	g.hub.stop(t)
	skopeo, img := ways[0], g.imgs[0]
	if err := skopeo.pull(t, "alice", img); err != nil {
		t.Errorf("while the registry is down, within five minutes: %v", err)
	}
	for _, user := range []string{"bob", "", "mallory"} {
		if err := skopeo.pull(t, user, img); err == nil {
			t.Errorf("LEAK: while the registry is down: %q", user)
		}
	}
	b, err := os.ReadFile(g.pool.log)
	must(t, err)
	for _, secret := range []string{login("alice"), "alice:alice"} {
		if strings.Contains(string(b), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}
