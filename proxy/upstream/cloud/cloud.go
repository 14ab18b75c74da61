// Package cloud makes logins for the registries of clouds, out of what the cloud knows of this machine or the operator
// has given it: Amazon's, Google's and Azure's.
//
// Its invariant: nothing of a cloud is read or asked before a login is wanted, each time anew, so that keys and tokens
// that change in their files are taken as they are; and no error repeats a secret.
package cloud

import (
	"net/http"
	"regexp"
	"time"
)

// Hosts are the clouds' own registries: what a cloud makes opens more than one registry, and belongs nowhere else unless
// an operator says so.
var (
	AWSHosts = regexp.MustCompile(`^(public\.ecr\.aws|[a-z0-9.-]+\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.` +
		`((vpce\.)?amazonaws\.com(\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn))$`)
	GoogleHosts = regexp.MustCompile(`^(([a-z0-9-]+\.)?gcr\.io|[a-z0-9-]+\.pkg\.dev)$`)
	AzureHosts  = regexp.MustCompile(`^[a-z0-9-]+\.azurecr\.(io|cn|us)$`)
)

// client is for the few requests that a login takes, hours apart: no connection outlives them.
func client() *http.Client {
	c := direct()
	c.Transport.(*http.Transport).Proxy = http.ProxyFromEnvironment
	return c
}

// direct is client for what answers on this machine only: a proxy would be told who it is, and not we.
func direct() *http.Client {
	return &http.Client{
		Timeout:   10 * time.Second, // of each; who asks bounds them all
		Transport: &http.Transport{DisableKeepAlives: true, TLSHandshakeTimeout: 5 * time.Second},
	}
}
