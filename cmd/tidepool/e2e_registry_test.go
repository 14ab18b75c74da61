package main_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// The login that a closed registry wants.
const (
	user     = "puller"
	password = "low tide"
)

// registry is Debian's docker-registry over a directory, whose access log tells what reached it.
type registry struct {
	*process
	t    *testing.T
	addr string
	conf string
	seen int // bytes of the log that earlier questions were about
}

// open starts a registry over dir; with login, only those who have the password come in.
func open(t *testing.T, dir string, login bool) *registry {
	t.Helper()
	if login {
		return guarded(t, dir, fmt.Sprintf("htpasswd: {realm: sea, path: %s}", htpasswd(t)))
	}
	return guarded(t, dir, "")
}

// guarded starts a registry over dir with such an entry under auth; "": it is open.
func guarded(t *testing.T, dir, auth string) *registry {
	t.Helper()
	needs(t, "docker-registry")
	r := &registry{t: t, addr: address(t), conf: filepath.Join(t.TempDir(), "registry.yml")}
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\n"+
		"http: {addr: %s, secret: x}\n", dir, r.addr)
	if auth != "" {
		conf += "auth: {" + auth + "}\n"
	}
	if err := os.WriteFile(r.conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restart()
	return r
}

// htpasswd is a file with the one login.
func htpasswd(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(name, []byte(user+":"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// restart starts it where it was before.
func (r *registry) restart() {
	r.t.Helper()
	r.process = start(r.t, nil, "docker-registry", "serve", r.conf)
	r.seen = 0
	r.await(r.t, "docker-registry answers", func() bool { return answers("http://" + r.addr + "/v2/") })
}

// request is a line of the access log.
type request struct {
	method, path string
	status       int
	bytes        int64 // of the answer's body
}

func (r request) String() string { return fmt.Sprintf("%s %s %d", r.method, r.path, r.status) }

// blob and manifest report whether r took such content from the registry; a HEAD takes none.
func (r request) blob() bool {
	return r.method == http.MethodGet && strings.Contains(r.path, "/blobs/")
}
func (r request) manifest() bool {
	return r.method == http.MethodGet && strings.Contains(r.path, "/manifests/")
}

// line is what docker-registry logs of a request, in Apache's format.
var line = regexp.MustCompile(`(?m)^\S+ - \S+ \[[^]]+\] "([A-Z]+) (\S+) HTTP/[0-9.]+" ([0-9]+) ([0-9]+) `)

// reached is what came in since it was last asked, but for the tests' own mark and pings. The mark makes sure that
// the log has been written so far: lines appear when a request ends, and the requests in question ended before.
func (r *registry) reached() []request {
	r.t.Helper()
	var log string
	mark := fmt.Sprintf("/v2/?mark=%d", r.seen)
	if r.running() {
		answers("http://" + r.addr + mark)
	}
	eventually(r.t, "docker-registry writes its log", func() bool {
		b, err := os.ReadFile(r.log)
		if err != nil {
			r.t.Fatal(err)
		}
		log = string(b)
		return !r.running() || strings.Contains(log[r.seen:], mark)
	})
	whole := strings.LastIndexByte(log, '\n') + 1
	since := log[r.seen:whole]
	r.seen = whole
	return requests(since)
}

func requests(log string) (all []request) {
	for _, m := range line.FindAllStringSubmatch(log, -1) {
		if strings.HasPrefix(m[2], "/v2/?mark=") || m[2] == "/v2/" {
			continue
		}
		status, _ := strconv.Atoi(m[3])
		size, _ := strconv.ParseInt(m[4], 10, 64)
		all = append(all, request{method: m[1], path: m[2], status: status, bytes: size})
	}
	return all
}
