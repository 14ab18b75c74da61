package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// check finds what is wrong with values that are right one by one. Each fault stands where the value was said.
func (l *layers) check() {
	l.checkServers()
	l.checkDoor()
	l.checkStore()
	if !l.known(l.DefaultUpstream) {
		l.wrong("default_upstream", "%q is not configured: list it under upstreams", l.DefaultUpstream)
	}
	for _, name := range slices.Sorted(maps.Keys(l.Upstreams)) {
		l.checkUpstream(name, l.Upstreams[name])
	}
	l.checkHubs()
	for _, host := range slices.Sorted(maps.Keys(l.Hosts)) {
		l.checkHost(host, l.Hosts[host])
	}
	l.checkAliases()
	l.checkTags()
	l.checkWarm()
	l.checkCluster()
}

// known reports whether an upstream is configured, for all that could be read.
func (l *layers) known(upstream string) bool {
	return l.Upstreams[upstream] != nil || slices.Contains(l.bad, "upstreams")
}

// wrong notes a fault at the place where key was said, or the nearest thing around it. It keeps silent where the
// reason may be a value that could not be read, which has been said already.
func (l *layers) wrong(key, format string, args ...any) {
	for _, bad := range l.bad {
		if within(key, bad) || within(bad, key) {
			return
		}
	}
	at, what := l.place(key), fmt.Sprintf(format, args...)
	if !at.means(key) {
		what = key + ": " + what
	}
	l.fault(at, "%s", what)
}

// within reports whether key is outer or a part of it.
func within(key, outer string) bool {
	rest, ok := strings.CutPrefix(key, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// place is where key was said. What is a default is blamed on what was said around it; failing that, on the file.
func (l *layers) place(key string) Origin {
	for {
		at, ok := l.origins[key]
		if ok || key == "" {
			if !ok && l.File != "" {
				at = Origin{File: l.File, Line: 1, Column: 1}
			}
			return at
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
}

// Containerd waits for the head of an answer for 30 s, and what was waited for has to come too.
const maxHold = 20 * time.Second

func (l *layers) checkServers() {
	if l.Connections < 0 {
		l.wrong("connections_per_client", "want a number of connections, or 0 for no cap")
	}
	if time.Duration(l.Hold) > maxHold {
		l.wrong("hold", "clients do not wait for an answer that long: say %s or less", Duration(maxHold))
	}
	if l.Listen == Off {
		l.wrong("listen", "a server must listen somewhere")
	}
	if l.Admin == l.Listen && !strings.HasSuffix(string(l.Listen), ":0") {
		l.wrong("admin", "%s is where clients come in: choose another port", l.Admin)
	}
}

func (l *layers) checkStore() {
	if l.Data == "" {
		l.wrong("data", "there is no home directory to keep data in: name a directory with --data")
		return
	}
	total := Space(l.Data)
	if limit := total / 100 * maxPercent; total > 0 && int64(l.Disk.Bytes) > limit && !l.Overcommit {
		l.wrong("disk", "%s is more than the file system of %s can hold (%s, of which %d %% stay free): say less, or overcommit: true where it grows",
			l.Disk, l.Data, humanize.IBytes(uint64(total)), 100-maxPercent)
	}
	if l.Disk == (Budget{}) {
		l.wrong("disk", "a cache of 0 bytes keeps nothing: write 200GiB, or 80%% for a share of the file system")
	}
	total = machineMemory()
	switch {
	case l.Memory == 0:
		l.wrong("memory", "manifests are served from memory: write 64MiB, or less where memory is short")
	case total > 0 && int64(l.Memory) > total:
		l.wrong("memory", "%s is more than this machine has (%s): say less, 64MiB hold thousands of manifests", l.Memory,
			humanize.IBytes(uint64(total)))
	}
}

// machineMemory is in bytes; 0: unknown.
func machineMemory() int64 {
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) != nil {
		return 0
	}
	return int64(s.Totalram) * int64(s.Unit)
}

// Space is the size of the file system that dir is on, or will be; 0: unknown.
func Space(dir string) int64 {
	for {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		if err == nil {
			return int64(s.Blocks) * s.Bsize
		}
		parent := filepath.Dir(dir)
		if !os.IsNotExist(err) || parent == dir {
			return 0
		}
		dir = parent
	}
}

// upstreamName is what may stand before the first slash of an image's name.
var upstreamName = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]{1,5})?$`)

// otherNames are turned into the one that images carry before anything is looked up.
var otherNames = map[string]string{"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io"}

func (l *layers) checkUpstream(name string, u *Upstream) {
	key := "upstreams." + name
	if !upstreamName.MatchString(name) {
		l.wrong(key, "no image name begins with this: want a host in lower case, as registry.corp or registry.corp:5000")
		return
	}
	if other := otherNames[name]; other != "" {
		l.wrong(key, "this is another name of %s: write that", other)
	}
	if u.isVirtual() {
		l.checkVirtual(name, u)
		return
	}
	l.checkNotVirtual(name)
	if _, said := l.origins[key+".endpoints"]; !said && !strings.ContainsAny(name, ".:") && name != "localhost" {
		l.wrong(key, "this is no host that could be asked: say its endpoints")
	}
	if (u.CertFile == "") != (u.KeyFile == "") {
		l.wrong(key, "cert_file and key_file go together")
		l.bad = append(l.bad, key+".cert_file")
	}
	for i, c := range u.Credentials {
		if c.PasswordFile == "" && c.Password == "" && !c.ofCloud() {
			l.wrong(fmt.Sprintf("%s.credentials[%d]", key, i), "a login needs a password_file, or the variable %s",
				passwordPrefix+variableName(name))
			l.bad = append(l.bad, key+".credentials")
		}
	}
	l.checkAccess(key, u)
	l.checkCallers(key, u)
	l.checkClouds(key, u)
	for i, e := range u.Endpoints {
		if e.exposed() && u.hasLogin() && !u.CleartextLogin {
			l.wrong(fmt.Sprintf("%s.endpoints[%d]", key, i), "the login would cross the network unencrypted: use https, or say cleartext_login: true")
		}
	}
}

// checkHubs has the upstreams' clients look at what is theirs. It needs no network.
func (l *layers) checkHubs() {
	hubs, err := upstream.New(l.Hubs(), upstream.Options{})
	if err == nil {
		_ = hubs.Close() // they have not been used
	}
	for _, one := range flat(err) {
		var fault *upstream.ConfigError
		if !errors.As(one, &fault) {
			l.wrong("upstreams", "%v", one)
			continue
		}
		l.wrong(strings.TrimSuffix("upstreams."+fault.Registry+"."+fault.Key, "."), "%v", fault.Err)
	}
}

// flat is what errors.Join has put together.
func flat(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return nil
	case !ok:
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flat(e)...)
	}
	return all
}

// hostName is what a Host header says, with or without its port.
var hostName = regexp.MustCompile(`^[a-z0-9]+([.-]+[a-z0-9]+)*(:[0-9]{1,5})?$`)

func (l *layers) checkHost(host, meant string) {
	key := "hosts." + host
	if !hostName.MatchString(host) {
		l.wrong(key, "want a host name in lower case, as ghcr.mirror.corp")
	}
	if !l.known(meant) {
		l.wrong(key, "the upstream %q is not configured", meant)
	}
}

func (l *layers) checkTags() {
	all := -1 // the rule that leaves nothing for those behind it
	for i, rule := range l.Tags {
		key := fmt.Sprintf("tags[%d]", i)
		registry, one := rule.Match.registry()
		switch {
		case rule.Match == "":
			l.wrong(key, "a rule needs a match")
		case all >= 0:
			l.wrong(key, "no tag comes this far: rule %d matches all of them", all+1)
		case one && !l.known(registry) && !l.AnyUpstream:
			l.wrong(key+".match", "%q can match no name: the upstream %q is not configured", rule.Match, registry)
		case one && l.Upstreams[registry].isVirtual():
			l.wrong(key+".match", "%q can match no name: tags age as at the upstream that answers, and %q is virtual", rule.Match, registry)
		}
		_, listed := l.origins[key]
		if _, said := l.origins[key+".fresh"]; listed && !said {
			l.wrong(key, "a rule says how long its tags are fresh")
		}
		if rule.Match == "**" && all < 0 {
			all = i
		}
	}
}
