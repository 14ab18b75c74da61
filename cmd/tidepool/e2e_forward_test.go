package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// proxied are the variables of a client that has tidepool for its proxy and trusts its authority for whatever it asks.
func (g *guests) proxied() []string {
	return append(g.behind(), "SSL_CERT_FILE="+g.authority())
}

// behind are the variables of a client that has tidepool for its proxy, whatever this machine has.
func (g *guests) behind() []string {
	at := "http://" + g.pool.addr
	return []string{"HTTPS_PROXY=" + at, "https_proxy=" + at, "NO_PROXY=", "no_proxy="}
}

func (g *guests) authority() string { return filepath.Join(g.pool.data, "forward-ca.crt") }

// logins is a client's file that has user's login for Docker Hub itself.
func (g *guests) logins(t *testing.T, user string) string {
	t.Helper()
	auths := "{}"
	if user != "" {
		auths = fmt.Sprintf(`{"auths": {"https://index.docker.io/v1/": {"auth": %q}, "docker.io": {"auth": %[1]q}}}`, login(user))
	}
	return mustWrite(t, filepath.Join(t.TempDir(), "config.json"), auths)
}

// proxies are clients that call images by their own names, and have logins for the registry itself.
func (g *guests) proxies(t *testing.T) []wayIn {
	needs(t, "skopeo")
	p := newPodman(t, g.pool.addr).(podman)
	policy := mustWrite(t, filepath.Join(p.dir, "policy.json"), anySignature)
	dir := t.TempDir()
	nowhere := "CONTAINERS_REGISTRIES_CONF=" + mustWrite(t, filepath.Join(dir, "registries.conf"), "")
	certs := filepath.Dir(mustWrite(t, filepath.Join(dir, "certs", "ca.crt"), read(t, g.authority())))
	d := startDockerdBy(t, mustWrite(t, filepath.Join(dir, "daemon.json"), "{}"), "", g.proxied()...)
	c := startContainerd(t, g.pool.addr).(containerd)
	return []wayIn{
		{"skopeo login, certs.d", func(t *testing.T, user string, img *image) error {
			to := filepath.Join(dir, user+img.tag)
			must(t, os.RemoveAll(to))
			if _, err := try(append(g.behind(), nowhere, "TMPDIR="+dir), "skopeo", "--insecure-policy", "copy", "-q", "--src-authfile", g.logins(t, user),
				"--src-cert-dir", certs, "docker://"+img.ref(), "dir:"+to); err != nil {
				return err
			}
			checkBlobs(t, to, img.blobs()...)
			return nil
		}},
		{"podman login, certs.d", func(t *testing.T, user string, img *image) error {
			env, auth := slices.Concat(p.env, g.behind(), []string{nowhere}), filepath.Join(t.TempDir(), "auth.json")
			if user != "" {
				run(t, env, "podman", slices.Concat(p.args, []string{"login", "--authfile", auth, "--cert-dir", certs, "-u", user, "-p", user, "docker.io"})...)
			} else {
				mustWrite(t, auth, "{}")
			}
			_, err := try(env, "podman", slices.Concat(p.args, []string{"pull", "-q", "--authfile", auth, "--cert-dir", certs,
				"--signature-policy", policy, img.ref()})...)
			if err == nil {
				p.run(t, "image", "rm", "-f", img.ref())
			}
			return err
		}},
		{"docker login", func(t *testing.T, user string, img *image) error {
			_, err := try(nil, "docker", "--config", filepath.Dir(g.logins(t, user)), "-H", d.host, "pull", "-q", img.ref())
			if err == nil {
				run(t, nil, "docker", "-H", d.host, "image", "rm", "-f", img.ref())
			}
			return err
		}},
		{"containerd, ctr --user", func(t *testing.T, user string, img *image) error {
			args := []string{"-a", c.socket, "images", "pull", "--snapshotter", "native"}
			if user != "" {
				args = append(args, "--user", user+":"+user)
			}
			_, err := try(g.proxied(), "ctr", append(args, img.ref())...)
			if err == nil {
				checkBlobs(t, c.blobs, img.parts()...)
				c.forget(t, img)
				run(t, nil, "ctr", "-a", c.socket, "content", "prune", "references")
			}
			return err
		}},
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return string(b)
}

// Clients that have tidepool for their proxy pull private images with the login that they have for the registry itself:
// who may have them gets them, who may not does not, whatever is held by then.
func TestProxyOfClients(t *testing.T) {
	t.Parallel()
	g := guestsBy(t, "access: caller", "door: {forward_proxy: true}\n")
	for _, w := range g.proxies(t) {
		t.Run(w.name, func(t *testing.T) {
			for _, img := range g.imgs[:2] {
				for _, user := range []string{"bob", "", "alice", "carol", "bob", ""} {
					err := w.pull(t, user, img)
					switch may := user == "alice" || user == "carol"; {
					case may && err != nil:
						t.Errorf("%s of %s: %v\n%s", img.tag, user, err, tail(g.pool.log))
					case !may && err == nil:
						t.Errorf("LEAK: %s of %q came", img.tag, user)
					}
				}
			}
			for _, user := range []string{"", "bob"} {
				// dockerd asks for nothing without a login where one is wanted.
				if err := w.pull(t, user, g.open); (err != nil) != (user == "" && w.name == "docker login") {
					t.Errorf("what everybody may have, %q: %v", user, err)
				}
			}
			t.Logf("%-24s alice, carol: pulled; bob, nobody: refused", w.name)
		})
	}
	log := read(t, g.pool.log)
	if !strings.Contains(log, "CONNECT") {
		t.Error("nobody came by a tunnel")
	}
	for _, secret := range []string{"alice:alice", login("alice")} {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}
