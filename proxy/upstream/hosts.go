package upstream

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// origin is scheme, host and port of a URL, with the port written out: two URLs with equal origins lead to the same
// server, and only they do. It is comparable. Host is in lower case and otherwise as written: a trailing dot, another
// spelling of an address or an internationalised name make another origin.
type origin struct{ scheme, host, port string }

func originOf(u *url.URL) origin {
	o := origin{strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()}
	if o.port == "" {
		o.port = map[string]string{"http": "80", "https": "443"}[o.scheme]
	}
	return o
}

// hostport is what a dialer calls the origin's server.
func (o origin) hostport() string { return net.JoinHostPort(o.host, o.port) }

// key is the origin as the configuration names it: TLS needs no word.
func (o origin) key() string {
	if o.scheme == "https" {
		return o.String()
	}
	return o.scheme + "://" + o.String()
}

// String is the origin's host as people write it.
func (o origin) String() string {
	if (o.scheme == "https" && o.port == "443") || (o.scheme == "http" && o.port == "80") {
		if strings.Contains(o.host, ":") {
			return "[" + o.host + "]"
		}
		return o.host
	}
	return o.hostport()
}

// webURL parses an absolute http or https URL that names a host and nothing that would be sent on unseen.
func webURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("not a URL") // url.Parse's own words repeat the text, secrets included
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("want a URL that begins with https:// or http://")
	case u.Hostname() == "":
		return nil, errors.New("the URL names no host")
	case u.User != nil:
		return nil, errors.New("a URL must not hold a login")
	}
	return u, nil
}

// hosts is a set of servers.
type hosts struct {
	names []string // "host", "host:port", "*.domain" or "*.domain:port", in lower case
	nets  []netip.Prefix
}

var errHost = errors.New(`want "host", "host:port", "*.domain" or a network such as "10.1.0.0/16"`)

// add puts what an operator wrote into the set.
func (h *hosts) add(s string) error {
	if p, err := netip.ParsePrefix(s); err == nil {
		h.nets = append(h.nets, p.Masked())
		return nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		h.names = append(h.names, a.String())
		return nil
	}
	u, err := url.Parse("//" + strings.TrimPrefix(s, "*."))
	if err != nil || u.Hostname() == "" || "//"+u.Host != u.String() || strings.ContainsAny(u.Hostname(), `*?[]\`) {
		return errHost
	}
	h.names = append(h.names, strings.ToLower(s))
	return nil
}

func (h *hosts) addServer(o origin) { h.names = append(h.names, o.hostport()) }

// has reports whether the server at host and port is in the set, by a name or, where host is an address, by a network.
func (h *hosts) has(host, port string) bool {
	host = strings.ToLower(host)
	for _, n := range h.names {
		for _, have := range []string{host, net.JoinHostPort(host, port)} {
			domain, wild := strings.CutPrefix(n, "*")
			if n == have || wild && strings.HasSuffix(have, domain) {
				return true
			}
		}
	}
	a, err := netip.ParseAddr(host)
	return err == nil && h.hasAddr(a)
}

// hasAddr reports whether a lies in one of the set's networks.
func (h *hosts) hasAddr(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range h.nets {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
