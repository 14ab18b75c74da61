package config_test

import (
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// doors is a configuration with all there is at the door.
const doors = `door:
  tls_cert: /c.pem
  tls_key: /k.pem
  client_ca: /ca.pem
  issuers:
    prod: {issuer: https://k8s.prod, keys_file: /sa.pub}
upstreams:
  c.corp:
    access: caller
    callers:
      - {certificate: "node-*.corp", username: nodes, password_file: /run/nodes}
      - {service_account: "prod:*", username: prod, password_file: /run/prod}
`

func TestDoor(t *testing.T) {
	l, err := load(t, doors, config.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"door.issuers.prod.audience": "tidepool", "upstreams.c.corp.callers[1].issuer": "prod",
		"upstreams.c.corp.callers[0].password_file": "/run/nodes", "door.tls_key": "/k.pem",
	} {
		if got := value(t, l, key); got.Value != want {
			t.Errorf("%s is %q, want %q", key, got.Value, want)
		}
	}
	files, ok := l.Files()
	known := l.Access()
	if rules := known.Rules["c.corp"]; !ok || files.ClientCA != "/ca.pem" || len(rules) != 2 || rules[1].Issuer != "prod" || known.Issuers["prod"].KeysURL != "" {
		t.Errorf("%+v %+v", files, known)
	}
	if l, err = load(t, "", config.Inputs{}); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Files(); ok {
		t.Error("TLS without a certificate")
	}
}

func TestDoorFaults(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"  tls_key: /k.pem\n", "", "c.yaml:2:13: door.tls_cert: a certificate and its key go together"},
		{"  tls_cert: /c.pem\n", "", "c.yaml:2:12: door.tls_key: a certificate and its key go together"},
		{"  tls_cert: /c.pem\n  tls_key: /k.pem\n", "", "clients show certificates over TLS only"},
		{"  client_ca: /ca.pem\n", "", "c.yaml:10:23: upstreams.c.corp.callers[0].certificate: nobody's certificate is asked for"},
		{"    prod: {issuer: https://k8s.prod, keys_file: /sa.pub}\n", "", "nobody's tokens are believed"},
		{"issuer: https://k8s.prod, ", "", "say its issuer"},
		{", keys_file: /sa.pub", "", "in a keys_file or at a keys_url"},
		{"keys_file: /sa.pub", "keys_file: /sa.pub, keys_url: https://k", "in a keys_file or at a keys_url"},
		{"keys_file: /sa.pub", "keys_file: /sa.pub, ca_file: /x", "ca_file and token_file are for asking a keys_url"},
		{"keys_file: /sa.pub", "keys_url: http://k8s.prod/jwks", "use https"},
		{"keys_file: /sa.pub", "keys_url: http://127.0.0.1/jwks, token_file: /x", "the token would go out unencrypted"},
		{"keys_file: /sa.pub", "keys_url: ftp://k8s", "is no registry's URL"},
		{"keys_file: /sa.pub}\n", "keys_file: /sa.pub}\n    edge: {issuer: https://k8s.edge, keys_file: /x}\n", "say whose this is (issuer)"},
		{"access: caller", "access: shared", "only with access: caller are clients' logins shown"},
		{`certificate: "node-*.corp", `, "", "for a certificate or for a service_account"},
		{`"node-*.corp"`, `"node-*.corp", service_account: "a:b"`, "for a certificate or for a service_account"},
		{`"node-*.corp"`, `"node-*.corp", issuer: prod`, "this is for a service_account"},
		{`"prod:*"`, `"prod:*", issuer: edge`, `"edge" is not under door.issuers`},
		{`"node-*.corp"`, `"Node.corp"`, "matches no certificate"},
		{`"node-*.corp"`, `".corp"`, "matches no certificate"},
		{`"node-*.corp"`, `"node-**.corp"`, "** stands for whole parts"},
		{`"node-*.corp"`, `"node/*"`, "matches no certificate"},
		{`"prod:*"`, `"prod"`, "matches no service account"},
		{`"prod:*"`, `"system:serviceaccount:prod:x"`, "matches no service account"},
		{`"prod:*"`, `"**"`, "matches no service account"},
		{"username: nodes, ", "", "a login has a username and a password_file"},
		{", password_file: /run/nodes", "", "a login has a username and a password_file"},
		{"password_file: /run/nodes", "password: x", "unknown key"},
		{"username: nodes", `username: "a:b"`, "no username has a colon"},
		{"    access: caller\n", "    type: virtual\n    of: [docker.io]\n", "a virtual upstream is never asked itself"},
	} {
		text := strings.Replace(doors, c.old, c.new, 1)
		if text == doors {
			t.Fatalf("%q is not there", c.old)
		}
		if _, err := load(t, text, config.Inputs{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s: %v, want %q", c.old, c.new, err, c.want)
		}
	}
}
