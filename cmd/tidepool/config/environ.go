package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// passwordPrefix and usernamePrefix, with an upstream's name in capitals behind them, are the variables of its login.
const (
	usernamePrefix = "TIDEPOOL_USERNAME_"
	passwordPrefix = "TIDEPOOL_PASSWORD_"
)

// environment is what os.Environ says by name. An empty variable says nothing: it is how compose files unset one.
func environment(pairs []string) map[string]string {
	env := map[string]string{}
	for _, pair := range pairs {
		if name, value, _ := strings.Cut(pair, "="); value != "" {
			env[name] = value
		}
	}
	return env
}

// variableName is an upstream's name as a part of a variable's: docker.io is DOCKER_IO.
func variableName(upstream string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(upstream))
}

// readLogins takes the logins of upstreams from TIDEPOOL_USERNAME_…, TIDEPOOL_PASSWORD_… and TIDEPOOL_PASSWORD_…_FILE:
// they are an upstream's first login, or complete it.
func (l *layers) readLogins() {
	names := map[string]bool{}
	for _, name := range wellKnown {
		names[name] = l.WellKnown
	}
	for name := range l.Upstreams {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if names[name] {
			l.readLogin(name)
		}
	}
}

func (l *layers) readLogin(name string) {
	suffix := variableName(name)
	user, password, file := usernamePrefix+suffix, passwordPrefix+suffix, passwordPrefix+suffix+"_FILE"
	for _, variable := range []string{user, password, file} {
		value, ok := l.env[variable]
		if !ok {
			continue
		}
		at := Origin{Variable: variable}
		u := l.upstream(name, at)
		if len(u.Credentials) == 0 {
			u.Credentials = make([]Credential, 1)
		}
		path, login := "upstreams."+name+".credentials[0]", &u.Credentials[0]
		switch variable {
		case user:
			login.Username, path = value, path+".username"
		case password:
			login.Password, login.PasswordFile, path = upstream.Secret(value), "", path+".password"
		case file:
			login.Password, login.PasswordFile, path = "", value, path+".password_file"
		}
		l.origins[path] = at
		delete(l.env, variable)
	}
}

// kubernetes are the variables that the kubelet sets in every pod of a namespace with a Service called tidepool or
// tidepool-something; besides them, TIDEPOOL_PORT=tcp://….
var kubernetes = regexp.MustCompile(
	`^TIDEPOOL(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

func fromKubernetes(name, value string) bool {
	return kubernetes.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// warnUnknown tells of variables that look as if they were meant for tidepool and mean nothing to it.
func (l *layers) warnUnknown() {
	known := map[string]bool{"TIDEPOOL_CONFIG": true, "TIDEPOOL_SERVER": true}
	for _, s := range Settings {
		known[s.Variable()] = true
	}
	for _, name := range slices.Sorted(maps.Keys(l.env)) {
		if !strings.HasPrefix(name, "TIDEPOOL_") || known[name] || fromKubernetes(name, l.env[name]) {
			continue
		}
		warning := "unknown variable " + name
		switch near := nearest(name, slices.Sorted(maps.Keys(known))); {
		case strings.HasPrefix(name, usernamePrefix) || strings.HasPrefix(name, passwordPrefix):
			warning += ": no upstream of that name is configured"
		case near != "":
			warning += ": did you mean " + near + "?"
		}
		l.Warnings = append(l.Warnings, warning)
	}
}

// nearest is the one of known that s was probably meant to be; empty: none is near.
func nearest(s string, known []string) string {
	best, least := "", len(s)/3+1 // a typo in every third letter is another word
	for _, k := range known {
		if d := distance(s, k); d < least || d == least && best == "" {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's: the letters to add, drop or change between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
