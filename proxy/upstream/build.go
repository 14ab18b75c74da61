package upstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// faults gathers what is wrong with a Config.
type faults struct {
	registry string
	all      []error
}

func (f *faults) add(key string, err error) {
	if err != nil {
		f.all = append(f.all, &ConfigError{f.registry, key, err})
	}
}

// newHub makes the client of one registry. What an operator wrote may lead to private addresses; what a client asked
// for may not.
func newHub(c Config, s *shared, written bool) (*hub, error) {
	f := &faults{registry: c.Name}
	h := &hub{
		name: c.Name, agent: "tidepool/" + s.Version, shared: s,
		guard: newGuard(c.Name, s.Options, &s.conns),
		keys:  &keys{registry: c.Name, credentials: c.Credentials, log: s.Log},
		slots: make(chan struct{}, fetches(c, f)),
		lines: lines{{rate: func(time.Time) int64 { return c.Limit }}, &s.uplink},
	}
	h.own.Store(c.Offline)
	h.offline = offline{c.Name, &s.offline, &h.own}
	h.guard.offline = h.offline
	if c.Name == "" {
		f.add("", errors.New("an upstream needs a name"))
	}
	h.addLimits(c, f)
	h.addEndpoints(c, written, f)
	h.addRealms(c, f)
	for _, host := range c.RedirectHosts {
		f.add("redirect_hosts", wrong(host, h.guard.written.add(host)))
	}
	h.addKeys(c, f)
	if c.Guests > 0 {
		h.guests = &guests{last: c.Guests}
	}
	h.roads = newRoads(c, s.Options, h.guard, f)
	return h, errors.Join(f.all...)
}

// wrong adds the value to what is wrong with it, unless it may hold a password.
func wrong(value string, err error) error {
	if err == nil || strings.Contains(value, "@") {
		return err
	}
	return fmt.Errorf("%q: %w", value, err)
}

func fetches(c Config, f *faults) int {
	switch {
	case c.Fetches < 0:
		f.add("fetches", errors.New("want a number of downloads, 1 or more"))
		return 0
	case c.Fetches == 0:
		return 64 // enough to fill any line, few enough for any registry
	}
	return c.Fetches
}

// defaultReserve is a percentage: as much of a pull limit as a busy afternoon needs for what nobody has pulled before.
const defaultReserve = 10

func (h *hub) addLimits(c Config, f *faults) {
	h.keys.together = c.CredentialsTogether
	switch h.reserve = max(0, c.Reserve); {
	case c.Reserve == 0:
		h.reserve = defaultReserve
	case c.Reserve > 100:
		f.add("reserve", errors.New("want a share of the pull limit, 0% to 100%"))
	}
	if p := c.Requests; p != (Pace{}) && (p.Requests < 1 || p.Requests > maxPace || p.Window <= 0) {
		f.add("requests", fmt.Errorf("want 1 to %d requests in a time, as 100/m", maxPace))
	}
}

// maxPace bounds what is remembered of requests sent: more of them are no limit to anybody.
const maxPace = 100_000

func (h *hub) addEndpoints(c Config, written bool, f *faults) {
	urls := c.Endpoints
	if len(urls) == 0 && c.Name != "" {
		urls = []string{"https://" + c.Name}
		if c.Name == "docker.io" {
			urls = []string{"https://" + dockerHub}
		}
	}
	for i, s := range urls {
		e, err := newEndpoint(s)
		if err != nil {
			f.add(fmt.Sprintf("endpoints[%d]", i), err) // without the URL, which may hold a password
			continue
		}
		e.pacer.set, e.pacer.whole = c.Requests, c.Requests
		h.endpoints = append(h.endpoints, e)
		if written {
			h.guard.written.addServer(e.origin)
		}
		h.guard.known.names = append(h.guard.known.names, slices.Concat(e.site().realms, e.site().stores)...)
	}
}

func (h *hub) addRealms(c Config, f *faults) {
	for _, r := range c.Realms {
		text := r
		if !strings.Contains(r, "://") {
			text = "https://" + r
		}
		u, err := webURL(text)
		if err == nil && (strings.ContainsAny(u.Host, "*?") || text != r && u.Path != "") {
			err = errors.New("a realm is one host")
		}
		if err != nil {
			f.add("realm", wrong(r, err))
			continue
		}
		h.realms = append(h.realms, originOf(u))
		h.guard.written.addServer(originOf(u))
	}
}

func (h *hub) addKeys(c Config, f *faults) {
	h.keys.make, h.keys.makers = h.makeLogin, &h.shared.makers
	for i, k := range c.Credentials {
		err := k.check()
		if err == nil && !slices.ContainsFunc(h.endpoints, func(e *endpoint) bool { return k.fits(e.origin) }) {
			err = fmt.Errorf("no endpoint is %q", k.Endpoint)
		}
		f.add(fmt.Sprintf("credentials[%d]", i), err)
	}
	if c.DockerConfig != "" {
		h.keys.docker = &dockerConfig{path: c.DockerConfig, helpers: &h.shared.helpers}
		_, err := h.keys.docker.load()
		f.add("docker_config", err)
	}
}
