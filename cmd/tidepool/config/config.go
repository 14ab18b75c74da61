// Package config reads what tidepool is told: flags over TIDEPOOL_ variables over one YAML file over defaults.
//
// Its invariant: a Config that Load returns without Faults is complete and free of contradictions, and of every value
// it is known where it came from.
package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// Config is everything that can be told, in the shape of the file. The doc tags are the one text of the flags' help,
// of the JSON Schema and of config show's errors.
type Config struct {
	Listen          Address              `yaml:"listen" doc:"where clients come in: host:port, or :port for every address"`
	Admin           Address              `yaml:"admin" doc:"where health and metrics are served: host:port, or off"`
	Data            string               `yaml:"data" doc:"directory of the store"`
	Disk            Budget               `yaml:"disk" doc:"budget of the disk tier: a size, or a share of the file system"`
	Overcommit      bool                 `yaml:"overcommit" doc:"accept a disk budget that the file system cannot hold today, as on a volume that grows"`
	Memory          Size                 `yaml:"memory" doc:"budget of the memory tier"`
	DefaultUpstream string               `yaml:"default_upstream" doc:"the upstream of names without a host"`
	AnyUpstream     bool                 `yaml:"any_upstream" doc:"pull from hosts that are not configured too, except from private addresses"`
	WellKnown       bool                 `yaml:"well_known" doc:"know docker.io, ghcr.io, quay.io, registry.k8s.io, gcr.io, mcr.microsoft.com and public.ecr.aws without their being listed"`
	Offline         bool                 `yaml:"offline" doc:"ask no upstream for anything: serve what is held, answer 404 to the rest"`
	Connections     int                  `yaml:"connections_per_client" doc:"connections that one client address may have open at a time, an IPv6 /64 being one address; 0: as many as it likes"`
	ShutdownDelay   Duration             `yaml:"shutdown_delay" doc:"how long to go on accepting after SIGTERM, with /readyz already refusing"`
	Drain           Duration             `yaml:"drain" doc:"how long running answers may take to end, after SIGTERM and the shutdown delay"`
	Log             Log                  `yaml:"log"`
	Door            Door                 `yaml:"door"`
	Upstreams       map[string]*Upstream `yaml:"upstreams" doc:"the registries that may be pulled from, by the names clients use"`
	Uplink          Uplink               `yaml:"uplink"`
	Hosts           map[string]string    `yaml:"hosts" doc:"host names of this server that stand for an upstream"`
	Aliases         []Alias              `yaml:"aliases" doc:"repositories that are found under another name; the first match wins"`
	Tags            []TagRule            `yaml:"tags" doc:"how tags age; the first match wins"`
	Warm            []WarmRule           `yaml:"warm" doc:"images that are fetched before anybody asks for them"`
	Cluster         Cluster              `yaml:"cluster"`
	Missing         Duration             `yaml:"missing" doc:"how long an upstream is believed that it does not have a tag or a manifest"`
	Hold            Duration             `yaml:"hold" doc:"how long a request for what is not held waits for the end of an upstream's limit, where that is so near; 0s: it is refused at once"`
	Ranges          Ranges               `yaml:"ranges" doc:"whether a range of what is still arriving goes out as it came, or waits until the digest is proven"`
	Fill            Fill                 `yaml:"fill" doc:"when a blob of which only ranges are asked for is fetched whole: once half is held, at once, or never"`
	Scrub           Rate                 `yaml:"scrub" doc:"how fast the store is read over in search of rot, or off"`
}

// Log says what is logged and how.
type Log struct {
	Level  LogLevel  `yaml:"level" doc:"the least urgent line that is logged"`
	Format LogFormat `yaml:"format" doc:"how lines look"`
}

// Upstream is one registry that is pulled from.
type Upstream struct {
	Type               Type         `yaml:"type" doc:"registry (it is pulled from) or virtual (it stands for the upstreams that it lists)"`
	Of                 []string     `yaml:"of" doc:"with type: virtual, the upstreams that it stands for: the first that has a thing wins"`
	Inside             []Glob       `yaml:"inside" doc:"with type: virtual, names that only the members in inside_of are ever asked for: internal/**"`
	InsideOf           []string     `yaml:"inside_of" doc:"with type: virtual, the members that may be asked for the names in inside"`
	DeniedIsMissing    bool         `yaml:"denied_is_missing" doc:"this registry says denied of what it does not have: where there are others to ask, for an alias or a virtual upstream, that leads on to them"`
	Endpoints          []Endpoint   `yaml:"endpoints" doc:"base URLs, tried in order; without any, https:// and the upstream's name"`
	Credentials        []Credential `yaml:"credentials" doc:"logins; without any, pulls are anonymous"`
	DockerConfig       string       `yaml:"docker_config" doc:"a docker config.json, with its credential helpers, or a mounted pull secret of Kubernetes, to take the login from"`
	Access             Access       `yaml:"access" doc:"whose permission counts: shared (ours; who comes in may have it) or caller (each client's own login is shown to the upstream)"`
	AccessFor          Term         `yaml:"access_for" doc:"with access: caller, how long the upstream's yes to a client is good for a repository"`
	Callers            []StandIn    `yaml:"callers" doc:"with access: caller, logins that stand in for clients that send none; the first that matches"`
	CleartextLogin     bool         `yaml:"cleartext_login" doc:"send the login although an endpoint is plain http"`
	Realm              []string     `yaml:"realm" doc:"hosts of token servers that the login may go to, besides the registry's own: auth.corp, auth.corp:8443"`
	RedirectHosts      []string     `yaml:"redirect_hosts" doc:"hosts at private addresses, or without TLS, that this upstream may redirect to: minio.corp:9000, *.cdn.corp, 10.1.0.0/16"`
	CAFile             string       `yaml:"ca_file" doc:"PEM file of authorities to trust for this upstream besides the system's"`
	CertFile           string       `yaml:"cert_file" doc:"PEM file of our client certificate"`
	KeyFile            string       `yaml:"key_file" doc:"PEM file of its key"`
	InsecureSkipVerify bool         `yaml:"insecure_skip_verify" doc:"accept any certificate"`
	Prefix             bool         `yaml:"prefix" doc:"let this upstream's name be a path prefix although it has no dot or colon in it"`
	Offline            bool         `yaml:"offline" doc:"ask this upstream for nothing: serve what is held of it, answer 404 to the rest"`
	Fetches            int          `yaml:"fetches" doc:"downloads from this upstream at a time"`
	Limit              Rate         `yaml:"limit" doc:"how much may come from this upstream, of all downloads together, or off"`
	Reserve            Share        `yaml:"reserve" doc:"share of the pull limit that is kept for what is not held; below it, what is held is not pulled anew"`
	Requests           Pace         `yaml:"requests" doc:"how many requests of any kind each endpoint is sent at most: 100/m, 5000/h, or off; off still keeps to what refusals taught"`
	Together           bool         `yaml:"credentials_together" doc:"use these accounts together: where one has no pulls left, the next"`
}

// Credential is one login.
type Credential struct {
	Username     string          `yaml:"username" doc:"account"`
	Password     upstream.Secret `yaml:"-"` // from the environment only
	PasswordFile string          `yaml:"password_file" doc:"file that holds the password or token; read anew whenever it is needed, its last line end does not count"`
	Endpoint     string          `yaml:"endpoint" doc:"host of the only endpoint that it is for; without it, all of the upstream's"`

	AWS    *AWS    `yaml:"aws" doc:"have AWS make the login, in place of a username and a password"`
	Google *Google `yaml:"google" doc:"have Google make the login, in place of a username and a password"`
	Azure  *Azure  `yaml:"azure" doc:"have Azure make the login, in place of a username and a password"`
}

// Uplink bounds what may come from all upstreams together.
type Uplink struct {
	Limit   Rate     `yaml:"limit" doc:"how much may come, or off"`
	Windows []Window `yaml:"windows" doc:"times of the day with another limit; the first that fits"`
}

// Window is a time of the day, every day, by the clock of this machine.
type Window struct {
	From  Clock `yaml:"from" doc:"when it begins: 22:00"`
	To    Clock `yaml:"to" doc:"when it ends: 06:00; before from: the next day"`
	Limit Rate  `yaml:"limit" doc:"how much may come then, or off"`
}

// At is how many bytes per second may come at a time; 0: as fast as they come.
func (u Uplink) At(now time.Time) int64 {
	clock := Clock(now.Hour()*60 + now.Minute())
	for _, w := range u.Windows {
		if inTime(clock, w.From, w.To) {
			return int64(w.Limit)
		}
	}
	return int64(u.Limit)
}

// TagRule says how the tags that it matches age.
type TagRule struct {
	Match        Pattern   `yaml:"match" doc:"pattern over registry/repository:tag; ** crosses slashes, * does not"`
	Fresh        Freshness `yaml:"fresh" doc:"how long a tag needs no asking; never: it is asked for each time"`
	Grace        Duration  `yaml:"grace" doc:"how much longer it is served at once, while the upstream is asked behind the answer"`
	StaleIfError Bound     `yaml:"stale_if_error" doc:"how long after that time it is served while the upstream cannot be asked; forever where nothing is said"`
	Lists        Bound     `yaml:"lists" doc:"how long lists of tags, and of what refers to a digest, need no asking; as long as a tag where nothing is said"`
	OnDelete     OnDelete  `yaml:"on_delete" doc:"what becomes of a tag that the upstream has no more: follow (it is gone) or keep"`
}

// wellKnown are the registries that everybody pulls from.
var wellKnown = []string{
	"docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.k8s.io",
}

// Default is what holds where nothing is said, before the well-known upstreams are added.
func Default() Config {
	return Config{
		Listen:          "127.0.0.1:5000",
		Admin:           "127.0.0.1:5001",
		Data:            defaultData(),
		Disk:            Budget{Percent: 80},
		Memory:          64 << 20,
		DefaultUpstream: "docker.io",
		WellKnown:       true,
		Connections:     defaultConnections,
		Drain:           Duration(30 * time.Second),
		Cluster:         Cluster{Bind: Off, Replicas: 1, RepairRate: 64 << 20},
		Log:             Log{Level: "info", Format: "console"},
		Tags:            []TagRule{{Match: "**", Fresh: Freshness(defaultFresh)}},
		Missing:         Duration(30 * time.Second),
		Hold:            Duration(10 * time.Second),
		Ranges:          "arrived",
		Fill:            "auto",
		Scrub:           8 << 20,
	}
}

// defaultFresh is what most who set such a time choose: a moved tag is seen within the patience of who moved it, and a
// node that pulls a hundred images asks once for each.
const defaultFresh = 5 * time.Minute

// defaultConnections is far more than a node needs that pulls dozens of images with parallel ranges, and so few that
// one client cannot take every descriptor.
const defaultConnections = 512

// defaultFetches keeps one slow hub from taking every descriptor, and is more than one client opens (dockerd: 3).
const defaultFetches = 64

// defaultReserve is the percentage of upstream.Config.Reserve that stands there for 0: as much of a pull limit as a busy afternoon needs for what nobody has pulled before.
const defaultReserve = 10

// defaultData is empty where the user has no home: then it must be said.
func defaultData() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "tidepool")
}

// complete adds what follows from the rest: the well-known upstreams, and what an upstream does not say.
func (c *Config) complete() {
	all := map[string]*Upstream{}
	if c.WellKnown {
		for _, name := range wellKnown {
			all[name] = new(Upstream)
		}
	}
	maps.Copy(all, c.Upstreams)
	for name, u := range all {
		if u.Type == "" {
			u.Type = Registry
		}
		if u.isVirtual() {
			continue
		}
		if len(u.Endpoints) == 0 {
			u.Endpoints = []Endpoint{usualEndpoint(name)}
		}
		if u.Access == "" {
			u.Access = Shared
		}
		if u.Access == Caller && u.AccessFor == 0 {
			u.AccessFor = defaultAccessFor
		}
		if u.Fetches == 0 {
			u.Fetches = defaultFetches
		}
		if u.Reserve == 0 {
			u.Reserve = defaultReserve
		}
		u.completeClouds()
	}
	c.Upstreams = all
	c.completeDoor()
	for i := range c.Aliases {
		if c.Aliases[i].When == "" {
			c.Aliases[i].When = Always
		}
	}
	for i := range c.Tags {
		if c.Tags[i].OnDelete == "" {
			c.Tags[i].OnDelete = "follow"
		}
	}
}

func usualEndpoint(name string) Endpoint {
	if name == "docker.io" {
		name = "registry-1.docker.io" // docker.io itself serves web pages
	}
	return Endpoint{Scheme: "https", Host: name}
}

// Hubs is c as the upstreams' clients take it, by name.
func (c Config) Hubs() []upstream.Config {
	var all []upstream.Config
	for _, name := range slices.Sorted(maps.Keys(c.Upstreams)) {
		u := c.Upstreams[name]
		if u.isVirtual() {
			continue
		}
		hub := upstream.Config{
			Name: name, DockerConfig: u.DockerConfig, Guests: c.Callers(name), Realms: u.Realm, RedirectHosts: u.RedirectHosts,
			CAFile: u.CAFile, CertFile: u.CertFile, KeyFile: u.KeyFile, InsecureSkipVerify: u.InsecureSkipVerify,
			Offline: u.Offline, Fetches: u.Fetches, Limit: int64(u.Limit),
			Reserve: int(u.Reserve), Requests: upstream.Pace(u.Requests), CredentialsTogether: u.Together,
		}
		for _, e := range u.Endpoints {
			hub.Endpoints = append(hub.Endpoints, e.String())
		}
		for _, l := range u.Credentials {
			hub.Credentials = append(hub.Credentials, l.hub(name))
		}
		all = append(all, hub)
	}
	return all
}

// Aging is how a name ages, by the first rule that matches. A list is matched as a tag without text, and ages as a tag
// where its rule says nothing else.
func (c Config) Aging(ref cache.Ref) cache.Aging {
	name := ref.Registry + "/" + ref.Repo + ":" + ref.Tag
	rule := TagRule{Fresh: Freshness(defaultFresh)}
	if i := slices.IndexFunc(c.Tags, func(r TagRule) bool { return r.Match.Match(name) }); i >= 0 {
		rule = c.Tags[i]
	}
	if rule.Lists != 0 && (ref.Kind == cache.KindTags || ref.Kind == cache.KindReferrers) {
		rule.Fresh = Freshness(rule.Lists)
	}
	return cache.Aging{
		Fresh: time.Duration(rule.Fresh), Grace: time.Duration(rule.Grace), Stale: rule.StaleIfError.time(),
		Keep: rule.OnDelete == "keep",
	}
}

// Private reports whether a registry is asked with a login; for "", whether any is.
func (c Config) Private(registry string) bool {
	for name, u := range c.Upstreams {
		if (registry == "" || registry == name) && u.hasLogin() {
			return true
		}
	}
	return false
}

// hasLogin reports whether what is had of u may be a secret.
func (u *Upstream) hasLogin() bool { return u.hasOwnLogin() || u.Access == Caller }

func (u *Upstream) hasOwnLogin() bool { return len(u.Credentials) > 0 || u.DockerConfig != "" }
