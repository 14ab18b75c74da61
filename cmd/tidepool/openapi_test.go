package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// described checks answers against the description that a tidepool gives of its admin listener.
type described struct {
	*pool
	routes routers.Router
	unseen map[string]bool // "GET /livez 200"
	doc    *openapi3.T
}

func describedBy(t *testing.T, w *pool) *described {
	t.Helper()
	a := w.admin("/api/openapi.yaml")
	a.is(t, http.StatusOK)
	a.has(t, "Content-Type", "application/yaml")
	doc, err := openapi3.NewLoader().LoadFromData(a.body)
	if err != nil {
		t.Fatal(err)
	}
	doc.Servers = openapi3.Servers{{URL: "http://" + w.adminAddr.String()}}
	d := &described{pool: w, unseen: map[string]bool{}, doc: doc}
	if d.routes, err = legacy.NewRouter(doc); err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status := range op.Responses.Map() {
				d.unseen[method+" "+path+" "+status] = true
			}
		}
	}
	return d
}

// check asks, and fails where the answer is not as described.
func (d *described) check(t *testing.T, method, path, body string, headers ...string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+d.adminAddr.String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	route, params, err := d.routes.FindRoute(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	res, err := d.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	delete(d.unseen, strings.Join([]string{method, route.Path, res.Status[:3]}, " "))
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 res.StatusCode, Header: res.Header, Body: io.NopCloser(bytes.NewReader(answer)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if err := openapi3filter.ValidateResponse(t.Context(), in); err != nil {
		t.Errorf("%s %s: %s: %v\n%s", method, path, res.Status, err, answer)
	}
	if res.Header.Get("Content-Type") == ndjson {
		d.checkLines(t, answer)
	}
}

const ndjson = "application/x-ndjson"

func init() {
	openapi3filter.RegisterBodyDecoder(ndjson, func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		b, err := io.ReadAll(body)
		return string(b), err
	})
}

// checkLines checks an answer that has a document on each line: events, and at last a summary.
func (d *described) checkLines(t *testing.T, answer []byte) {
	t.Helper()
	lines := bytes.Split(bytes.TrimSpace(answer), []byte("\n"))
	for n, line := range lines {
		name := "WarmEvent"
		if n == len(lines)-1 {
			name = "WarmSummary"
		}
		var v any
		if err := json.Unmarshal(line, &v); err != nil {
			t.Errorf("%s: %v", line, err)
		} else if err := d.doc.Components.Schemas[name].Value.VisitJSON(v); err != nil {
			t.Errorf("%s is no %s: %v", line, name, err)
		}
	}
}

// TestAnswersAsDescribed: each answer that the description has is given, and is as it says.
func TestAnswersAsDescribed(t *testing.T) {
	bubble(t, "as it runs", func(t *testing.T) {
		o := origintest.New()
		img, other := o.PutImage(repo, "latest", origintest.Spec{}), o.PutImage(repo, "other", origintest.Spec{Seed: 1})
		o.RateLimit(100, 6*time.Hour, "192.0.2.7")
		disk := new(diskFS)
		w := inBubble(t, o, plan{file: "upstreams: {docker.io: {requests: 100/m}}\n", world: world{fs: disk}})
		w.pulls("latest", img)
		w.pulls("latest", img)
		d := describedBy(t, w)
		for _, path := range []string{"/livez", "/readyz", "/healthz", "/healthz?verbose", "/metrics", "/api/openapi.yaml",
			"/api/v1/status/buildinfo", "/api/v1/status", "/api/v1/saved", "/api/v1/offline"} {
			d.check(t, "GET", path, "")
		}
		ask := func(path, body string) {
			d.check(t, "POST", path, body, "Content-Type", "application/json")
			d.check(t, "POST", path, `{"images":7}`, "Content-Type", "application/json")
			d.check(t, "POST", path, body, "Content-Type", "text/plain")
			d.check(t, "POST", path, body, "Content-Type", "application/json", "Sec-Fetch-Site", "cross-site")
		}
		ask("/api/v1/warm", `{"images":["app","missing:1"],"pin":true,"referrers":"never"}`)
		d.check(t, "GET", "/api/v1/pins", "")
		d.check(t, "GET", "/api/v1/ring", "")
		d.check(t, "GET", "/api/v1/history?image=app", "")
		d.check(t, "GET", "/api/v1/history?image=Bad", "")
		ask("/api/v1/unpin", `{"images":["app","missing:1"]}`)
		ask("/api/v1/purge", `{"images":["app","missing:1","app:*"],"dry_run":true,"here":true}`)
		disk.full.Store(true)
		w.pulls("other", other)
		d.check(t, "GET", "/healthz", "")
		d.check(t, "GET", "/api/v1/status", "")
		for _, path := range []string{"/api/v1/offline", "/api/v1/offline/docker.io"} {
			d.check(t, "PUT", path, `{"offline":true}`, "Content-Type", "application/json")
			d.check(t, "PUT", path, `{"offline":7}`, "Content-Type", "application/json")
			d.check(t, "PUT", path, `{"offline":true}`, "Content-Type", "text/plain")
			d.check(t, "PUT", path, `{"offline":true}`, "Content-Type", "application/json", "Sec-Fetch-Site", "cross-site")
		}
		d.check(t, "PUT", "/api/v1/offline/nowhere.test", `{"offline":true}`, "Content-Type", "application/json")
		w.draining.Store(true)
		d.check(t, "GET", "/readyz", "")
		delete(d.unseen, "GET /api/v1/ring 200") // of a cluster: its form is looked at below
		if len(d.unseen) > 0 {
			t.Errorf("described, and not seen: %v", d.unseen)
		}
	})
	bubble(t, "every field", func(t *testing.T) {
		d := describedBy(t, inBubble(t, origintest.New()))
		b, err := json.Marshal(everything())
		if err != nil {
			t.Fatal(err)
		}
		d.matches(t, "/api/v1/status", b)
		ring, err := json.Marshal(ringDoc{Schema: 1, Self: "a", Ring: 7, Members: everything().Cluster.Members, Digest: "sha256:00", Owners: []string{"a"}})
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(ring, &v); err != nil {
			t.Fatal(err)
		}
		if err := d.doc.Components.Schemas["Ring"].Value.VisitJSON(v); err != nil {
			t.Error(err)
		}
	})
}

// matches checks a document that has more in it than a running tidepool has at a time.
func (d *described) matches(t *testing.T, path string, doc []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+d.adminAddr.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	route, _, err := d.routes.FindRoute(req)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		t.Fatal(err)
	}
	schema := route.Operation.Responses.Status(http.StatusOK).Value.Content.Get("application/json").Schema.Value
	if err := schema.VisitJSON(v); err != nil {
		t.Error(err)
	}
	v.(map[string]any)["upstreams"].([]any)[0].(map[string]any)["password"] = "x"
	if schema.VisitJSON(v) == nil {
		t.Error("what nobody described passes")
	}
}
