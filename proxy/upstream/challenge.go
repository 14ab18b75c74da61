package upstream

import "strings"

// challenge is what a 401 asks for, as far as we can give it (RFC 9110 section 11.6.1, RFC 6750 section 3). The zero
// challenge asks for nothing. It is comparable.
type challenge struct {
	scheme         scheme
	realm, service string
}

type scheme uint8

const (
	open scheme = iota
	basic
	bearer
)

// maxChallenge bounds a WWW-Authenticate header that is looked at, in bytes: a realm is a URL of usual length.
const maxChallenge = 8 << 10

// parseChallenge picks from the WWW-Authenticate headers of one answer what we can do: Bearer before Basic. What is
// malformed is passed over. Parameters of tokens that are not quoted may hold any character but a comma, as some
// registries write their realm so.
func parseChallenge(headers []string) challenge {
	var best challenge
	for _, h := range headers {
		if len(h) > maxChallenge {
			continue
		}
		for _, c := range splitChallenges(h) {
			if c.scheme > best.scheme {
				best = c
			}
		}
	}
	return best
}

func splitChallenges(h string) []challenge {
	var all []challenge
	var current *challenge // nil within a scheme that we do not speak
	for {
		h = strings.TrimLeft(h, " \t,")
		if h == "" {
			return all
		}
		word, rest := cutToken(h)
		if word == "" {
			return all
		}
		if after, ok := strings.CutPrefix(strings.TrimLeft(rest, " \t"), "="); ok {
			var value string
			value, h = cutValue(strings.TrimLeft(after, " \t"))
			current.set(word, value)
			continue
		}
		all, current = begin(all, word)
		h = skipToken68(rest)
	}
}

func begin(all []challenge, name string) ([]challenge, *challenge) {
	s := open
	switch strings.ToLower(name) {
	case "basic":
		s = basic
	case "bearer":
		s = bearer
	default:
		return all, nil
	}
	all = append(all, challenge{scheme: s})
	return all, &all[len(all)-1]
}

func (c *challenge) set(name, value string) {
	if c == nil || c.scheme != bearer { // a Basic realm is a text for people
		return
	}
	switch strings.ToLower(name) {
	case "realm":
		c.realm = value
	case "service":
		c.service = value
	}
}

// skipToken68 passes over the credentials-like form of a challenge ("Negotiate abc=="), which has no parameters.
func skipToken68(h string) string {
	t := strings.TrimLeft(h, " \t")
	i := 0
	for i < len(t) && (isToken(t[i]) || t[i] == '/') {
		i++
	}
	j := i
	for j < len(t) && t[j] == '=' {
		j++
	}
	end := strings.TrimLeft(t[j:], " \t")
	if i > 0 && len(h) > len(t) && (end == "" || end[0] == ',') {
		return end
	}
	return h
}

func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && isToken(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

// cutValue reads a quoted string, or what stands there up to a comma or a space.
func cutValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, ", \t")
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "" // it never ended: nothing in it can be relied on
}

// isToken reports whether c may be part of a token (RFC 9110 section 5.6.2).
func isToken(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
