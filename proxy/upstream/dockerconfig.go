package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/tidepool-oci/tidepool/cache"
)

// dockerConfig looks logins up in a file as docker writes it, which holds them or names the programs that do. The file
// is read anew when it has changed. Nothing but this file is looked at: not the operator's own, not the environment.
type dockerConfig struct {
	path    string
	helpers *cache.Group[helperKey, login]

	mu    sync.Mutex // guards all below
	stamp stamp      // of the file as read
	doc   dockerDoc
	given map[string]given // by helpers, by server
}

type helperKey struct{ path, helper, server string }

type stamp struct {
	name string
	size int64
	at   time.Time
}

type given struct {
	login
	until time.Time
}

// dockerDoc is the part of a config.json that concerns logins.
type dockerDoc struct {
	Auths       map[string]authn.AuthConfig `json:"auths"`
	CredHelpers map[string]string           `json:"credHelpers"`
	CredsStore  string                      `json:"credsStore"`
}

const (
	helperLife  = 5 * time.Minute // what a helper gave is not asked for again so soon; clouds' logins last hours
	helperTime  = 15 * time.Second
	helperBytes = 64 << 10
)

// login is the login for the endpoint at o; nobody's where the file knows none.
func (d *dockerConfig) login(ctx context.Context, o origin) (login, error) {
	doc, err := d.load()
	if err != nil {
		return login{}, err
	}
	names := serverNames(o)
	for _, server := range names {
		if helper := doc.CredHelpers[server]; helper != "" {
			return d.ask(ctx, helper, server)
		}
	}
	if a, ok := doc.lookUp(names); ok {
		return login{username: a.Username, password: Secret(a.Password), identity: Secret(a.IdentityToken),
			bearer: Secret(a.RegistryToken)}, nil
	}
	if doc.CredsStore == "" {
		return login{}, nil
	}
	server := names[0]
	if o.host == dockerHub {
		server = authn.DefaultAuthKey // what docker itself files it under
	}
	return d.ask(ctx, doc.CredsStore, server)
}

// lookUp finds the entry of "auths" for a server that has these names: the one that spells it, else the longest pattern
// that fits.
func (doc dockerDoc) lookUp(names []string) (found authn.AuthConfig, ok bool) {
	best := -1
	for _, key := range slices.Sorted(maps.Keys(doc.Auths)) {
		a, name := doc.Auths[key], serverName(key)
		switch {
		case a == (authn.AuthConfig{}):
		case slices.Contains(names, name):
			return a, true
		case len(name) > best && slices.ContainsFunc(names, func(n string) bool { return globs(name, n) }):
			found, ok, best = a, true, len(name)
		}
	}
	return found, ok
}

// globs reports whether a pattern as Kubernetes has them ("*.azurecr.io", "registry-?.corp:5000") fits a server's name:
// label by label, with the same port or none.
func globs(pattern, name string) bool {
	if !strings.ContainsAny(pattern, "*?[") || strings.Contains(pattern, "/") {
		return false
	}
	labels, parts := strings.Split(pattern, "."), strings.Split(name, ".")
	if len(labels) != len(parts) {
		return false
	}
	for i := range labels {
		if ok, err := path.Match(labels[i], parts[i]); !ok || err != nil {
			return false
		}
	}
	return true
}

// serverNames are the names that a login for the endpoint at o may be filed under: its host and port, never a part of
// a name and never another port's.
func serverNames(o origin) []string {
	if o.host == dockerHub && o.port == "443" {
		return dockerNames
	}
	if o.String() == o.hostport() {
		return []string{o.hostport()}
	}
	return []string{o.String(), o.hostport()}
}

// serverName strips from a key of "auths" what docker's tools have put around a server's name. A key with any other
// path is for a part of a registry; it names no server, and stays as it is.
func serverName(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(key), "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	return strings.TrimSuffix(strings.TrimSuffix(key, "/v1"), "/v2")
}

// load reads the file if it has changed.
func (d *dockerConfig) load() (dockerDoc, error) {
	name, info, err := d.find()
	if err != nil {
		return dockerDoc{}, err
	}
	now := stamp{name, info.Size(), info.ModTime()}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stamp == now {
		return d.doc, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return dockerDoc{}, err
	}
	var doc dockerDoc
	if err := json.Unmarshal(b, &doc); err != nil {
		return dockerDoc{}, fmt.Errorf("%s is no docker config.json", name) // the error would quote it
	}
	d.stamp, d.doc, d.given = now, doc, nil
	return doc, nil
}

// find is the file: the path itself, or what lies in it as Kubernetes mounts a Secret of type
// kubernetes.io/dockerconfigjson, or as docker keeps its directory.
func (d *dockerConfig) find() (string, os.FileInfo, error) {
	info, err := os.Stat(d.path)
	if err != nil || !info.IsDir() {
		return d.path, info, err
	}
	for _, name := range []string{".dockerconfigjson", "config.json"} {
		name = filepath.Join(d.path, name)
		if info, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			return name, info, err
		}
	}
	return "", nil, fmt.Errorf("there is no .dockerconfigjson and no config.json in %s", d.path)
}

// ask gets the login for server from a credential helper, or what it gave a while ago.
func (d *dockerConfig) ask(ctx context.Context, helper, server string) (login, error) {
	d.mu.Lock()
	g, ok := d.given[server]
	d.mu.Unlock()
	if ok && time.Now().Before(g.until) {
		return g.login, nil
	}
	l, _, err := d.helpers.Do(ctx, helperKey{d.path, helper, server}, 0, func(ctx context.Context) (login, error) {
		l, err := runHelper(ctx, helper, server)
		if err != nil {
			return login{}, fmt.Errorf("credential helper %q: %w", helper, err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.given == nil {
			d.given = map[string]given{}
		}
		d.given[server] = given{l, time.Now().Add(helperLife)}
		return l, nil
	})
	return l, err
}

// forget makes the next login come from the helpers themselves.
func (d *dockerConfig) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.given = nil
}

// runHelper asks a program docker-credential-NAME, as docker does: the server on its standard input, a JSON document on
// its standard output. What it prints is never shown: it may be the secret.
func runHelper(ctx context.Context, name, server string) (login, error) {
	if strings.ContainsAny(name, `/\`) {
		return login{}, errors.New("its name is no plain word")
	}
	ctx, cancel := context.WithTimeout(ctx, helperTime)
	defer cancel()
	var out bounded
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get")
	cmd.Stdin, cmd.Stdout = strings.NewReader(server), &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if strings.HasPrefix(strings.TrimSpace(out.String()), "credentials not found") {
			return login{}, nil
		}
		return login{}, fmt.Errorf("docker-credential-%s get: %w", name, err)
	}
	var doc struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		return login{}, errors.New("its answer is no JSON document")
	}
	if doc.Username == "<token>" { // the helpers' word for an identity token
		return login{identity: Secret(doc.Secret)}, nil
	}
	return login{username: doc.Username, password: Secret(doc.Secret)}, nil
}

// bounded is a buffer that takes no more than a helper may say.
type bounded struct{ bytes.Buffer }

var errTooMuch = errors.New("too much output")

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > helperBytes {
		return 0, errTooMuch
	}
	return b.Buffer.Write(p)
}
