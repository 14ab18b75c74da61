package access

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Advice says what would stand in for a login at a registry, for one who came without and was refused; "": nothing would.
// client is the name of the program that asks, as far as it is known.
func (c *Callers) Advice(r *http.Request, registry, client string) string {
	who, ok, err := c.who(r)
	rules := c.rules[registry]
	if !ok || err != nil || len(rules) == 0 {
		return ""
	}
	var ways []string
	switch {
	case !slices.ContainsFunc(rules, func(r rule) bool { return r.certificate != nil }):
	case len(who.names) > 0:
		ways = append(ways, fmt.Sprintf("the certificate that came is for %s, which none of upstreams.%s.callers matches",
			cut(strings.Join(who.names, ", ")), registry))
	default:
		ways = append(ways, "a client certificate stands in for a login, and none came: "+present(client, r.Host))
	}
	switch {
	case !slices.ContainsFunc(rules, func(r rule) bool { return r.account != nil }):
	case who.account != "":
		ways = append(ways, fmt.Sprintf("the token that came is service account %s's, which none of upstreams.%s.callers matches",
			who.account, registry))
	default:
		ways = append(ways, "a service account's token for the audience "+c.audiences(rules)+
			" stands in for a login (Authorization: Bearer, or as its password), and none came")
	}
	return strings.Join(ways, "; ")
}

// present is how a client shows a certificate.
func present(client, host string) string {
	switch client {
	case "containerd", "buildkit":
		return `client = [["client.cert", "client.key"]] under the host in hosts.toml`
	case "docker":
		return "client.cert and client.key in /etc/docker/certs.d/" + cut(host)
	case "containers":
		return "client.cert and client.key in /etc/containers/certs.d/" + cut(host)
	}
	return "give the client one"
}

// audiences are those for which a token for one of the rules may be.
func (c *Callers) audiences(rules []rule) string {
	var all []string
	for _, i := range c.issuers {
		mine := func(r rule) bool { return r.account != nil && r.Issuer == i.name }
		if slices.ContainsFunc(rules, mine) && !slices.Contains(all, i.Audience) {
			all = append(all, i.Audience)
		}
	}
	return strings.Join(all, " or ")
}

// cut keeps what a client chose from filling a sentence.
func cut(s string) string { return s[:min(len(s), 200)] }
