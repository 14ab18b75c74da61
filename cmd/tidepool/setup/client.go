package setup

import (
	"fmt"

	"github.com/tidepool-oci/tidepool/deploy"
)

// client is a program that pulls images and has a file on this machine that says from where.
type client struct {
	file string // slash-separated, from the root
	form form
	next string // what makes the client read it
}

// form is how a kind of file takes a server in. What is not about that server stays as it is, to the byte.
type form interface {
	// merge is text with the server at address in it; text itself where it has that already.
	merge(text, address string) (string, error)
	// remove is text without the server at address; text itself where it has nothing of it.
	remove(text, address string) (string, error)
}

const (
	hostsFile = "/etc/containerd/certs.d/_default/hosts.toml"
	dropIn    = "/etc/containers/registries.conf.d/tidepool.conf"
)

var clients = map[string]client{
	"docker": {"/etc/docker/daemon.json", daemonJSON{}, "docker reads it when told: systemctl reload docker"},
	"containerd": {hostsFile, whole{client: "containerd"}, `containerd reads it at each pull, if its own config.toml says ` +
		`config_path = "/etc/containerd/certs.d"; where that is new: systemctl restart containerd`},
	"nerdctl":  {hostsFile, whole{client: "nerdctl"}, "nerdctl reads it at each pull: nothing is to be reloaded"},
	"podman":   {dropIn, whole{client: "podman"}, "podman, buildah and skopeo read it at each pull: nothing is to be reloaded"},
	"crio":     {dropIn, whole{client: "crio"}, "CRI-O reads it when told: systemctl reload crio"},
	"k3s":      {"/etc/rancher/k3s/registries.yaml", registriesYAML{}, "k3s reads it when it starts: systemctl restart k3s (or k3s-agent)"},
	"buildkit": {"/etc/buildkit/buildkitd.toml", whole{client: "buildkit"}, "buildkitd reads it when it starts: systemctl restart buildkit"},
}

// elsewhere says of the others what to do, as no file of this machine is theirs.
var elsewhere = map[string]string{
	"kind": "kind's nodes are made anew with each cluster and read no file of this machine: give what `tidepool setup kind` prints to kind create cluster --config",
	"helm": "helm knows no mirrors, so there is no file to write: put the server before the chart's name, as `tidepool setup helm` shows",
}

// NoFileError says why nothing can be written for a client, and what to do instead.
type NoFileError struct{ Why string }

func (e NoFileError) Error() string { return e.Why }

// find is the client of that name; fallback is what its file shall say of the registry itself.
func find(name string, fallback bool) (client, error) {
	if c, ok := clients[name]; ok {
		if w, ok := c.form.(whole); ok {
			w.fallback = fallback
			c.form = w
		}
		return c, nil
	}
	if why, ok := elsewhere[name]; ok {
		return client{}, NoFileError{why}
	}
	return client{}, NoFileError{fmt.Sprintf("there is no file of ours for %s: see what `tidepool setup %[1]s` prints", name)}
}

// snippet is what the manual has the client's file say.
func snippet(client string, to deploy.Server) string {
	_, text := deploy.Client(client, to)
	return text
}
