package upstream_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

func TestSecretNeverShowsItself(t *testing.T) {
	c := upstream.Credential{Username: "acme", Password: canary}
	js, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		fmt.Sprint(c), fmt.Sprintf("%v %+v %#v", c, c, c), fmt.Sprintf("%s %q %x %d", c.Password, c.Password, c.Password, c.Password),
		c.Password.String(), string(js), fmt.Sprint(upstream.Config{Credentials: []upstream.Credential{c}}), fmt.Sprintf("%v", &c),
	} {
		if strings.Contains(s, canary) || strings.Contains(s, fmt.Sprintf("%x", canary)) || !strings.Contains(s, "***") {
			t.Error(s)
		}
	}
}

// A hub that repeats what it was shown, in whatever it may say, brings no secret into an error, a log or a status.
func TestCVE_2025_48374_SecretsStayOutOfErrorsAndLogs(t *testing.T) {
	echo := func(r *http.Request) string {
		auth := r.Header.Get("Authorization")
		_, text, _ := strings.Cut(auth, " ")
		plain, _ := base64.StdEncoding.DecodeString(text)
		return auth + " " + string(plain) + " " + r.URL.RawQuery
	}
	refuse := func(w http.ResponseWriter, r *http.Request, status int) {
		b, _ := json.Marshal(map[string]any{"errors": []any{map[string]any{"code": echo(r), "message": "you said " + echo(r)}}})
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		w.Write(b)
	}
	for name, hub := range map[string]http.HandlerFunc{
		"401": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			refuse(w, r, 401)
		},
		"403 text": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return
			}
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(403)
			fmt.Fprint(w, echo(r))
		},
		"500": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return
			}
			refuse(w, r, 500)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return
			}
			http.Redirect(w, r, "http://"+canary+".evil.test/?signature="+canary, http.StatusTemporaryRedirect)
		},
		"header": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return
			}
			w.Header().Set("Content-Encoding", canary)
			fmt.Fprint(w, "x")
		},
		"limit": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			if r.Header.Get("Authorization") == "" {
				w.WriteHeader(401)
				return
			}
			w.Header().Set("Docker-Ratelimit-Source", canary)
			refuse(w, r, 429)
		},
		"token": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				refuse(w, r, 401)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
			w.WriteHeader(401)
		},
		"token accepted": func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/token":
				fmt.Fprintf(w, `{"token":%q}`, "tok-"+canary)
			case r.Header.Get("Authorization") == "":
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
				w.WriteHeader(401)
			default:
				refuse(w, r, 403)
			}
		},
		"token that is none": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				fmt.Fprintf(w, `{"token":"%s`, canary)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
			w.WriteHeader(401)
		},
		"nonsense": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return
			}
			c, _, _ := w.(http.Hijacker).Hijack()
			fmt.Fprintf(c, "%s\r\n\r\n", echo(r))
			c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			w := &world{rest: strings.TrimPrefix(raw(t, hub), "http://"), lost: ".evil.test"}
			h := hubs(t, upstream.Options{Log: zap.New(core), Dial: w.Dial}, acme(upstream.Config{Endpoints: []string{"http://hub.test"}}))
			var all strings.Builder
			for _, err := range everyPath(soon(t), h, cache.Sum(nil)) {
				if err == nil {
					t.Error("no error")
				}
				fmt.Fprintln(&all, err)
			}
			fmt.Fprintf(&all, "%+v\n", h.Stats())
			for _, l := range logs.All() {
				fmt.Fprintln(&all, l.Message, l.ContextMap())
			}
			for _, secret := range []string{canary, base64.StdEncoding.EncodeToString([]byte("acme:" + canary))} {
				if strings.Contains(all.String(), secret) {
					t.Errorf("%s", all.String())
				}
			}
		})
	}
}

// What a stranger writes is one harmless line wherever it turns up.
func TestCVE_2026_42507_ForeignTextIsOneLine(t *testing.T) {
	const nasty = "a\r\nlevel=error msg=forged\x1b[2J\x1b]0;pwned\x07\u202e\u0000 \xff\xfe end"
	b, err := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": "X\nY", "message": nasty + strings.Repeat("long ", 1000)}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]http.HandlerFunc{
		"JSON": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(500)
			w.Write(b)
		},
		"text": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(500)
			fmt.Fprint(w, nasty)
		},
		"limit": func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Docker-Ratelimit-Source"] = []string{"a\tb\u202e"}
			w.WriteHeader(429)
			w.Write(b)
		},
		"challenge": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", "Bearer realm=\"https://evil.test\t\u202e\"")
			w.WriteHeader(401)
		},
		"location": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://evil.test\u202e/%0a%1b")
			w.WriteHeader(307)
		},
		"encoding": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip\t\u202e")
		},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			w := &world{rest: strings.TrimPrefix(raw(t, answer), "http://"), lost: "evil.test"}
			h := hubs(t, upstream.Options{Log: zap.New(core), Dial: w.Dial}, upstream.Config{Endpoints: []string{"http://hub.test"}})
			_, err := h.Open(t.Context(), tagRef("latest"), cache.Whole)
			if err == nil {
				t.Fatal("no error")
			}
			lines := []string{err.Error()}
			for _, l := range logs.All() {
				lines = append(lines, l.Message+fmt.Sprint(l.ContextMap()))
			}
			for _, l := range lines {
				if strings.ContainsFunc(l, func(r rune) bool { return !unicode.IsPrint(r) }) || len(l) > 600 {
					t.Errorf("%q", l)
				}
			}
		})
	}
}
