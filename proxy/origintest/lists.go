package origintest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tidepool-oci/tidepool/cache"
)

// The media types of manifests.
const (
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerSchema1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// Descriptor points to content, as manifests do (image spec, descriptor.md).
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       cache.Digest      `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Platform     *Platform         `json:"platform,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// Platform is what an image runs on.
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

// manifestJSON is a manifest or an index as it is written.
type manifestJSON struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        *Descriptor       `json:"config,omitempty"`
	Layers        []Descriptor      `json:"layers,omitempty"`
	Manifests     []Descriptor      `json:"manifests,omitzero"` // an index without any still has the list
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// tags answers a page of the repository's tags, in lexical order.
func (o *Origin) tags(repo *repo, req *Request, r *http.Request) *answer {
	q := r.URL.Query()
	size, err := pageSize(q.Get("n"), o.manners.PageSize)
	if err != nil {
		return refuse(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", err.Error())
	}
	names := slices.Collect(maps.Keys(repo.tags))
	if o.manners.NoReferrers {
		for d := range repo.referrers {
			names = append(names, fallbackTag(d))
		}
	}
	slices.Sort(names)
	names = slices.DeleteFunc(names, func(t string) bool { return t <= q.Get("last") })
	more := size >= 0 && len(names) > size
	if more {
		names = names[:size]
	}
	a := document("application/json", marshal(map[string]any{"name": req.Repo, "tags": append([]string{}, names...)}))
	if more && size > 0 {
		o.link(a, r, url.Values{"n": {strconv.Itoa(size)}, "last": {names[size-1]}})
	}
	return a
}

// pageSize is the smaller of what the client asks for and what the registry gives; -1: no end.
func pageSize(asked string, given int) (int, error) {
	if given == 0 {
		given = -1
	}
	if asked == "" {
		return given, nil
	}
	n, err := strconv.Atoi(asked)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("n=%q is no number of entries", asked)
	}
	if given >= 0 {
		n = min(n, given)
	}
	return n, nil
}

// link names the next page.
func (o *Origin) link(a *answer, r *http.Request, q url.Values) {
	next := r.URL.Path + "?" + q.Encode()
	if o.manners.AbsoluteLinks {
		next = base(r) + next
	}
	a.header.Set("Link", "<"+next+`>; rel="next"`)
}

// referrers answers a page of what refers to a digest.
func (o *Origin) referrers(repo *repo, req *Request, r *http.Request) *answer {
	if o.manners.NoReferrers {
		return refuse(http.StatusNotFound, "NAME_UNKNOWN", "no such page")
	}
	subject, err := cache.ParseDigest(req.Ref)
	if err != nil {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
	}
	q := r.URL.Query()
	found := repo.referring(subject)
	kind := q.Get("artifactType")
	filter := kind != "" && !o.manners.NoFilter
	if filter {
		found = slices.DeleteFunc(found, func(d Descriptor) bool { return d.ArtifactType != kind })
	}
	from, _ := strconv.Atoi(q.Get("from")) // our own: nobody else writes it
	found = found[min(max(from, 0), len(found)):]
	more := o.manners.PageSize > 0 && len(found) > o.manners.PageSize
	if more {
		found = found[:o.manners.PageSize]
	}
	a := document(OCIIndex, index(found))
	if filter {
		a.header.Set("OCI-Filters-Applied", "artifactType")
	}
	if more {
		q.Set("from", strconv.Itoa(from+o.manners.PageSize))
		o.link(a, r, q)
	}
	return a
}

func index(found []Descriptor) []byte {
	return marshal(manifestJSON{SchemaVersion: 2, MediaType: OCIIndex, Manifests: append([]Descriptor{}, found...)})
}

// referring are the manifests of the repository that have d as their subject.
func (r *repo) referring(d cache.Digest) []Descriptor {
	return slices.DeleteFunc(slices.Clone(r.referrers[d]), func(x Descriptor) bool {
		_, held := r.manifests[x.Digest]
		return !held
	})
}

// refer notes c's subject, where it has one.
func (r *repo) refer(mediaType string, c *Content) {
	var m manifestJSON
	if c.Size() > 4<<20 || json.Unmarshal(c.Bytes(), &m) != nil || m.Subject == nil {
		return
	}
	d := Descriptor{
		MediaType: mediaType, Digest: c.Digest(), Size: c.Size(),
		ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	}
	if d.ArtifactType == "" && m.Config != nil {
		d.ArtifactType = m.Config.MediaType
	}
	list := r.referrers[m.Subject.Digest]
	if !slices.ContainsFunc(list, func(x Descriptor) bool { return x.Digest == d.Digest }) {
		r.referrers[m.Subject.Digest] = append(list, d)
	}
}

// fallbackTag is where the referrers of d are listed without the API (distribution spec, "Referrers Tag Schema").
func fallbackTag(d cache.Digest) string { return d.Algorithm() + "-" + d.Hex() }

// fallback makes the list that such a tag names.
func (r *repo) fallback(tag string) (cache.Digest, bool) {
	algorithm, hex, _ := strings.Cut(tag, "-")
	d, err := cache.ParseDigest(algorithm + ":" + hex)
	found := r.referring(d)
	if err != nil || len(found) == 0 {
		return cache.Digest{}, false
	}
	c := Bytes(index(found))
	r.manifests[c.Digest()] = manifest{OCIIndex, c}
	return c.Digest(), true
}

// negotiate does what registries do to clients that do not accept the type of the manifest d: those that asked for a
// list by tag get the image for linux/amd64, the others nothing.
func (r *repo) negotiate(req *http.Request, d cache.Digest, m manifest, tagged bool) (cache.Digest, manifest, *answer) {
	refusal := refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "there is one of type "+m.mediaType+", which is not accepted")
	switch {
	case accepts(req, m.mediaType):
		return d, m, nil
	case m.mediaType == OCIIndex || m.mediaType == OCIManifest:
		return d, m, refusal
	case !tagged:
		return d, m, nil
	case m.mediaType == DockerList && accepts(req, DockerManifest):
		child, ok := r.child(m)
		if !ok {
			return d, m, refusal
		}
		return child, r.manifests[child], nil
	case m.mediaType == DockerList || m.mediaType == DockerManifest:
		return d, m, refusal
	}
	return d, m, nil
}

func accepts(r *http.Request, mediaType string) bool {
	for _, line := range r.Header["Accept"] {
		for one := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(one, ";")
			if strings.TrimSpace(name) == mediaType {
				return true
			}
		}
	}
	return false
}

// child is the image in a list that those get who know no lists.
func (r *repo) child(list manifest) (cache.Digest, bool) {
	var m manifestJSON
	if json.Unmarshal(list.content.Bytes(), &m) != nil {
		return cache.Digest{}, false
	}
	for _, d := range m.Manifests {
		if _, held := r.manifests[d.Digest]; held && d.Platform != nil && d.Platform.Architecture == "amd64" {
			return d.Digest, true
		}
	}
	return cache.Digest{}, false
}
