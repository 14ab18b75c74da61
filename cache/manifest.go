package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Media types that are told from each other by content; see the image spec, media-types.md.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeImage    = "application/vnd.oci.image.manifest.v1+json"
	typeList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeSchema2  = "application/vnd.docker.distribution.manifest.v2+json"
	typeSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	typeSigned1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	typeArtifact = "application/vnd.oci.artifact.manifest.v1+json"
)

// parse reads data as kind asks. A manifest's media type and children are taken from its bytes, never from what the
// source calls it: what the same bytes mean must not depend on who sent them.
func parse(kind Kind, data []byte) (*document, error) {
	doc := &document{Desc: Desc{Size: int64(len(data))}, data: data}
	switch kind {
	case KindManifest:
		return doc, doc.parseManifest()
	case KindReferrers:
		doc.MediaType = typeIndex
	case KindTags:
		doc.MediaType = "application/json"
	}
	if !json.Valid(data) {
		return nil, fmt.Errorf("no JSON: %w", ErrUnavailable)
	}
	return doc, nil
}

// manifest is the part of the manifests' forms that says what kind one is and what it contains.
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config"`
	Layers        []descriptor `json:"layers"`
	Blobs         []descriptor `json:"blobs"`
	Manifests     []descriptor `json:"manifests"`
}

type descriptor struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

func (doc *document) parseManifest() error {
	keys, err := topKeys(doc.data)
	if err != nil {
		return fmt.Errorf("no manifest: %w: %w", err, ErrUnsupported)
	}
	var m manifest
	if err := json.Unmarshal(doc.data, &m); err != nil {
		return fmt.Errorf("no manifest: %w: %w", err, ErrUnsupported)
	}
	if doc.MediaType, err = m.kind(keys); err != nil {
		return err
	}
	doc.untyped = m.MediaType == ""
	doc.children, err = m.children()
	return err
}

// topKeys returns the names of data's members. One that is there twice, or that differs from one we look for by case
// alone, would be read differently by different programs.
func topKeys(data []byte) (map[string]bool, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("no JSON object")
	}
	keys := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, _ := t.(string)
		if keys[key] {
			return nil, fmt.Errorf("%q is there twice", key)
		}
		keys[key] = true
		for _, want := range []string{"schemaVersion", "mediaType", "config", "layers", "blobs", "manifests"} {
			if key != want && strings.EqualFold(key, want) {
				return nil, fmt.Errorf("%q is not %q", key, want)
			}
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// kind is the media type that the content is.
func (m manifest) kind(keys map[string]bool) (string, error) {
	image := keys["layers"] || keys["config"] || keys["blobs"]
	switch {
	case m.SchemaVersion == 1 || m.MediaType == typeSchema1 || m.MediaType == typeSigned1:
		return "", fmt.Errorf("an image manifest of schema 1, whose digest is not that of its bytes; "+
			"push the image again with a current client: %w", ErrUnsupported)
	case image && keys["manifests"]:
		return "", fmt.Errorf("both an image and an index: %w", ErrUnsupported)
	case (m.MediaType == typeIndex || m.MediaType == typeList) && image,
		(m.MediaType == typeImage || m.MediaType == typeSchema2 || m.MediaType == typeArtifact) && keys["manifests"]:
		return "", fmt.Errorf("content is not of its media type %q: %w", m.MediaType, ErrUnsupported)
	case m.MediaType != "" && !mediaType(m.MediaType):
		return "", fmt.Errorf("%q is no media type of a manifest: %w", m.MediaType, ErrUnsupported)
	case m.MediaType != "":
		return m.MediaType, nil
	case keys["manifests"]:
		return typeIndex, nil
	case image:
		return typeImage, nil
	default:
		return "", fmt.Errorf("no manifest: neither config nor layers nor manifests: %w", ErrUnsupported)
	}
}

func (m manifest) children() (all []child, err error) {
	add := func(kind Kind, list []descriptor) {
		for _, d := range list {
			g, e := ParseDigest(d.Digest)
			if e != nil || d.Size < 0 {
				continue // of an algorithm or a form that cannot be asked for here
			}
			all = append(all, child{kind, g, d.Size})
		}
	}
	if m.Config != nil {
		add(KindBlob, []descriptor{*m.Config})
	}
	add(KindBlob, m.Layers)
	add(KindBlob, m.Blobs)
	add(KindManifest, m.Manifests)
	if len(all) > mostChildren {
		return nil, fmt.Errorf("%d descriptors, more than %d: %w", len(all), mostChildren, ErrUnsupported)
	}
	return all, nil
}

// mediaType reports whether s may be a manifest's media type (RFC 6838, section 4.2): it goes into a header.
func mediaType(s string) bool {
	sub, ok := strings.CutPrefix(s, "application/")
	return ok && sub != "" && len(sub) <= 127 && strings.Trim(strings.ToLower(sub), "abcdefghijklmnopqrstuvwxyz0123456789!#$&-^_.+") == ""
}

// agrees compares what the content is with what the source calls it. A source that calls it another manifest type is
// mistaken or lies (CVE-2021-41190); one that has no idea of types calls it JSON, text or bytes.
func (doc *document) agrees(called string) error {
	wrong := called != doc.MediaType
	switch called {
	case typeSchema1, typeSigned1:
		return fmt.Errorf("an image manifest of schema 1: %w", ErrUnsupported)
	case typeIndex, typeList:
		wrong = wrong && !(doc.untyped && doc.MediaType == typeIndex)
	case typeImage, typeSchema2, typeArtifact:
		wrong = wrong && !(doc.untyped && doc.MediaType == typeImage)
	default:
		return nil
	}
	if wrong {
		return fmt.Errorf("content is %q, the upstream says %q: %w", doc.MediaType, called, ErrUnsupported)
	}
	return nil
}
