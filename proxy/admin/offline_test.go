package admin_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/admin"
)

// switches are what Offline has to be, and remembers what it was told.
type switches struct {
	all bool
	one map[string]bool
}

func (s *switches) Offline() (bool, map[string]bool) { return s.all, s.one }

func (s *switches) SetOffline(name string, on bool) bool {
	if name == "" {
		s.all = on
		return true
	}
	_, known := s.one[name]
	if known {
		s.one[name] = on
	}
	return known
}

func TestOffline(t *testing.T) {
	const path = "/api/v1/offline"
	for _, c := range []struct {
		name, method, path, body string
		header                   [2]string
		status                   int
		want                     string // the answer; for an error, a part of what it says
	}{
		{"shown", "GET", path, "", [2]string{}, 200, `{"schema":1,"offline":false,"upstreams":{"docker.io":false,"r.corp:5000":false}}`},
		{"all", "PUT", path, `{"offline": true}`, [2]string{}, 200, `{"schema":1,"offline":true,"upstreams":{"docker.io":false,"r.corp:5000":false}}`},
		{"one", "PUT", path + "/r.corp:5000", `{"offline":true}`, [2]string{}, 200, `{"schema":1,"offline":false,"upstreams":{"docker.io":false,"r.corp:5000":true}}`},
		{"charset", "PUT", path, `{"offline":true}`, [2]string{"Content-Type", "application/json; charset=utf-8"}, 200, `{"schema":1,"offline":true,"upstreams":{"docker.io":false,"r.corp:5000":false}}`},
		{"our own page", "PUT", path, `{"offline":false}`, [2]string{"Sec-Fetch-Site", "same-origin"}, 200, `{"schema":1,"offline":false,"upstreams":{"docker.io":false,"r.corp:5000":false}}`},
		{"unknown upstream", "PUT", path + "/evil.test", `{"offline":true}`, [2]string{}, 404, `no upstream "evil.test"`},
		{"empty", "PUT", path, "", [2]string{}, 400, `{"offline": true}`},
		{"null", "PUT", path, `{"offline":null}`, [2]string{}, 400, `{"offline": true}`},
		{"a word", "PUT", path, `{"offline":"yes"}`, [2]string{}, 400, `{"offline": true}`},
		{"another key", "PUT", path, `{"offline":true,"upstream":"docker.io"}`, [2]string{}, 400, `unknown field`},
		{"two documents", "PUT", path, `{"offline":true}{}`, [2]string{}, 400, `{"offline": true}`},
		{"too long", "PUT", path, strings.Repeat(" ", 1<<20) + `{"offline":true}`, [2]string{}, 400, `{"offline": true}`},
		{"a form", "PUT", path, `{"offline":true}`, [2]string{"Content-Type", "text/plain"}, 415, `application/json`},
		{"cross site", "PUT", path, `{"offline":true}`, [2]string{"Sec-Fetch-Site", "cross-site"}, 403, `another origin`},
		{"another origin", "PUT", path, `{"offline":true}`, [2]string{"Origin", "http://evil.test"}, 403, `another origin`},
		{"rebound name", "PUT", path, `{"offline":true}`, [2]string{"Host", "evil.test"}, 403, `another origin`},
		{"another method", "POST", path, `{"offline":true}`, [2]string{}, 405, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &switches{one: map[string]bool{"docker.io": false, "r.corp:5000": false}}
			h := admin.Handler{Offline: s, Metrics: http.NotFoundHandler()}.Routes()
			r := httptest.NewRequest(c.method, "http://127.0.0.1:5001"+c.path, strings.NewReader(c.body))
			r.Header.Set("Content-Type", "application/json")
			switch {
			case c.header[0] == "Host":
				r.Host = c.header[1]
				r.Header.Set("Origin", "http://"+c.header[1])
			case c.header[0] != "":
				r.Header.Set(c.header[0], c.header[1])
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			got := strings.TrimSpace(w.Body.String())
			var failure struct {
				Schema int
				Error  string
			}
			switch {
			case w.Code != c.status:
				t.Errorf("%d %s, want %d", w.Code, got, c.status)
			case c.status == 200 && got != c.want:
				t.Errorf("got  %s\nwant %s", got, c.want)
			case c.status == 200 || c.status == 405:
			case json.Unmarshal([]byte(got), &failure) != nil || failure.Schema != 1 || !strings.Contains(failure.Error, c.want):
				t.Errorf("%s does not say %s", got, c.want)
			}
			if c.status != 200 && (s.all || s.one["docker.io"] || s.one["r.corp:5000"]) {
				t.Error("refused, and switched all the same")
			}
		})
	}
}
