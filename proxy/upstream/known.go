package upstream

// site is what is known beforehand of a public registry whose parts have several hosts.
type site struct {
	realms []string // its token servers
	stores []string // where it redirects to
}

// sites are the public registries, by the host that is asked. A registry is in here for the sake of its realms, to
// which its logins may go, or of its stores, which may be reached through a proxy; no entry lets anything lead to a
// private address.
var sites = map[string]site{
	"registry-1.docker.io": {
		realms: []string{"auth.docker.io"},
		stores: []string{"production.cloudflare.docker.com", "production.cloudfront.docker.com", "*.r2.cloudflarestorage.com"},
	},
	"registry.gitlab.com": {
		realms: []string{"gitlab.com"},
		stores: []string{"cdn.registry.gitlab-static.net", "storage.googleapis.com"},
	},
	"docker.elastic.co":         {realms: []string{"docker-auth.elastic.co"}, stores: []string{"storage.googleapis.com"}},
	"registry.digitalocean.com": {realms: []string{"api.digitalocean.com"}},
	"ghcr.io":                   {stores: []string{"pkg-containers.githubusercontent.com"}},
	"quay.io":                   {stores: []string{"*.quay.io"}},
	"gcr.io":                    {stores: []string{"storage.googleapis.com", "*.pkg.dev"}},
	"registry.k8s.io":           {stores: []string{"*.pkg.dev", "*.amazonaws.com", "storage.googleapis.com"}},
	"mcr.microsoft.com":         {stores: []string{"*.data.mcr.microsoft.com"}},
	"public.ecr.aws":            {stores: []string{"*.cloudfront.net"}},
}

// dockerHub is where docker.io is asked, and dockerNames what logins for it are filed under.
const dockerHub = "registry-1.docker.io"

var dockerNames = []string{"index.docker.io", "docker.io", dockerHub}

// site is what is known beforehand of the endpoint: public registries have TLS, at its usual port.
func (e *endpoint) site() site {
	if e.origin.scheme != "https" || e.origin.port != "443" {
		return site{}
	}
	return sites[e.origin.host]
}
