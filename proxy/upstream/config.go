package upstream

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"
)

// Config is one upstream registry. Only Name must be set.
type Config struct {
	Name string // as image names spell it: "docker.io", "registry.corp:5000"

	// Endpoints are the base URLs at which the registry is asked, in this order: the mirrors first, the registry
	// itself last. None: https://Name (for docker.io: https://registry-1.docker.io). A path before "/v2" is kept
	// ("https://nexus.corp/repository/docker"); one after it is put before the name of each repository
	// ("https://harbor.corp/v2/hub" asks for hub/library/alpine).
	Endpoints []string

	Credentials  []Credential // the first that is not refused is used
	DockerConfig string       // a docker config.json to look each endpoint's login up in, credential helpers included; or the directory of one, as Kubernetes mounts a pull secret

	// Guests says that the registry is asked with the logins of those who ask (cache.WithLogin), or with none, and for how
	// long a token is used that was made from one of these; 0: with the logins above.
	Guests time.Duration

	// Realms are the token servers that the credentials may go to, besides those that are known to belong to the
	// registry: "auth.corp", "auth.corp:8443", or "http://auth.corp:8080" where it has no TLS.
	Realms []string

	// RedirectHosts are the hosts that answers may redirect to although their address is private, although the way
	// there is plain http, or although only a proxy resolves them: "minio.corp", "minio.corp:9000", "*.cdn.corp",
	// "10.1.0.0/16".
	RedirectHosts []string

	CAFile             string // certificates to trust besides the system's (PEM)
	CertFile, KeyFile  string // our own certificate for the endpoints (PEM); read anew for each handshake
	InsecureSkipVerify bool   // do not verify the endpoints' certificates; those of realms and redirects are

	Offline bool // nobody is asked, until SetOffline says otherwise

	Fetches int   // blob downloads at a time; 0: 64
	Limit   int64 // bytes of bodies per second, of all downloads together; 0: as fast as they come

	// Reserve is the percentage of a pull limit that is kept for what is not held; 0: 10, negative: none.
	Reserve int
	// Requests bounds what each endpoint is sent, with requests of any kind to its token server; zero: what was learned
	// from its refusals does, if anything.
	Requests Pace
	// CredentialsTogether says that all Credentials may be used for one pull after the other: where one has none left,
	// the next is. Where it is false, a login without pulls left is not replaced.
	CredentialsTogether bool
}

// Credential is a login at an upstream's endpoints.
type Credential struct {
	Username     string
	Password     Secret
	PasswordFile string // read anew whenever it is needed; the last line break is not part of the password
	Endpoint     string // "host" or "host:port" of the only endpoint it is for; empty: every endpoint of the upstream
	Make         Maker  `json:"-"` // makes the login, in place of a username and a password; it is made anew before it ends
}

// Options are what all upstreams have in common. The zero value works.
type Options struct {
	Offline     bool     // nobody is asked at all, until SetOffline says otherwise
	AnyUpstream bool     // registries without a Config are asked too, at https://NAME, never at private addresses
	ID          string   // this instance in Via headers, the same as at the door, to find loops; empty: "tidepool"
	Version     string   // for the User-Agent; empty: "dev"
	Timeouts    Timeouts // zero fields take their defaults

	// Uplink is how many bytes of bodies may come per second at a time, from all upstreams together; 0: as fast as they
	// come. nil: always.
	Uplink func(now time.Time) int64

	// Proxy says through which proxy a request goes. nil: as HTTPS_PROXY, HTTP_PROXY and NO_PROXY have it.
	Proxy func(*http.Request) (*url.URL, error)

	// Dial replaces the network, for tests. It is given names as they are, unless Resolver is set too: then it is given
	// addresses that the guard has let pass.
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	Resolver *net.Resolver // nil: the system's

	// Ledger is what Hubs.Ledger of the last process said of limits. What cannot be read is ignored, with a warning.
	Ledger []byte

	Log *zap.Logger // nil: silence
}

// Timeouts tell a dead upstream from a slow one. There is none for the whole of a blob.
type Timeouts struct {
	Connect  time.Duration // for one TCP connection; 0: 5 s
	TLS      time.Duration // for one handshake; 0: 10 s
	Headers  time.Duration // from a request to the head of its answer; 0: 15 s
	Stall    time.Duration // without a byte of a body; 0: 15 s
	Document time.Duration // for the whole of a manifest, a page of a list or a token; 0: 1 minute
}

// ConfigError is one fault of a Config.
type ConfigError struct {
	Registry string // the Config's name
	Key      string // the field, as the configuration file spells it, with [0] for the first of several; empty: the whole
	Err      error
}

func (e *ConfigError) Error() string {
	at := "upstreams." + e.Registry
	if e.Key != "" {
		at += "." + e.Key
	}
	return at + ": " + e.Err.Error()
}

func (e *ConfigError) Unwrap() error { return e.Err }
