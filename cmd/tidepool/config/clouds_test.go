package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// Logins that clouds make are read, shown where they were said, and asked for by nobody yet.
func TestClouds(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "azure")
	if err := os.WriteFile(secret, []byte("an entra secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := load(t, `upstreams:
  123456789012.dkr.ecr.eu-west-1.amazonaws.com: {credentials: [{aws: {}}]}
  ecr.corp: {credentials: [{aws: {region: eu-west-1, profile: images}, endpoint: ecr.corp}]}
  gcr.io: {credentials: [google: ]}
  vpce.corp: {endpoints: [https://vpce-0123.dkr.ecr.eu-west-1.vpce.amazonaws.com], credentials: [{aws: {region: eu-west-1}}]}
  one.azurecr.io: {credentials: [{azure: {}}]}
  two.azurecr.io: {credentials: [{azure: {identity: secret, tenant: t, client: c, secret_file: `+secret+`}}]}
`, config.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"upstreams.123456789012.dkr.ecr.eu-west-1.amazonaws.com.credentials[0].aws": "{}",
		"upstreams.ecr.corp.credentials[0].aws.profile":                             "images",
		"upstreams.gcr.io.credentials[0].google":                                    "{}",
		"upstreams.one.azurecr.io.credentials[0].azure.identity":                    "default",
		"upstreams.two.azurecr.io.credentials[0].azure.secret_file":                 secret,
	} {
		if got := value(t, l, key).Value; got != want {
			t.Errorf("%s is shown as %q, want %q", key, got, want)
		}
	}
	for _, v := range l.Values() {
		if strings.Contains(v.Value, "entra secret") {
			t.Errorf("%s shows a secret", v.Key)
		}
	}
	made := 0
	for _, hub := range l.Hubs() {
		for _, c := range hub.Credentials {
			if c.Make != nil {
				made++
			}
		}
		if want := len(hub.Credentials) > 0; l.Private(hub.Name) != want {
			t.Errorf("%s is private: %v", hub.Name, !want)
		}
	}
	if made != 6 {
		t.Errorf("%d logins are made, want 6", made)
	}
}

func TestCloudFaults(t *testing.T) {
	for yaml, want := range map[string]string{
		"{aws: {}}":    "credentials[0]: r.corp is no host of Amazon's, and the login would go there too: name the endpoint that it is for",
		"{google: {}}": "r.corp is no host of Google's",
		"{azure: {}}":  "r.corp is no host of Azure's",
		"{google: {}}]\n    endpoints: ['https://gcr.io', 'https://mirror.corp']\n    realm: [r.corp": "mirror.corp is no host of Google's",
		"{aws: {}}]\n    endpoints: ['https://ec2-1.compute.amazonaws.com']\n    realm: [r.corp":      "ec2-1.compute.amazonaws.com is no host of Amazon's",
		"{aws: {}, google: {}}":   "credentials[0]: a login is made by one cloud: aws, google or azure",
		"{aws: {zone: x}}":        "unknown key upstreams.r.corp.credentials[0].aws.zone",
		"{google: {key: x}}":      "unknown key upstreams.r.corp.credentials[0].google.key",
		"{aws: {}, username: me}": "a login that a cloud makes has no username and no password of its own",
		"{azure: {identity: secret, tenant: t, client: c, secret_file: nowhere}}": "azure.secret_file: stat nowhere: no such file or directory",
		"{azure: {identity: me}}":                                                                  `azure.identity: "me" is none of default, managed, workload, secret, certificate`,
		"{azure: {identity: secret, secret_file: c.yaml}}":                                         "azure: an application has a tenant and a client",
		"{azure: {identity: secret, tenant: t, client: c}}":                                        "azure: secret_file and identity: secret go together",
		"{azure: {certificate_file: x}}":                                                           "azure: certificate_file and identity: certificate go together",
		"{azure: {identity: managed, tenant: t}}":                                                  "azure: a managed identity is asked for on this machine",
		"{azure: {client: c}}":                                                                     "azure: a client belongs to an identity",
		"{azure: {identity: workload, authority: 'http://login.corp'}}":                            "azure.authority: want an address that begins with https://",
		"{azure: {identity: workload, client_id: c}}":                                              "unknown key upstreams.r.corp.credentials[0].azure.client_id",
		"{azure: {identity: secret, tenant: t, client: c, secret: 'hunter2'}}":                     "unknown key upstreams.r.corp.credentials[0].azure.secret",
		"{google: {}, endpoint: r.corp}]\n    endpoints: ['http://r.corp']\n    realm: [auth.corp": "the login would cross the network unencrypted",
	} {
		_, err := load(t, "upstreams:\n  r.corp:\n    credentials: ["+yaml+"]\n", config.Inputs{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", yaml, err)
		}
	}
}
