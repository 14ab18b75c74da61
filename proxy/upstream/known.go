package upstream

import "regexp"

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

// wideSites are the public registries that have a host for each account, region or customer.
var wideSites = []struct {
	host *regexp.Regexp
	site site
}{
	{regexp.MustCompile(`^\d{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)$`),
		site{stores: []string{"*.amazonaws.com", "*.amazonaws.com.cn"}}}, // buckets of S3, of the registry's region
	{regexp.MustCompile(`^[a-z0-9-]+(\.pkg\.dev|\.gcr\.io)$`), site{stores: []string{"storage.googleapis.com", "*.pkg.dev"}}},
	{regexp.MustCompile(`^[a-z0-9-]+\.azurecr\.(io|cn|us)$`),
		site{stores: []string{"*.blob.core.windows.net", "*.data.azurecr.io", "*.blob.core.chinacloudapi.cn", "*.data.azurecr.cn",
			"*.blob.core.usgovcloudapi.net", "*.data.azurecr.us"}}},
}

// dockerHub is where docker.io is asked, and dockerNames what logins for it are filed under.
const dockerHub = "registry-1.docker.io"

var dockerNames = []string{"index.docker.io", "docker.io", dockerHub}

// site is what is known beforehand of the endpoint: public registries have TLS, at its usual port.
func (e *endpoint) site() site {
	if e.origin.scheme != "https" || e.origin.port != "443" {
		return site{}
	}
	if s, ok := sites[e.origin.host]; ok {
		return s
	}
	for _, w := range wideSites {
		if w.host.MatchString(e.origin.host) {
			return w.site
		}
	}
	return site{}
}
