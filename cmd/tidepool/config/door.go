package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/tidepool-oci/tidepool/proxy/access"
)

// Door says how clients come in, and what they are known by.
type Door struct {
	TLSCert      string             `yaml:"tls_cert" doc:"PEM file of the certificate that clients are shown, with those between it and its authority; without it, clients come in by plain http. Read anew when it changes"`
	TLSKey       string             `yaml:"tls_key" doc:"PEM file of its key"`
	ClientCA     string             `yaml:"client_ca" doc:"PEM file of the authorities of clients' certificates: clients are asked for one, and may have none. Read anew when it changes"`
	ForwardProxy bool               `yaml:"forward_proxy" doc:"be the HTTPS_PROXY of clients too, for the hosts of upstreams alone, so that their logins arrive; they must trust forward-ca.crt in the data directory, which is made if it is not there"`
	Issuers      map[string]*Issuer `yaml:"issuers" doc:"clusters of Kubernetes whose service accounts' tokens are believed, by names of your own"`
}

// Issuer is who makes tokens that are believed.
type Issuer struct {
	Issuer    string   `yaml:"issuer" doc:"as its tokens name it (iss): https://kubernetes.default.svc.cluster.local"`
	Audience  string   `yaml:"audience" doc:"that its tokens must be for (aud); tidepool where nothing is said"`
	KeysFile  string   `yaml:"keys_file" doc:"file of its keys: a JWKS, or PEM as Kubernetes' sa.pub; read anew when it changes"`
	KeysURL   Endpoint `yaml:"keys_url" doc:"or where it publishes its keys (JWKS), https; asked for when one is needed that is not known"`
	CAFile    string   `yaml:"ca_file" doc:"PEM file of authorities to trust for keys_url besides the system's"`
	TokenFile string   `yaml:"token_file" doc:"file of a token to ask keys_url with; read anew each time"`
}

// StandIn is a login that stands in for one who shows a certificate or a token.
type StandIn struct {
	Certificate    access.Subject `yaml:"certificate" doc:"a name in the client's certificate (DNS, else its common name): node-*.corp; * crosses no dot, ** does"`
	ServiceAccount access.Account `yaml:"service_account" doc:"or the service account of the client's token, as NAMESPACE:NAME: prod:*"`
	Issuer         string         `yaml:"issuer" doc:"name of the service account's cluster under door.issuers; needed where there are several"`
	Username       string         `yaml:"username" doc:"account at the upstream"`
	PasswordFile   string         `yaml:"password_file" doc:"file that holds the password or token; read anew whenever it is needed, its last line end does not count"`
}

// defaultAudience is what a token is for that is for nothing else than to come in here.
const defaultAudience = "tidepool"

func (c *Config) completeDoor() {
	for _, i := range c.Door.Issuers {
		if i.Audience == "" {
			i.Audience = defaultAudience
		}
	}
	if len(c.Door.Issuers) != 1 {
		return
	}
	for only := range c.Door.Issuers {
		for _, u := range c.Upstreams {
			for i := range u.Callers {
				if one := &u.Callers[i]; one.ServiceAccount != "" && one.Issuer == "" {
					one.Issuer = only
				}
			}
		}
	}
}

func (l *layers) checkDoor() {
	d := l.Door
	switch {
	case (d.TLSCert == "") != (d.TLSKey == ""):
		said := "door.tls_cert"
		if d.TLSCert == "" {
			said = "door.tls_key"
		}
		l.wrong(said, "a certificate and its key go together: say door.tls_cert and door.tls_key (--tls-cert, --tls-key)")
	case d.ClientCA != "" && d.TLSCert == "":
		l.wrong("door.client_ca", "clients show certificates over TLS only: say door.tls_cert and door.tls_key too (--tls-cert, --tls-key)")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Issuers)) {
		l.checkIssuer("door.issuers."+name, d.Issuers[name])
	}
}

func (l *layers) checkIssuer(key string, i *Issuer) {
	byURL := i.KeysURL != Endpoint{}
	switch {
	case i.Issuer == "":
		l.wrong(key, "say its issuer, as its tokens name it (iss)")
	case (i.KeysFile == "") != byURL:
		l.wrong(key, "its keys are in a keys_file or at a keys_url: say one of them")
	case !byURL && i.CAFile+i.TokenFile != "":
		l.wrong(key, "ca_file and token_file are for asking a keys_url: say that, or leave them out")
	case byURL && i.KeysURL.exposed():
		l.wrong(key+".keys_url", "whoever is on the way could put keys of his own in: use https")
	case byURL && i.KeysURL.Scheme == "http" && i.TokenFile != "":
		l.wrong(key+".token_file", "the token would go out unencrypted: ask the keys_url by https")
	}
}

// checkCallers finds what is wrong with the logins that stand in for clients at u.
func (l *layers) checkCallers(key string, u *Upstream) {
	if len(u.Callers) > 0 && u.Access != Caller {
		l.wrong(key+".callers", "only with access: caller are clients' logins shown, and so what stands in for them: say that too, or leave this out")
	}
	for i, one := range u.Callers {
		l.checkStandIn(fmt.Sprintf("%s.callers[%d]", key, i), one)
	}
}

func (l *layers) checkStandIn(key string, one StandIn) {
	_, known := l.Door.Issuers[one.Issuer]
	switch {
	case (one.Certificate == "") == (one.ServiceAccount == ""):
		l.wrong(key, "a login stands in for a certificate or for a service_account: say one of them")
	case one.Certificate != "" && l.Door.ClientCA == "":
		l.wrong(key+".certificate", "nobody's certificate is asked for: say by which authority they are, with door.client_ca (--client-ca)")
	case one.Certificate != "" && one.Issuer != "":
		l.wrong(key+".issuer", "this is for a service_account: certificates are door.client_ca's")
	case one.ServiceAccount != "" && one.Issuer == "" && len(l.Door.Issuers) == 0:
		l.wrong(key+".service_account", "nobody's tokens are believed: say of which cluster they are, under door.issuers")
	case one.ServiceAccount != "" && one.Issuer == "":
		l.wrong(key, "there are several under door.issuers, and another cluster's account may have the same name: say whose this is (issuer)")
	case one.ServiceAccount != "" && !known:
		l.wrong(key+".issuer", "%q is not under door.issuers", one.Issuer)
	}
	switch {
	case one.Username == "" || one.PasswordFile == "":
		l.wrong(key, "a login has a username and a password_file")
	case strings.Contains(one.Username, ":"):
		l.wrong(key+".username", "no username has a colon: registries would take what is behind it for the password (RFC 7617)")
	}
}

// Files are what TLS at the door is made of; ok: there shall be TLS.
func (c Config) Files() (f access.Files, ok bool) {
	return access.Files{Cert: c.Door.TLSCert, Key: c.Door.TLSKey, ClientCA: c.Door.ClientCA}, c.Door.TLSCert != ""
}

// Access says who is known by what, for callers.
func (c Config) Access() access.Options {
	o := access.Options{Issuers: map[string]access.Issuer{}, Rules: map[string][]access.Rule{}}
	for name, i := range c.Door.Issuers {
		o.Issuers[name] = access.Issuer{Issuer: i.Issuer, Audience: i.Audience, KeysFile: i.KeysFile,
			CAFile: i.CAFile, TokenFile: i.TokenFile}
		if u := (*url.URL)(&i.KeysURL); u.Host != "" {
			one := o.Issuers[name]
			one.KeysURL = u.String()
			o.Issuers[name] = one
		}
	}
	for name, u := range c.Upstreams {
		for _, one := range u.Callers {
			o.Rules[name] = append(o.Rules[name], access.Rule{Certificate: one.Certificate, Account: one.ServiceAccount,
				Issuer: one.Issuer, Username: one.Username, PasswordFile: one.PasswordFile})
		}
	}
	return o
}
