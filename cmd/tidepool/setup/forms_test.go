package setup

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/deploy"
)

const address = "10.0.0.1:5000"

// merges is what a text becomes by merge, and what is left by remove then; where want is empty, merge refuses, and says
// why.
type merges struct{ name, text, want, left, why string }

func (m merges) check(t *testing.T, f form) {
	t.Helper()
	got, err := f.merge(m.text, address)
	if m.want == "" {
		if err == nil || !strings.Contains(err.Error(), m.why) {
			t.Fatalf("%q, %v: want a refusal that says %q", got, err, m.why)
		}
		return
	}
	if err != nil || got != m.want {
		t.Fatalf("%v\n got %q\nwant %q", err, got, m.want)
	}
	if again, err := f.merge(got, address); again != got || err != nil {
		t.Errorf("a second time it becomes %q, %v", again, err)
	}
	left, err := f.remove(got, address)
	if err != nil || left != m.left {
		t.Errorf("taken out: %v\n got %q\nwant %q", err, left, m.left)
	}
	if again, err := f.remove(left, address); again != left || err != nil {
		t.Errorf("taken out a second time it becomes %q, %v", again, err)
	}
}

const newDaemon = "{\n  \"registry-mirrors\": [\"http://10.0.0.1:5000\"]\n}\n"

func TestDaemonJSON(t *testing.T) {
	for _, m := range []merges{
		{"no file", "", newDaemon, "{}\n", ""},
		{"blank", " \n", newDaemon, "{}\n", ""},
		{"a byte order mark alone", bom, newDaemon, "{}\n", ""},
		{"empty object", "{}\n", newDaemon, "{}\n", ""},
		{"other keys, their order and odd numbers", "{\n    \"b\": 1e400,\n    \"a\": 12345678901234567890\n}\n",
			"{\n    \"b\": 1e400,\n    \"a\": 12345678901234567890,\n    \"registry-mirrors\": [\"http://10.0.0.1:5000\"]\n}\n",
			"{\n    \"b\": 1e400,\n    \"a\": 12345678901234567890\n}\n", ""},
		{"one line", `{"a":"}],\"","b":{"registry-mirrors":3}}`, `{"a":"}],\"","b":{"registry-mirrors":3},"registry-mirrors": ["http://10.0.0.1:5000"]}`,
			`{"a":"}],\"","b":{"registry-mirrors":3}}`, ""},
		{"another mirror", `{"registry-mirrors": ["https://gcr.test"], "a": 1}`,
			`{"registry-mirrors": ["http://10.0.0.1:5000", "https://gcr.test"], "a": 1}`, `{"registry-mirrors": ["https://gcr.test"], "a": 1}`, ""},
		{"other mirrors, a line each", "{\n\t\"registry-mirrors\": [\n\t\t\"https://a\",\n\t\t\"https://b\"\n\t]\n}",
			"{\n\t\"registry-mirrors\": [\n\t\t\"http://10.0.0.1:5000\",\n\t\t\"https://a\",\n\t\t\"https://b\"\n\t]\n}",
			"{\n\t\"registry-mirrors\": [\n\t\t\"https://a\",\n\t\t\"https://b\"\n\t]\n}", ""},
		{"an empty list", "{\"registry-mirrors\": [ ],\n\"a\": 1}", "{\"registry-mirrors\": [\"http://10.0.0.1:5000\"],\n\"a\": 1}", "{\"a\": 1}", ""},
		{"there already, with a slash", `{"registry-mirrors": ["http:\/\/10.0.0.1:5000/"]}`, `{"registry-mirrors": ["http:\/\/10.0.0.1:5000/"]}`, "{}", ""},
		{"CRLF and a byte order mark", bom + "{\r\n  \"debug\": true\r\n}\r\n",
			bom + "{\r\n  \"debug\": true,\r\n  \"registry-mirrors\": [\"http://10.0.0.1:5000\"]\r\n}\r\n", bom + "{\r\n  \"debug\": true\r\n}\r\n", ""},
		{"a key written with escapes", `{"registry\u002dmirrors": []}`, `{"registry\u002dmirrors": ["http://10.0.0.1:5000"]}`, `{}`, ""},
		{name: "comments", text: "{\n  // here\n  \"a\": 1\n}", why: "not valid JSON, in line 2"},
		{name: "a comma too many", text: "{\n\"a\": 1,\n}", why: "not valid JSON, in line 3"},
		{name: "cut off", text: "{\n\"a\": [\n", why: "not valid JSON, in line 3"},
		{name: "two", text: "{}{}", why: "something stands behind the end"},
		{name: "no object", text: "[1]", why: "no object"},
		{name: "null", text: "null", why: "no object"},
		{name: "UTF-16", text: "\xff\xfe{\x00}\x00", why: "not valid JSON, in line 1"},
		{name: "no list", text: `{"registry-mirrors": "https://a"}`, why: "no list of URLs"},
		{name: "a list of others", text: `{"registry-mirrors": [1]}`, why: "no list of URLs"},
		{name: "null as the list", text: `{"registry-mirrors": null}`, why: "no list of URLs"},
		{name: "twice", text: `{"registry-mirrors": [], "registry-mirrors": []}`, why: "twice"},
	} {
		t.Run(m.name, func(t *testing.T) { m.check(t, daemonJSON{}) })
	}
}

const newMirrors = "mirrors:\n  \"*\":\n    endpoint:\n      - \"http://10.0.0.1:5000\"\n"

func TestRegistriesYAML(t *testing.T) {
	const login = "configs:\n  a.test: {auth: {username: me}} # mine\n"
	for _, m := range []merges{
		{"no file", "", newMirrors, "", ""},
		{"comments", "# mine", "# mine\n" + newMirrors, "# mine\n", ""},
		{"an empty document", "---\n", "---\n" + newMirrors, "---\n", ""},
		{"other keys and comments", "# mine\n\n" + login, "# mine\n\n" + login + newMirrors, "# mine\n\n" + login, ""},
		{"no last newline, CRLF, a byte order mark", bom + "a: 1\r\nb: 2",
			bom + "a: 1\r\nb: 2\r\n" + strings.ReplaceAll(newMirrors, "\n", "\r\n"), bom + "a: 1\r\nb: 2\r\n", ""},
		{"empty mirrors", "mirrors: # none\n" + login, "mirrors: # none\n" + strings.TrimPrefix(newMirrors, "mirrors:\n") + login, login, ""},
		{"another registry's mirror", "mirrors:\n    # near\n    docker.io:\n        endpoint: [\"https://a\"]\n\n" + login,
			"mirrors:\n    \"*\":\n      endpoint:\n        - \"http://10.0.0.1:5000\"\n    # near\n    docker.io:\n        endpoint: [\"https://a\"]\n\n" + login,
			"mirrors:\n    # near\n    docker.io:\n        endpoint: [\"https://a\"]\n\n" + login, ""},
		{"another one for all", "mirrors:\n  '*':\n    endpoint:\n    # far\n    -   https://a\n    rewrite: {a: b}\n",
			"mirrors:\n  '*':\n    endpoint:\n    # far\n    - \"http://10.0.0.1:5000\"\n    -   https://a\n    rewrite: {a: b}\n",
			"mirrors:\n  '*':\n    endpoint:\n    # far\n    -   https://a\n    rewrite: {a: b}\n", ""},
		{"a list in brackets", "mirrors: {\"*\": {endpoint: [ \"https://ä\" ]}}\n",
			"mirrors: {\"*\": {endpoint: [\"http://10.0.0.1:5000\",  \"https://ä\" ]}}\n", "mirrors: {\"*\": {endpoint: [\"https://ä\" ]}}\n", ""},
		{"only what else there is to say of all", "mirrors:\n  \"*\":\n    rewrite: {a: b}\n",
			"mirrors:\n  \"*\":\n    endpoint:\n      - \"http://10.0.0.1:5000\"\n    rewrite: {a: b}\n", "mirrors:\n  \"*\":\n    rewrite: {a: b}\n", ""},
		{"no endpoint said", "mirrors:\n  \"*\":\n    endpoint:\n", newMirrors, "", ""},
		{"there already", "mirrors:\n  \"*\": {endpoint: ['http://10.0.0.1:5000/']}\na: 1\n",
			"mirrors:\n  \"*\": {endpoint: ['http://10.0.0.1:5000/']}\na: 1\n", "a: 1\n", ""},
		{name: "in brackets", text: "{a: 1}\n", why: "cannot be changed safely"},
		{name: "mirrors in brackets", text: "mirrors: {a: {endpoint: [b]}}\n", why: "cannot be changed safely"},
		{name: "an alias", text: "x: &x {endpoint: [a]}\nmirrors:\n  \"*\": *x\n", why: "cannot be changed safely"},
		{name: "an end mark", text: "a: 1\n...\n", why: "cannot be changed safely"},
		{name: "lines of old Macs", text: "a: 1\rb: 2\r", why: "its lines end"},
		{name: "tabs", text: "a:\n\tb: 1\n", why: "not valid YAML"},
		{name: "a key twice", text: "a: 1\na: 2\n", why: "not valid YAML"},
		{name: "a list", text: "- a\n", why: "not valid YAML"},
		{name: "two documents", text: "a: 1\n---\nb: 1\n", why: "several YAML documents"},
		{name: "mirrors as a list", text: "mirrors: [a]\n", why: "mirrors has no keys"},
		{name: "one endpoint without a list", text: "mirrors:\n  \"*\":\n    endpoint: https://a\n", why: "is no list"},
	} {
		t.Run(m.name, func(t *testing.T) { m.check(t, registriesYAML{}) })
	}
}

// A list in brackets is changed by others in their ways, and still loses only what is ours.
func TestRemoveFromBrackets(t *testing.T) {
	for text, want := range map[string]string{
		`[a, "http://10.0.0.1:5000"]`:           `[a]`,
		`[a , "http://10.0.0.1:5000" , b]`:      `[a , b]`,
		`["http://10.0.0.1:5000" ,b]`:           `[b]`,
		`[ 'http://10.0.0.1:5000/', "b,]", c ]`: `[ "b,]", c ]`,
	} {
		got, err := registriesYAML{}.remove("mirrors: {\"*\": {endpoint: "+text+"}}\n", address)
		if err != nil || got != "mirrors: {\"*\": {endpoint: "+want+"}}\n" {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

func TestWhole(t *testing.T) {
	ours := snippet("podman", server)
	for _, m := range []merges{
		{"no file", "", mark + ours, "", ""},
		{"comments", "# mine", "# mine\n" + mark + ours, "# mine\n", ""},
		{"comments, CRLF, a byte order mark", bom + "# mine\r\n\r\n", bom + "# mine\r\n\r\n" + mark + ours, bom + "# mine\r\n\r\n", ""},
		{"pasted by hand", ours + "# mine\n", ours + "# mine\n", "# mine\n", ""},
		{"more behind it", "# a\n" + mark + ours + "[x]\n", "# a\n" + mark + ours + "[x]\n", "# a\n[x]\n", ""},
		{name: "others' content", text: "[[registry]]\n", why: "add by hand what `tidepool setup podman --address 10.0.0.1:5000` prints"},
		{name: "another address", text: strings.ReplaceAll(ours, address, "other:1"), why: "add by hand"},
	} {
		t.Run(m.name, func(t *testing.T) { m.check(t, whole{client: "podman"}) })
	}
	for name := range clients {
		w, ok := clients[name].form.(whole)
		if !ok {
			continue
		}
		for _, to := range []deploy.Server{server, {Address: address, Fallback: true}} {
			w.fallback = to.Fallback
			ours := snippet(name, to)
			merges{name, "# mine", "# mine\n" + mark + ours, "# mine\n", ""}.check(t, w)
			other := snippet(name, deploy.Server{Address: address, Fallback: !to.Fallback})
			if got, err := w.merge(other+"# mine\n", address); err != nil || other != ours && got != "# mine\n"+mark+ours {
				t.Errorf("%s: of the other form this was made: %q, %v", name, got, err)
			}
		}
	}
	if got, err := (whole{client: "podman"}).remove(strings.Replace(ours, "insecure = true", "insecure = false", 1), address); err == nil {
		t.Errorf("of ours, changed by others, this was made: %q", got)
	}
}

// Whatever object there is: it stays what it was, in its order, with the server before other mirrors; and without it
// again, it is what it was.
func FuzzDaemonJSON(f *testing.F) {
	f.Add(`{"a": 1, "registry-mirrors": ["x" , "y"], "b": {}}`)
	f.Add("{ }")
	f.Add(`{"registry-mirrors":[]}`)
	f.Fuzz(func(t *testing.T, text string) {
		merged, err := daemonJSON{}.merge(text, address)
		if err != nil || merged == text || strings.TrimSpace(strings.TrimPrefix(text, bom)) == "" {
			return
		}
		was, is := decoded(t, text), decoded(t, merged)
		list, _ := was["registry-mirrors"].([]any)
		was["registry-mirrors"] = append([]any{"http://" + address}, list...)
		if !reflect.DeepEqual(was, is) {
			t.Fatalf("%q became %q", text, merged)
		}
		left, err := daemonJSON{}.remove(merged, address)
		if err != nil {
			t.Fatal(err)
		}
		if delete(was, "registry-mirrors"); len(list) > 0 {
			was["registry-mirrors"] = list
		}
		if is := decoded(t, left); !reflect.DeepEqual(was, is) {
			t.Fatalf("%q became %q again", text, left)
		}
	})
}

func decoded(t *testing.T, text string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(strings.TrimPrefix(text, bom)))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	return v
}

// Whatever YAML there is: it is changed as it should be, or not at all, which merge and remove prove themselves.
func FuzzRegistriesYAML(f *testing.F) {
	f.Add("mirrors:\n  \"*\":\n    endpoint: [a]\n")
	f.Add("mirrors: &a\n- \"*\"\n")
	f.Add("? a\n: b\n")
	f.Fuzz(func(t *testing.T, text string) {
		merged, err := registriesYAML{}.merge(text, address)
		if err != nil {
			return
		}
		if again, err := (registriesYAML{}).merge(merged, address); err != nil || again != merged {
			t.Fatalf("%q became %q, and then %q, %v", text, merged, again, err)
		}
		_, _ = registriesYAML{}.remove(merged, address)
	})
}
