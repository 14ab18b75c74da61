package origintest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// BuildArtifact makes up something that is no image and refers to subject (image spec, "Guidelines for Artifact
// Usage"): a signature, an SBOM. Its config is the spec's empty one.
func BuildArtifact(subject Descriptor, artifactType string, payload ...*Content) *Image {
	s := Spec{}
	v := Variant{Config: s.item("application/vnd.oci.empty.v1+json", Bytes([]byte("{}")))}
	// Only what identifies the subject: where it came from may have said more.
	subject = Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	m := manifestJSON{
		SchemaVersion: 2, MediaType: OCIManifest, ArtifactType: artifactType,
		Config: &v.Config.Descriptor, Subject: &subject,
	}
	for _, c := range payload {
		layer := s.item("application/octet-stream", c)
		v.Layers = append(v.Layers, layer)
		m.Layers = append(m.Layers, layer.Descriptor)
	}
	if len(payload) == 0 {
		m.Layers = []Descriptor{v.Config.Descriptor}
	}
	v.Manifest = s.item(OCIManifest, Bytes(marshal(m)))
	img := &Image{Top: v.Manifest}
	img.add(v)
	return img
}

// PutArtifact makes up an artifact and puts it beside its subject, without a tag.
func (o *Origin) PutArtifact(name string, subject Descriptor, artifactType string, payload ...*Content) *Image {
	img := BuildArtifact(subject, artifactType, payload...)
	o.Put(name, "", img)
	return img
}

// PutSchema1 puts a signed manifest of the oldest schema under a tag. Its digest is not that of its bytes but of what
// was signed, as it was with real ones; the signature is none.
func (o *Origin) PutSchema1(name, tag string) *Content {
	payload := fmt.Appendf(nil, `{
   "schemaVersion": 1,
   "name": %q,
   "tag": %q,
   "architecture": "amd64",
   "fsLayers": [],
   "history": []
}`, name, tag)
	head := bytes.TrimSuffix(payload, []byte("\n}"))
	protected := marshal(map[string]any{
		"formatLength": len(head), "formatTail": base64.RawURLEncoding.EncodeToString([]byte("\n}")),
	})
	signatures := marshal([]map[string]any{{
		"header":    map[string]any{"alg": "ES256"},
		"signature": base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"protected": base64.RawURLEncoding.EncodeToString(protected),
	}})
	signed := fmt.Appendf(nil, "%s,\n   \"signatures\": %s\n}", head, signatures)
	if !json.Valid(signed) {
		panic("a schema 1 manifest that is not JSON")
	}
	return o.PutManifest(name, tag, DockerSchema1, Bytes(signed).Named(Bytes(payload).Digest()))
}
