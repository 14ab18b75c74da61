package config

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Forward are the hosts to which clients are led that take us for their proxy, without the port that their scheme means,
// and the upstream that each stands for; nil: we are nobody's proxy. What may be meant is said by names first, and then by
// the hosts of endpoints, of which those are left out that do not stand for one upstream as it is.
func (c Config) Forward() map[string]string {
	if !c.Door.ForwardProxy {
		return nil
	}
	all := maps.Clone(c.Hosts)
	if all == nil {
		all = map[string]string{}
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(c.Upstreams)), c.Aliased()) {
		all[strings.TrimSuffix(name, ":443")] = name
	}
	for other, name := range otherNames {
		if all[name] != "" {
			all[other] = name
		}
	}
	byEndpoint := map[string][]string{}
	for name, u := range c.Upstreams {
		for _, e := range u.Endpoints {
			host := e.asAsked()
			byEndpoint[host] = append(byEndpoint[host], name)
		}
	}
	for host, names := range byEndpoint {
		slices.Sort(names)
		if names = slices.Compact(names); host != "" && all[host] == "" && len(names) == 1 {
			all[host] = names[0]
		}
	}
	return all
}

// asAsked is the host of an endpoint as clients of the registry itself ask it; "": its names are not those of clients.
func (e Endpoint) asAsked() string {
	u := url.URL(e)
	if strings.Trim(u.Path, "/") != "" {
		return ""
	}
	return strings.TrimSuffix(strings.ToLower(u.Host), map[string]string{"https": ":443", "http": ":80"}[u.Scheme])
}
