package config

import (
	"fmt"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strings"

	"github.com/tidepool-oci/tidepool/proxy/upstream"
	"github.com/tidepool-oci/tidepool/proxy/upstream/cloud"
)

// AWS is a login at Amazon ECR that the AWS SDK's default chain stands for.
type AWS struct {
	Region  string `yaml:"region" doc:"of the registry; without it, as the endpoint's host or the upstream's name has it, else the AWS configuration"`
	Profile string `yaml:"profile" doc:"of the shared AWS configuration files, with the role that it assumes"`
}

// Google is a login at Artifact Registry or gcr.io that Google's application default credentials stand for.
type Google struct{}

// Azure is a login at an Azure container registry that an identity known to Microsoft Entra stands for.
type Azure struct {
	Identity        Identity `yaml:"identity" doc:"as who: default (the SDK's chain), managed, workload, secret or certificate"`
	Tenant          string   `yaml:"tenant" doc:"ID of the tenant"`
	Client          string   `yaml:"client" doc:"ID of the application, or of the managed identity that is meant"`
	SecretFile      string   `yaml:"secret_file" doc:"file that holds the application's secret; its last line end does not count"`
	CertificateFile string   `yaml:"certificate_file" doc:"file that holds the application's certificate and key: PEM, or PKCS #12 without a password"`
	Authority       string   `yaml:"authority" doc:"https:// address of another Entra than the public cloud's"`
}

// Identity is as who Azure is asked.
type Identity string

// Words lists what may be said, the usual first.
func (Identity) Words() []string {
	return []string{cloud.AzureDefault, cloud.AzureManaged, cloud.AzureWorkload, cloud.AzureSecret, cloud.AzureCertificate}
}

// UnmarshalText takes one of Words.
func (i *Identity) UnmarshalText(b []byte) error { return choose(i, b) }

// hub is the credential as an upstream's client takes it.
func (c Credential) hub(registry string) upstream.Credential {
	out := upstream.Credential{Username: c.Username, Password: c.Password, PasswordFile: c.PasswordFile, Endpoint: c.Endpoint}
	switch {
	case c.AWS != nil:
		out.Make = cloud.AWS{Registry: registry, Region: c.AWS.Region, Profile: c.AWS.Profile}.Make
	case c.Google != nil:
		out.Make = cloud.Google
	case c.Azure != nil:
		a := *c.Azure
		out.Make = cloud.Azure{Identity: string(a.Identity), Tenant: a.Tenant, Client: a.Client,
			SecretFile: a.SecretFile, CertificateFile: a.CertificateFile, Authority: a.Authority}.Make
	}
	return out
}

// ofCloud reports whether a cloud makes the login.
func (c Credential) ofCloud() bool { return c.AWS != nil || c.Google != nil || c.Azure != nil }

// completeClouds says what holds where a credential does not say it.
func (u *Upstream) completeClouds() {
	for _, c := range u.Credentials {
		if c.Azure != nil && c.Azure.Identity == "" {
			c.Azure.Identity = cloud.AzureDefault
		}
	}
}

// checkClouds finds what is wrong with the logins that clouds make.
func (l *layers) checkClouds(key string, u *Upstream) {
	for i, c := range u.Credentials {
		at := fmt.Sprintf("%s.credentials[%d]", key, i)
		clouds := 0
		for _, v := range []any{c.AWS, c.Google, c.Azure} {
			if !reflect.ValueOf(v).IsNil() {
				clouds++
			}
		}
		if clouds > 1 {
			l.wrong(at, "a login is made by one cloud: aws, google or azure")
		}
		if c.Azure != nil {
			l.checkAzure(at+".azure", *c.Azure)
		}
		l.checkHosts(at, c, u.Endpoints)
	}
}

// checkHosts keeps what a cloud makes from other people's endpoints, unless the credential names the one that it is for.
func (l *layers) checkHosts(key string, c Credential, endpoints []Endpoint) {
	for _, one := range []struct {
		said  bool
		name  string
		hosts *regexp.Regexp
	}{{c.AWS != nil, "Amazon", cloud.AWSHosts}, {c.Google != nil, "Google", cloud.GoogleHosts}, {c.Azure != nil, "Azure", cloud.AzureHosts}} {
		for _, e := range endpoints {
			if host := (*url.URL)(&e).Hostname(); one.said && c.Endpoint == "" && !one.hosts.MatchString(strings.ToLower(host)) {
				l.wrong(key, "%s is no host of %s's, and the login would go there too: name the endpoint that it is for", host, one.name)
				return
			}
		}
	}
}

func (l *layers) checkAzure(key string, a Azure) {
	application := a.Identity == cloud.AzureSecret || a.Identity == cloud.AzureCertificate
	var authority Endpoint
	switch {
	case application && (a.Tenant == "" || a.Client == ""):
		l.wrong(key, "an application has a tenant and a client")
	case (a.Identity == cloud.AzureSecret) != (a.SecretFile != ""):
		l.wrong(key, "secret_file and identity: secret go together")
	case (a.Identity == cloud.AzureCertificate) != (a.CertificateFile != ""):
		l.wrong(key, "certificate_file and identity: certificate go together")
	case a.Identity == cloud.AzureManaged && a.Tenant+a.Authority != "":
		l.wrong(key, "a managed identity is asked for on this machine: it takes no tenant and no authority")
	case a.Identity == cloud.AzureDefault && a.Client != "":
		l.wrong(key, "a client belongs to an identity: managed, workload, secret or certificate")
	case a.Authority != "" && (authority.UnmarshalText([]byte(a.Authority)) != nil || authority.Scheme != "https"):
		l.wrong(key+".authority", "want an address that begins with https://")
	}
	for name, file := range map[string]string{"secret_file": a.SecretFile, "certificate_file": a.CertificateFile} {
		if _, err := os.Stat(file); file != "" && err != nil {
			l.wrong(key+"."+name, "%v", err)
		}
	}
}
