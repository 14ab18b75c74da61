package main_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidepool-oci/tidepool/proxy/hubtest"
)

// rows is the table of hubs.
func (l *land) rows() []*hubRow {
	l.t.Helper()
	var rows []*hubRow
	for _, some := range [][]*hubRow{l.public(), l.amazon(), l.google(), l.azure(), l.plain(), l.products(), l.files()} {
		rows = append(rows, some...)
	}
	return rows
}

const dockerAuth = "https://auth.docker.io/token"

// public are the registries that everybody pulls from.
func (l *land) public() []*hubRow {
	hub := l.row("Docker Hub", "personal token", "", "docker.io")
	ghcr := l.row("GHCR", "personal token", "", "ghcr.io")
	quay := l.row("Quay", "robot, by the environment", "", "quay.io")
	rows := []*hubRow{
		l.bearer(hub, "registry-1.docker.io", dockerAuth, "registry.docker.io", "production.cloudfront.docker.com", "acme"),
		l.bearer(ghcr, "ghcr.io", "https://ghcr.io/token", "ghcr.io", "pkg-containers.githubusercontent.com", "acme"),
		l.bearer(quay, "quay.io", "https://quay.io/v2/auth", "quay.io", "cdn01.quay.io", ""),
	}
	// Docker Hub by nobody in particular is an upstream of its own: one registry has one entry.
	anonymous := l.row("Docker Hub", "anonymous", "endpoint", "hub.anonymous")
	anonymous.config = "endpoints: [https://mirror.hub.anonymous]\nrealm: auth.hub.anonymous\nredirect_hosts: [cdn.hub.anonymous]\n"
	l.bearer(anonymous, "mirror.hub.anonymous", "https://auth.hub.anonymous/token", "registry.docker.io", "cdn.hub.anonymous", "")
	_, password := l.secret()
	quay.gate.Account("org+robot", password)
	l.env = append(l.env, "TIDEPOOL_USERNAME_QUAY_IO=org+robot", "TIDEPOOL_PASSWORD_QUAY_IO="+password)
	l.at(quay, "quay.io", "https://quay.io/v2/auth", "cdn01.quay.io", quay.gate.Tokens(false))
	quay.revoke = quay.gate.Revoke
	return append([]*hubRow{anonymous}, rows...)
}

// amazon are its private registries, of two accounts and in three partitions' regions, and the public one.
func (l *land) amazon() []*hubRow {
	var keys strings.Builder
	rows := []*hubRow{
		l.ecr("111122223333", "eu-west-1", "one", "amazonaws.com", &keys),
		l.ecr("444455556666", "us-east-2", "two", "amazonaws.com", &keys),
		l.ecr("777788889999", "cn-north-1", "three", "amazonaws.com.cn", &keys),
	}
	public := l.row("Amazon ECR Public", "aws, container's role", "", "public.ecr.aws")
	key := hubtest.AWSKey{ID: "ASIAROLE", Secret: hubtest.Marker + "-role"}
	authorization := hubtest.Marker + "-pod"
	l.env = append(l.env, "AWS_CONTAINER_CREDENTIALS_FULL_URI="+l.loopback(key.Container(authorization)), "AWS_CONTAINER_AUTHORIZATION_TOKEN="+authorization)
	public.config = "credentials: [{aws: {}}]\n"
	public.front.Guard = public.gate.Bearer("https://public.ecr.aws/token/", "public.ecr.aws")
	l.net.Host("api.ecr-public.us-east-1.amazonaws.com", public.gate.ECRAPI(key, "us-east-1", true))
	l.at(public, "public.ecr.aws", "https://public.ecr.aws/token/", "d2glxqk2uabbnd.cloudfront.net", public.gate.Tokens(false, "ecr"))
	l.env = append(l.env, "AWS_SHARED_CREDENTIALS_FILE="+mustWrite(l.t, filepath.Join(l.dir, "aws"), keys.String()),
		"AWS_CONFIG_FILE="+filepath.Join(l.dir, "none"))
	return append(rows, public)
}

// google are its registries, by the metadata server and by a key.
func (l *land) google() []*hubRow {
	adc := l.row("Google Artifact Registry", "google, metadata server", "", "europe-docker.pkg.dev")
	adc.config = "credentials: [google: ]\n"
	adc.front.Guard = adc.gate.Bearer("https://europe-docker.pkg.dev/v2/token", "europe-docker.pkg.dev")
	l.at(adc, "europe-docker.pkg.dev", "https://europe-docker.pkg.dev/v2/token", "storage.googleapis.com", adc.gate.Tokens(false, "google"))
	l.env = append(l.env, "GCE_METADATA_HOST="+strings.TrimPrefix(l.loopback(adc.gate.GoogleMetadata()), "http://"))

	key := l.row("Google gcr.io", "_json_key", "", "gcr.io")
	text := "{\n  \"type\": \"service_account\",\n  \"private_key\": \"" + hubtest.Marker + "-key\"\n}"
	file := mustWrite(l.t, filepath.Join(l.dir, "key.json"), text+"\n")
	key.gate.Account("_json_key", text)
	key.config = "credentials: [{username: _json_key, password_file: " + file + "}]\n"
	key.front.Guard = key.gate.Bearer("https://gcr.io/v2/token", "gcr.io")
	l.at(key, "gcr.io", "https://gcr.io/v2/token", "", key.gate.Tokens(false))
	return []*hubRow{adc, key}
}

// azure are its registries, by each identity that Entra, or the machine, tells of.
func (l *land) azure() []*hubRow {
	const tenant, client, entra = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000", "login.microsoftonline.com"
	row := func(login, name, config string) *hubRow {
		r := l.row("Azure Container Registry", login, "", name)
		r.config = "credentials: [{azure: {" + config + "}}]\n"
		r.front.Guard = r.gate.Bearer("https://"+name+"/oauth2/token", name)
		r.front.CDN = strings.TrimSuffix(name, ".azurecr.io") + ".westeurope.data.azurecr.io"
		l.net.Host(r.front.CDN, r.front.Store())
		l.net.Host(name, r.gate.ACR(name, r.front))
		return r
	}
	file, secret := l.secret()
	pod, assertion := l.secret()
	application := row("azure, secret", "one.azurecr.io", fmt.Sprintf("identity: secret, tenant: %s, client: %s, secret_file: %s", tenant, client, file))
	workload := row("azure, workload", "two.azurecr.io", "identity: workload, authority: 'https://login.corp/'")
	chain := row("azure, default chain", "four.azurecr.io", "authority: 'https://login.four.corp/'")
	l.net.Host("login.four.corp", chain.gate.Entra("login.four.corp", tenant, client, "", assertion+"\n"))
	certificate, trusted := l.certificate()
	certified := row("azure, certificate", "five.azurecr.io", fmt.Sprintf("identity: certificate, tenant: %s, client: %s, "+
		"certificate_file: %s, authority: 'https://login.five.corp/'", tenant, client, certificate))
	l.net.Host("login.five.corp", certified.gate.EntraByCertificate("login.five.corp", tenant, client, trusted))
	managed := row("azure, managed", "three.azurecr.io", "identity: managed")
	l.net.Host(entra, application.gate.Entra(entra, tenant, client, secret, ""))
	l.net.Host("login.corp", workload.gate.Entra("login.corp", tenant, client, "", assertion+"\n"))
	header := hubtest.Marker + "-header"
	l.env = append(l.env, "AZURE_TENANT_ID="+tenant, "AZURE_CLIENT_ID="+client, "AZURE_FEDERATED_TOKEN_FILE="+pod,
		"IDENTITY_ENDPOINT="+l.loopback(managed.gate.ManagedIdentity(header)), "IDENTITY_HEADER="+header)
	return []*hubRow{application, certified, workload, managed, chain}
}

// plain are the distribution project's own registry, Debian's, with what it asks for itself.
func (l *land) plain() []*hubRow {
	open := l.row("plain registry", "open", "", "open.corp")
	open.revoke, open.spared = nil, true
	l.at(open, "open.corp", "", "", nil)
	return []*hubRow{
		open,
		l.ownHtpasswd(l.row("plain registry", "htpasswd", "", "basic.corp"), "basic.corp"),
		l.ownToken(l.row("plain registry", "token", "", "token.corp"), "token.corp", "https://auth.token.corp/token"),
	}
}

// products are what companies run, in the layouts that each has.
func (l *land) products() []*hubRow {
	msr := l.row("Mirantis Secure Registry", "access token", "", "msr.corp")
	l.bearer(msr, "msr.corp", "https://msr.corp/auth/token", "msr.corp", "", "acme")

	api := l.row("Artifactory", "token", "by path", "artifactory.corp")
	api.config = "endpoints: [https://artifactory.corp/artifactory/api/docker/docker-remote]\n"
	api.front.Base = "/artifactory/api/docker/docker-remote"
	l.bearer(api, "artifactory.corp", "https://artifactory.corp/artifactory/api/docker/docker-remote/v2/token", "artifactory.corp:443", "", "acme")
	path := l.row("Artifactory", "token", "by repository path", "art.corp")
	path.config, path.front.Prefix = "endpoints: [https://art.corp/v2/docker-remote]\n", "docker-remote/"
	l.bearer(path, "art.corp", "https://art.corp/v2/token", "art.corp:443", "", "acme")
	sub := l.row("Artifactory", "token", "by subdomain", "docker-remote.art.corp")
	l.bearer(sub, "docker-remote.art.corp", "https://docker-remote.art.corp/v2/token", "docker-remote.art.corp:443", "", "acme")

	nexus := l.row("Nexus", "token", "by path", "nexus.corp")
	nexus.config, nexus.front.Base = "endpoints: [https://nexus.corp/repository/docker]\n", "/repository/docker"
	l.bearer(nexus, "nexus.corp", "https://nexus.corp/repository/docker/v2/token", "https://nexus.corp/repository/docker/v2/token", "", "acme")
	port := l.row("Nexus", "basic", "by port", "nexus-8082.corp") // skopeo takes no second colon
	port.config = "endpoints: [https://nexus.corp:8082]\n"
	l.basic(port, "nexus.corp:8082", "Sonatype Nexus Repository Manager", "acme")

	harbor := l.row("Harbor", "robot", "proxy project", "harbor.corp")
	harbor.config, harbor.front.Prefix, harbor.front.Cache = "endpoints: [https://harbor.corp/v2/hub]\n", "hub/", true
	l.bearer(harbor, "harbor.corp", "https://harbor.corp/service/token", "harbor-registry", "", "robot$hub+tidepool")

	gitlab := l.row("GitLab.com", "deploy token", "", "registry.gitlab.com")
	l.bearer(gitlab, "registry.gitlab.com", "https://gitlab.com/jwt/auth", "container_registry", "cdn.registry.gitlab-static.net", "gitlab+deploy-token-1")
	self := l.row("GitLab, self-managed", "deploy token", "", "registry.gitlab.corp")
	self.config = "realm: gitlab.corp\n"
	l.bearer(self, "registry.gitlab.corp", "https://gitlab.corp/jwt/auth", "container_registry", "", "gitlab+deploy-token-1")
	return []*hubRow{msr, api, path, sub, nexus, port, harbor, gitlab, self}
}

// files are logins that other programs keep.
func (l *land) files() []*hubRow {
	helper := l.row("any", "credential helper", "", "helper.corp")
	file, password := l.secret()
	helper.gate.Account("acme", password)
	helper.config = "docker_config: " + mustWrite(l.t, filepath.Join(l.dir, "config.json"), `{"credHelpers": {"helper.corp": "tide"}}`) + "\n"
	bin := filepath.Join(l.dir, "bin")
	script := mustWrite(l.t, filepath.Join(bin, "docker-credential-tide"),
		"#!/bin/sh\necho '{\"Username\":\"acme\",\"Secret\":\"'\"$(cat "+file+")\"'\"}'\n")
	must(l.t, os.Chmod(script, 0o700))
	l.env = append(l.env, "PATH="+bin+":"+os.Getenv("PATH"))
	helper.front.Guard = helper.gate.Basic("any")
	helper.renew = func() {
		must(l.t, os.WriteFile(file, []byte(hubtest.Marker+"-renewed\n"), 0o600))
		helper.gate.Account("acme", hubtest.Marker+"-renewed")
	}
	l.at(helper, "helper.corp", "", "", nil)

	pod := l.row("any", ".dockerconfigjson", "*.pods.corp", "a.pods.corp")
	dir := filepath.Join(l.dir, "pull-secret")
	secret := func(password string) {
		mustWrite(l.t, filepath.Join(dir, ".dockerconfigjson"), fmt.Sprintf(`{"auths": {"https://*.pods.corp/v1/": {"username": "acme", "password": %q}}}`, password))
		pod.gate.Account("acme", password)
	}
	secret(hubtest.Marker + "-pod")
	pod.config = "docker_config: " + dir + "\n"
	pod.front.Guard = pod.gate.Basic("any")
	pod.renew = func() { secret(hubtest.Marker + "-renewed-pod") }
	l.at(pod, "a.pods.corp", "", "", http.NotFoundHandler())
	return []*hubRow{helper, pod}
}
