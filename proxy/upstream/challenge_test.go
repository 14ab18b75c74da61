package upstream

import (
	"strings"
	"testing"
)

func TestParseChallenge(t *testing.T) {
	hub := challenge{bearer, "https://auth.docker.io/token", "registry.docker.io"}
	for text, want := range map[string]challenge{
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"`: hub,
		`bearer REALM="https://auth.docker.io/token" , SERVICE = "registry.docker.io"`:                                    hub,
		`Bearer realm=https://auth.docker.io/token,service=registry.docker.io`:                                            hub,
		`Bearer service="registry.docker.io",error="invalid_token",realm="https://auth.docker.io/token"`:                  hub,
		`Basic realm="x", Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`:                       hub,
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io", Basic realm="x"`:                       hub,
		`Negotiate, Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`:                             hub,
		`Negotiate abc==, Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`:                       hub,
		`Digest realm="evil", nonce="a,b", Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`:      hub,
		`Bearer realm="https://x/\"q\"\\", service="a, Basic realm=b"`:                                                    {bearer, `https://x/"q"\`, "a, Basic realm=b"},
		`Basic realm="a registry"`: {scheme: basic},
		`Basic`:                    {scheme: basic},
		`BASIC realm=x`:            {scheme: basic},
		`Bearer`:                   {scheme: bearer},
		`Bearer realm="never ends`: {scheme: bearer},
		`Digest realm="x"`:         {},
		`realm="x"`:                {},
		``:                         {},
		`,,, ,`:                    {},
		`"Bearer" realm=x`:         {},
		strings.Repeat(`Basic realm="x", `, 10000): {},
	} {
		if got := parseChallenge([]string{text}); got != want {
			t.Errorf("%.80s: %+v, want %+v", text, got, want)
		}
	}
	if got := parseChallenge([]string{`Basic realm="x"`, `Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`}); got != hub {
		t.Errorf("of two headers: %+v", got)
	}
}

// FuzzChallenge looks for a header that the parser does not come to the end of, or out of which it makes text that was
// not in it.
func FuzzChallenge(f *testing.F) {
	for _, s := range []string{
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"`,
		`Basic realm="x", Bearer realm="y"`, `Negotiate abc==, Basic`, `Bearer realm="\"`, `=`, `a=b`, `Bearer realm==,`, `Bearer a=b c=d`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := parseChallenge([]string{s})
		plain := strings.ReplaceAll(s, `\`, "")
		for _, part := range []string{c.realm, c.service} {
			if !strings.Contains(plain, strings.ReplaceAll(part, `\`, "")) {
				t.Errorf("%q came from nowhere", part)
			}
		}
		if c.scheme != bearer && (c.realm != "" || c.service != "") {
			t.Errorf("%+v", c)
		}
	})
}
