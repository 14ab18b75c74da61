package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// load reads yaml as a file called c.yaml in a directory of its own.
func load(t testing.TB, yaml string, in config.Inputs) (config.Loaded, error) {
	t.Helper()
	if yaml != "" {
		t.Chdir(t.TempDir())
		if err := os.WriteFile("c.yaml", []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		in.File = "c.yaml"
	}
	return config.Load(in)
}

func value(t *testing.T, l config.Loaded, key string) config.Value {
	t.Helper()
	all := l.Values()
	i := slices.IndexFunc(all, func(v config.Value) bool { return v.Key == key })
	if i < 0 {
		t.Fatalf("no value for %s in %v", key, all)
	}
	return all[i]
}

// Every setting can be said in four ways, and each way wins over those before it.
func TestPrecedence(t *testing.T) {
	const none = "none"
	beside := map[string][]string{ // what some cannot be said without
		"tls-cert": {"TIDEPOOL_TLS_KEY=/k"}, "tls-key": {"TIDEPOOL_TLS_CERT=/k"},
		"client-ca": {"TIDEPOOL_TLS_KEY=/k", "TIDEPOOL_TLS_CERT=/k"},
	}
	for _, c := range []struct{ flag, key, byDefault, yaml, env, given string }{
		{"listen", "listen", "127.0.0.1:5000", "127.0.0.1:1", "127.0.0.1:2", ":3"},
		{"admin", "admin", "127.0.0.1:5001", "127.0.0.1:1", "off", "[::1]:3"},
		{"data", "data", "", "/a", "/b", "/c"},
		{"disk", "disk", "80%", "1MiB", "2MB", "3%"},
		{"memory", "memory", "64MiB", "1KiB", "2001", "3GB"},
		{"upstream", "upstreams.docker.io.endpoints[0]", "https://registry-1.docker.io", "http://one", "http://two", "http://three"},
		{"default-upstream", "default_upstream", "docker.io", "ghcr.io", "quay.io", "gcr.io"},
		{"any-upstream", "any_upstream", "false", "true", "false", "true"},
		{"offline", "offline", "false", "true", "false", "true"},
		{"shutdown-delay", "shutdown_delay", "0s", "1s", "1m", "2h"},
		{"drain", "drain", "30s", "1s", "1m30s", "0s"},
		{"tls-cert", "door.tls_cert", none, "/a", "/b", "/c"},
		{"tls-key", "door.tls_key", none, "/a", "/b", "/c"},
		{"client-ca", "door.client_ca", none, "/a", "/b", "/c"},
		{"forward-proxy", "door.forward_proxy", none, "true", "true", "true"},
		{"log-level", "log.level", "info", "debug", "warn", "error"},
		{"log-format", "log.format", "console", "json", "console", "json"},
	} {
		t.Run(c.flag, func(t *testing.T) {
			setting := config.Settings[slices.IndexFunc(config.Settings, func(s config.Setting) bool { return s.Flag == c.flag })]
			said := func(s string) string { return s }
			yaml := strings.ReplaceAll(c.key, ".", ": {") + ": " + c.yaml + strings.Repeat("}", strings.Count(c.key, "."))
			if setting.Repeated() {
				said = func(s string) string { return "docker.io=" + s }
				yaml = "upstreams: {docker.io: {endpoints: [" + c.yaml + "]}}"
			}
			if c.byDefault == "" {
				t.Setenv("XDG_CACHE_HOME", "/cache")
				c.byDefault = "/cache/tidepool"
			}
			in := config.Inputs{Env: beside[c.flag]}
			expect := func(yaml, want, origin string) {
				t.Helper()
				l, err := load(t, yaml, in)
				if err != nil {
					t.Fatal(err)
				}
				got := value(t, l, c.key)
				if got.Value != want || !strings.HasPrefix(got.Origin, origin) {
					t.Errorf("%s is %q from %s, want %q from %s", c.key, got.Value, got.Origin, want, origin)
				}
			}
			if c.byDefault != none {
				expect("", c.byDefault, "default")
			}
			expect(yaml, c.yaml, "c.yaml:1:")
			in.Env = append(slices.Clone(in.Env), setting.Variable()+"="+said(c.env))
			expect(yaml, c.env, "$"+setting.Variable())
			in.Flags = map[string][]string{c.flag: {said(c.given)}}
			expect(yaml, c.given, "--"+c.flag)
		})
	}
	if n := len(config.Settings); n != 28 {
		t.Errorf("there are %d settings: the table above has 17, those of the cluster 8 and 3", n)
	}
}

func TestUpstreamFlagReplacesEndpointsOnly(t *testing.T) {
	l, err := load(t, "upstreams: {r.corp: {endpoints: [https://a, https://b], fetches: 3, realm: auth.corp}}", config.Inputs{
		Flags: map[string][]string{"upstream": {"r.corp=https://x", "new.corp=http://127.0.0.1:1", "r.corp=https://y/z/"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := l.Upstreams["r.corp"]
	if s := endpoints(got); s != "https://x https://y/z" || got.Fetches != 3 || got.Realm[0] != "auth.corp" {
		t.Errorf("got %s and %+v", s, got)
	}
	if s := endpoints(l.Upstreams["new.corp"]); s != "http://127.0.0.1:1" {
		t.Errorf("got %s", s)
	}
	if at := l.Origin("upstreams.r.corp.endpoints[1]").String(); at != "--upstream" {
		t.Errorf("an endpoint comes from %s", at)
	}
}

func endpoints(u *config.Upstream) string {
	var s []string
	for _, e := range u.Endpoints {
		s = append(s, e.String())
	}
	return strings.Join(s, " ")
}

func TestWellKnown(t *testing.T) {
	l, err := load(t, "", config.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"docker.io", "ghcr.io", "quay.io", "registry.k8s.io", "gcr.io", "mcr.microsoft.com", "public.ecr.aws"} {
		if u := l.Upstreams[name]; u == nil || len(u.Endpoints) != 1 || u.Fetches == 0 {
			t.Errorf("%s is %+v", name, u)
		}
	}
	l, err = load(t, "well_known: false\ndefault_upstream: ghcr.io\nupstreams: {ghcr.io: }", config.Inputs{})
	if err != nil || len(l.Upstreams) != 1 || endpoints(l.Upstreams["ghcr.io"]) != "https://ghcr.io" {
		t.Errorf("got %v, %v", l.Upstreams, err)
	}
}

// All that is wrong is said at once, each where it stands.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"every kind at once": {`listn: x
disk: huge
memory: [1]
any_upstream: perhaps
upstreams:
  r.corp: {fetches: few, endpoints: [ftp://x, 'https://me:hunter2@r.corp', 'https://r.corp?a=b']}
  q.corp: {zzz: 1, credentials: [{username: me, password: hunter2}]}
disk: 1GiB
log: {level: loud}
tags: [{match: Docker.io/a, fresh: -3s}, ~]
hosts: {a.corp: nobody.corp}
`, `c.yaml:1:1: unknown key listn: did you mean listen?
c.yaml:2:7: disk: "huge" is no size: write 200GiB, 512MiB or a number of bytes
c.yaml:3:9: memory: want one value, found a list
c.yaml:4:15: any_upstream: want true or false, found "perhaps"
c.yaml:6:21: upstreams.r.corp.fetches: want a whole number, found "few"
c.yaml:6:38: upstreams.r.corp.endpoints[0]: "ftp://x" is no registry's URL: write https://host, or http://host where it has no TLS
c.yaml:6:47: upstreams.r.corp.endpoints[1]: "https://me:xxxxx@r.corp" has a login in it: logins go under credentials
c.yaml:6:76: upstreams.r.corp.endpoints[2]: "https://r.corp?a=b" says too much: a registry's URL has no query and no fragment
c.yaml:7:12: unknown key upstreams.q.corp.zzz
c.yaml:7:49: upstreams.q.corp.credentials[0]: a password does not stand in the file: name a password_file, or set its TIDEPOOL_PASSWORD_… variable
c.yaml:8:1: disk is there twice, first in line 2
c.yaml:9:14: log.level: "loud" is none of info, debug, warn, error
c.yaml:10:16: tags[0].match: "Docker.io/a" can match no name: names end with a tag: add :* for all of them
c.yaml:10:36: tags[0].fresh: "-3s" is no duration: write 90s, 5m, 1h30m, 30d, 2w or forever
c.yaml:10:42: tags[1] is empty
c.yaml:11:9: hosts.a.corp: the upstream "nobody.corp" is not configured`},
		"across keys": {`listen: 127.0.0.1:7000
admin: 127.0.0.1:7000
default_upstream: hub.corp
upstreams:
  Upper.corp: {}
  short: {}
  plain.corp:
    endpoints: [http://plain.corp]
    credentials: [{username: me, password_file: c.yaml}]
  half.corp: {cert_file: c.yaml, fetches: -1}
  login.corp: {credentials: [{username: me}, {username: me, password_file: nowhere}], realm: 'a*'}
  index.docker.io:
hosts: {mirror.corp: nobody.corp, 'http://x': ghcr.io}
tags:
  - {match: "ghcr.oi/**", fresh: 1h}
  - {match: "**"}
  - {match: "quay.io/**", fresh: 1h}
`, `c.yaml:2:8: admin: 127.0.0.1:7000 is where clients come in: choose another port
c.yaml:3:19: default_upstream: "hub.corp" is not configured: list it under upstreams
c.yaml:5:3: upstreams.Upper.corp: no image name begins with this: want a host in lower case, as registry.corp or registry.corp:5000
c.yaml:6:3: upstreams.short: this is no host that could be asked: say its endpoints
c.yaml:8:17: upstreams.plain.corp.endpoints[0]: the login would cross the network unencrypted: use https, or say cleartext_login: true
c.yaml:10:3: upstreams.half.corp: cert_file and key_file go together
c.yaml:10:43: upstreams.half.corp.fetches: want a number of downloads, 1 or more
c.yaml:11:30: upstreams.login.corp.credentials[0]: a login needs a password_file, or the variable TIDEPOOL_PASSWORD_LOGIN_CORP
c.yaml:11:94: upstreams.login.corp.realm: "a*": a realm is one host
c.yaml:12:3: upstreams.index.docker.io: this is another name of docker.io: write that
c.yaml:13:9: hosts.mirror.corp: the upstream "nobody.corp" is not configured
c.yaml:13:35: hosts.http://x: want a host name in lower case, as ghcr.mirror.corp
c.yaml:15:13: tags[0].match: "ghcr.oi/**" can match no name: the upstream "ghcr.oi" is not configured
c.yaml:16:5: tags[1]: a rule says how long its tags are fresh
c.yaml:17:5: tags[2]: no tag comes this far: rule 2 matches all of them`},
		"blamed on what was said": {"well_known: false\n", `c.yaml:1:1: default_upstream: "docker.io" is not configured: list it under upstreams`},
		"beyond the disk":         {"data: /proc/../tmp\ndisk: 9000PB\n", `c.yaml:2:7: disk: 9000PB is more than the file system of `},
		"beyond the memory":       {"memory: 9000PB\n", `c.yaml:1:9: memory: 9000PB is more than this machine has (`},
		"nothing kept": {"disk: 0\nmemory: 0\n", `c.yaml:1:7: disk: a cache of 0 bytes keeps nothing: write 200GiB, or 80% for a share of the file system
c.yaml:2:9: memory: manifests are served from memory: write 64MiB, or less where memory is short`},
		"second login": {"upstreams:\n  r.corp:\n    credentials:\n    - {username: a, password_file: c.yaml}\n    - {username: b, password_file: none}\n",
			"c.yaml:5:7: upstreams.r.corp.credentials[1]: open none: no such file or directory"},
		"two documents":     {"listen: :1\n---\nlisten: :2\n", "c.yaml:2:1: a second document begins here: the file has one"},
		"torn":              {"listen: [\n", "c.yaml:2:1: no YAML: did not find expected node content"},
		"a list":            {"- a\n", `c.yaml:1:1: the file: want keys and values, found a list`},
		"no alias":          {"listen: *x\n", "c.yaml:1:9: no YAML: unknown anchor 'x' referenced"},
		"merge key":         {"upstreams: {a.b: {<<: {fetches: 3}}}\n", "c.yaml:1:19: upstreams.a.b: want a plain key, found a merge key"},
		"dash":              {"upstreams: {a.b: {credentials: [{'-': x}]}}\n", "c.yaml:1:34: unknown key upstreams.a.b.credentials[0].-"},
		"control character": {"\x00", "c.yaml:1:1: no YAML: control characters are not allowed (value: 0)"},
		"fewer than none":   {"connections_per_client: -1\n", "c.yaml:1:25: connections_per_client: want a number of connections, or 0 for no cap"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.yaml, config.Inputs{})
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got:\n%v\nwant:\n%s", err, c.want)
			}
		})
	}
}

func TestFaultsOfFlagsAndVariables(t *testing.T) {
	_, err := load(t, "disk: lots\n", config.Inputs{
		Env:   []string{"TIDEPOOL_MEMORY=-1", "TIDEPOOL_UPSTREAM=docker.io"},
		Flags: map[string][]string{"listen": {"5000"}, "default-upstream": {"nowhere"}},
	})
	want := `$TIDEPOOL_MEMORY: "-1" is no size: write 200GiB, 512MiB or a number of bytes
$TIDEPOOL_UPSTREAM: want NAME=URL, as docker.io=https://mirror.corp
--listen: "5000" is no address: write 127.0.0.1:5000, [::1]:5000, or :5000 for every address
--default-upstream: "nowhere" is not configured: list it under upstreams
c.yaml:1:7: disk: "lots" is no size: write 200GiB, 512MiB or a number of bytes`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestEmptyFiles(t *testing.T) {
	for _, yaml := range []string{"\n", "# nothing\n", "---\n", "{}", "listen:\nlog:\ntags:\n"} {
		l, err := load(t, yaml, config.Inputs{})
		if err != nil || l.Listen != "127.0.0.1:5000" || l.Log.Level != "info" || len(l.Tags) != 1 {
			t.Errorf("%q: %+v, %v", yaml, l.Config, err)
		}
	}
}

func TestWhereTheFileIsFound(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) string {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte("{}"), 0o600)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	flag, variable, xdg, home := write("flag.yaml"), write("variable.yaml"), write("xdg/tidepool/config.yaml"), write("home/.config/tidepool/config.yaml")
	env := []string{"HOME=" + filepath.Join(dir, "home")}
	expect := func(in config.Inputs, want string) {
		t.Helper()
		if l, err := config.Load(in); err != nil || l.File != want {
			t.Errorf("got %q, %v; want %q", l.File, err, want)
		}
	}
	expect(config.Inputs{Env: env}, home)
	env = append(env, "XDG_CONFIG_HOME="+filepath.Join(dir, "xdg"))
	expect(config.Inputs{Env: env}, xdg)
	env = append(env, "TIDEPOOL_CONFIG="+variable)
	expect(config.Inputs{Env: env}, variable)
	expect(config.Inputs{Env: env, File: flag}, flag)
	expect(config.Inputs{Env: env, File: "-", Stdin: strings.NewReader("{}")}, "stdin")
	none := filepath.Join(dir, "none")
	for origin, in := range map[string]config.Inputs{
		"--config": {File: none}, "$TIDEPOOL_CONFIG": {Env: []string{"TIDEPOOL_CONFIG=" + none}},
	} {
		want := origin + ": open " + none + ": no such file or directory"
		if _, err := config.Load(in); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestVariablesThatMeanNothing(t *testing.T) {
	l, err := load(t, "", config.Inputs{Env: []string{
		"TIDEPOOL_LISTN=:1", "TIDEPOOL_PASSWORD_NOWHERE=x", "OTHER=1", "TIDEPOOL_CONFIG=", "TIDEPOOL_LISTEN=",
		"TIDEPOOL_PORT=tcp://10.0.0.1:5000", "TIDEPOOL_PORT_5000_TCP=tcp://10.0.0.1:5000", "TIDEPOOL_PORT_5000_TCP_PROTO=tcp",
		"TIDEPOOL_PORT_5000_TCP_PORT=5000", "TIDEPOOL_PORT_5000_TCP_ADDR=10.0.0.1", "TIDEPOOL_SERVICE_HOST=10.0.0.1",
		"TIDEPOOL_SERVICE_PORT=5000", "TIDEPOOL_SERVICE_PORT_HTTP_REGISTRY=5000", "TIDEPOOL_ADMIN_PORT=tcp://10.0.0.2:5001",
		"TIDEPOOL_ADMIN_SERVICE_HOST=10.0.0.2",
	}})
	want := []string{"unknown variable TIDEPOOL_LISTN: did you mean TIDEPOOL_LISTEN?",
		"unknown variable TIDEPOOL_PASSWORD_NOWHERE: no upstream of that name is configured"}
	if err != nil || !reflect.DeepEqual(l.Warnings, want) {
		t.Errorf("got %q, %v", l.Warnings, err)
	}
}

func TestSecrets(t *testing.T) {
	const canary = "hunter2"
	l, err := load(t, "upstreams: {r.corp:5000: {credentials: [{username: me}]}}", config.Inputs{Env: []string{
		"TIDEPOOL_PASSWORD_R_CORP_5000=" + canary,
		"TIDEPOOL_USERNAME_DOCKER_IO=acme", "TIDEPOOL_PASSWORD_DOCKER_IO_FILE=c.yaml",
		"TIDEPOOL_USERNAME_FLAG_CORP=you", "TIDEPOOL_PASSWORD_FLAG_CORP=" + canary,
	}, Flags: map[string][]string{"upstream": {"flag.corp=https://flag.corp"}}})
	if err != nil {
		t.Fatal(err)
	}
	if c := l.Upstreams["r.corp:5000"].Credentials[0]; string(c.Password) != canary || c.Username != "me" {
		t.Errorf("got %+v", c)
	}
	if c := l.Upstreams["docker.io"].Credentials[0]; c.Username != "acme" || c.PasswordFile != "c.yaml" {
		t.Errorf("got %+v", c)
	}
	if c := l.Upstreams["flag.corp"].Credentials[0]; c.Username != "you" || string(c.Password) != canary {
		t.Errorf("got %+v", c)
	}
	shown := value(t, l, "upstreams.r.corp:5000.credentials[0].password")
	if shown.Value != "***" || shown.Origin != "$TIDEPOOL_PASSWORD_R_CORP_5000" {
		t.Errorf("got %+v", shown)
	}
	for _, v := range l.Values() {
		if strings.Contains(v.Value, canary) {
			t.Errorf("%s shows a secret", v.Key)
		}
	}
}

// A tree that aliases make exponential is cut off, not walked.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	item := "{username: a, password_file: c.yaml}"
	b.WriteString("upstreams:\n  a.a: &u {credentials: [&c " + item + strings.Repeat(", *c", 2000) + "]}\n")
	for i := range 1000 {
		b.WriteString("  a" + strings.Repeat("a", i) + ".b: *u\n")
	}
	_, err := load(t, b.String(), config.Inputs{})
	if err == nil || !strings.Contains(err.Error(), "its aliases repeat each other") {
		t.Errorf("got %.200v", err)
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "1d": 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1w2d3h": (9*24 + 3) * time.Hour,
		"1.5h": 90 * time.Minute, "forever": time.Duration(config.Forever),
	} {
		var d, again config.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != want {
			t.Errorf("%s is %v, %v", text, d, err)
		}
		if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d {
			t.Errorf("%s is written %s, which is read as %s, %v", text, d, again, err)
		}
	}
	for _, text := range []string{"", "5", "-1s", "1d-2h", "d", "w", "5 m", "99999d", "9999w9999d2562047h", "never"} {
		var d config.Duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %v", text, d)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]config.Size{
		"0": 0, "1024": 1024, "10G": 1e10, "10GB": 1e10, "10GiB": 10 << 30, "200 MiB": 200 << 20, "1.5KiB": 1536,
	} {
		var s, again config.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s is %v, %v", text, s, err)
		}
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s is written %s, which is read as %s, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"", "-1", "GiB", "10XB", "10000000000000000000", "1e30", "NaN"} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %v", text, s)
		}
	}
	for _, text := range []string{"0%", "96%", "%", "-1%", "1.5%"} {
		var b config.Budget
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %v", text, b)
		}
	}
	if got := (config.Budget{Percent: 80}).Of(1000); got != 800 {
		t.Errorf("80 %% of 1000 is %d", got)
	}
}

func TestPattern(t *testing.T) {
	for pattern, names := range map[string][]string{
		"**":                    {"docker.io/library/alpine:3", "ghcr.io/a/b/c:v1.2.3"},
		"**/*:v*.*.*":           {"ghcr.io/a/b/c:v1.2.3"},
		"docker.io/library/*:*": {"docker.io/library/alpine:3"},
		"docker.io/library/*":   {"docker.io/library/alpine:3"},
		"docker.io/**/*:3":      {"docker.io/library/alpine:3"},
		"{ghcr.io,quay.io}/**":  {"ghcr.io/a/b/c:v1.2.3"},
		"r.corp:5000/**":        {"r.corp:5000/x:latest"},
		"**/x:[a-z]*":           {"r.corp:5000/x:latest"},
	} {
		var p config.Pattern
		if err := p.UnmarshalText([]byte(pattern)); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"docker.io/library/alpine:3", "ghcr.io/a/b/c:v1.2.3", "r.corp:5000/x:latest", "quay.com/a:1"} {
			if got, want := p.Match(name), pattern == "**" || slices.Contains(names, name); got != want {
				t.Errorf("%s matches %s: %v", pattern, name, got)
			}
		}
	}
	for _, pattern := range []string{"", "alpine:3", "docker.io/library/alpine", "docker.io/Library/*:*", "/x/**", "a.b//c:*",
		"a.b/c@sha256:00", "a.b/c d:*", "a.b/c:", "a.b/[c", "a.b/**:3", "a.b/c**/d:*", "***", "r.corp:5000/x"} {
		var p config.Pattern
		if err := p.UnmarshalText([]byte(pattern)); err == nil {
			t.Errorf("%q is taken for a pattern", pattern)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("listen: :5000\nupstreams: {r.corp: {endpoints: [https://x], credentials: [{username: a}]}}\n"))
	f.Add([]byte("tags: [{match: '**/a:*', fresh: 3d}]\nhosts: {a.b: docker.io}\ndisk: 3%\n"))
	f.Add([]byte("a: &a {<<: *a}\n---\n- [x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := config.Load(config.Inputs{File: "-", Stdin: strings.NewReader(string(text)), Env: []string{"HOME=/"}})
		var faults config.Faults
		if err != nil && !errors.As(err, &faults) {
			t.Fatalf("%T: %v", err, err)
		}
		for _, fault := range faults {
			if fault.At.File != "stdin" || fault.At.Line < 1 || fault.At.Column < 1 || fault.What == "" {
				t.Errorf("%+v has no place", fault)
			}
		}
	})
}
