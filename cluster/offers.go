package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// What members offer each other to keep, as documents in JSON. Whoever is offered something decides, and fetches it.
//
//	POST /v1/offer   offer → lacking   which of these do you lack?
//	POST /v1/take    offer of one      take it; the answer comes when it has landed
//	POST /v1/names   []named           what names stand for
//	POST /v1/pin     pinned            keep this, and all of it, whatever comes
//	POST /v1/pinned  pinQuestion → pinAnswer   what have you pinned of this?
const (
	offerPath = "/v1/offer"
	takePath  = "/v1/take"
	namesPath = "/v1/names"
	pinPath   = "/v1/pin"

	// mostThings are in one offer: some 200 bytes each.
	mostThings = 500
	// mostReply is the longest document that answers: what is pinned of some scopes.
	mostReply = 2 << 20
)

type offer struct {
	Things []thing `json:"things"`
	Hurry  bool    `json:"hurry,omitempty"` // who offers it will not be there for long, or has it alone
}

type lacking struct {
	Lacks []int `json:"lacks"`          // which ones
	Full  bool  `json:"full,omitempty"` // more is lacking than there is room for
}

type thing struct {
	Registry string `json:"registry"`
	Repo     string `json:"repo"`
	Kind     string `json:"kind"`
	Tag      string `json:"tag,omitempty"`
	Digest   string `json:"digest,omitempty"`
	Size     int64  `json:"size"`
	Callers  bool   `json:"callers,omitempty"` // its registry is asked with the callers' own logins
}

func thingOf(ref cache.Ref, size int64) thing {
	x := thing{Registry: ref.Registry, Repo: ref.Repo, Kind: ref.Kind.String(), Tag: ref.Tag, Size: size}
	if !ref.Digest.IsZero() {
		x.Digest = ref.Digest.String()
	}
	return x
}

// ref reads what x is: a blob or a manifest; unless it has a tag, by digest.
func (x thing) ref() (cache.Ref, error) {
	ref, err := x.read()
	if err == nil && ref.Kind != cache.KindBlob && ref.Kind != cache.KindManifest {
		err = errQuestion
	}
	return ref, err
}

// read reads what x is, whatever its kind.
func (x thing) read() (ref cache.Ref, err error) {
	ref = cache.Ref{Registry: x.Registry, Repo: x.Repo, Tag: x.Tag}
	if ref.Kind, err = cache.ParseKind(x.Kind); err != nil {
		return ref, err
	}
	if ref.Digest, err = digest(x.Digest); err != nil {
		return ref, err
	}
	if x.Size < 0 {
		return ref, errQuestion
	}
	return ref, ref.Check()
}

// named is what a name stands for.
type named struct {
	Registry string    `json:"registry"`
	Repo     string    `json:"repo"`
	Tag      string    `json:"tag"`
	Digest   string    `json:"digest"`
	Size     int64     `json:"size"`
	Type     string    `json:"type,omitempty"`
	AsOf     time.Time `json:"as_of"` // when the registry said so
}

func (n named) ref() (cache.Ref, error) {
	ref := cache.Ref{Registry: n.Registry, Repo: n.Repo, Kind: cache.KindManifest, Tag: n.Tag}
	if n.Size < 0 {
		return ref, errQuestion
	}
	return ref, ref.Check()
}

// pinned is a pin.
type pinned struct {
	Image thing     `json:"image"`
	Owner string    `json:"owner"`
	At    time.Time `json:"at"`
	Parts []part    `json:"parts"`
}

type part struct {
	thing
	Is   string    `json:"is,omitempty"` // of a name: the digest it stood for
	Type string    `json:"type,omitempty"`
	AsOf time.Time `json:"as_of,omitzero"`
}

func pinnedOf(p cache.Pin) pinned {
	doc := pinned{Image: thingOf(p.Ref, 0), Owner: p.Owner, At: p.At, Parts: make([]part, len(p.Parts))}
	for i, x := range p.Parts {
		doc.Parts[i] = part{thing: thingOf(x.Ref, x.Size), Type: x.MediaType, AsOf: x.AsOf}
		if x.Ref.Mutable() {
			doc.Parts[i].Is = x.Digest.String()
		}
	}
	return doc
}

// pin reads doc; what it says is checked where it is pinned.
func (doc pinned) pin() (p cache.Pin, err error) {
	p = cache.Pin{Owner: plain(doc.Owner), At: doc.At}
	if p.Ref, err = doc.Image.ref(); err != nil || p.Owner == "" || len(p.Owner) > maxOwner || p.At.IsZero() {
		return p, errors.Join(errQuestion, err)
	}
	for _, x := range doc.Parts {
		y := cache.Part{AsOf: x.AsOf, Desc: cache.Desc{MediaType: plain(x.Type), Size: x.Size}}
		if y.Ref, err = x.read(); err != nil {
			return p, err
		}
		if y.Digest = y.Ref.Digest; y.Ref.Mutable() {
			if y.Digest, err = cache.ParseDigest(x.Is); err != nil {
				return p, err
			}
		}
		p.Parts = append(p.Parts, y)
	}
	return p, nil
}

// maxOwner is the longest name of who pins: a member's, and what it is called there.
const maxOwner = 2*maxName + 16

// post tells the member something and reads its answer into out. An error that is no errMember is its answer.
func (x *remote) post(ctx context.Context, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return x.exchangeJSON(ctx, http.MethodPost, path, b, out)
}

func (x *remote) exchangeJSON(ctx context.Context, method, path string, b []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+x.member.Addr+path, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errMember, x.member.Name, err)
	}
	res, err := x.do(req)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errMember, x.member.Name, err)
	}
	b, err = io.ReadAll(io.LimitReader(res.Body, mostReply))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return fmt.Errorf("%w: %s: %w", errMember, x.member.Name, err)
	}
	if res.StatusCode != http.StatusOK {
		return readFailure(b)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%w: %s: %w", errMember, x.member.Name, err)
	}
	return nil
}
