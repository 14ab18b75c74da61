// Package cache keeps content that was pulled once so that it is never pulled again: a memory tier and a disk tier
// before a Source, with one download ("flight") of a blob shared by all who ask for it.
//
// Its invariant: no whole answer that ends cleanly has bytes other than those its digest names, and nothing that
// was not proven against its digest is ever kept.
//
// Read source.go first: it is the vocabulary that the other rooms share.
package cache

import (
	"context"
	"io"
	"time"
)

// Kind says what a Ref names.
type Kind uint8

// The four kinds. A manifest and a blob may have equal bytes; that an upstream serves one says nothing of the other.
const (
	KindBlob      Kind = iota
	KindManifest       // an image, an index or an artifact, by tag or by digest
	KindTags           // the list of a repository's tags
	KindReferrers      // the list of what refers to Ref.Digest
)

// String gives the kind's name as logs and metrics spell it.
func (k Kind) String() string {
	switch k {
	case KindBlob:
		return "blob"
	case KindManifest:
		return "manifest"
	case KindTags:
		return "tags"
	default:
		return "referrers"
	}
}

// Ref names one thing in one repository of one upstream registry. It is comparable and always canonical: short names,
// aliases and virtual upstreams are resolved at the door and never seen below it.
type Ref struct {
	Registry string // an upstream's configured name: "docker.io"
	Repo     string // "library/alpine"
	Kind     Kind
	Tag      string // empty when Digest is set
	Digest   Digest // zero when Tag is set, and for KindTags
}

// Mutable reports whether what r names may change: a tag, and the lists.
func (r Ref) Mutable() bool {
	return r.Kind == KindTags || r.Kind == KindReferrers || r.Digest.IsZero()
}

// At is r with its tag replaced by a digest.
func (r Ref) At(d Digest) Ref {
	r.Tag, r.Digest = "", d
	return r
}

// String writes r as people write image names, for logs and errors.
func (r Ref) String() string {
	s := r.Registry + "/" + r.Repo
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if !r.Digest.IsZero() {
		s += "@" + r.Digest.String()
	}
	if r.Mutable() && r.Kind != KindManifest {
		s += " (" + r.Kind.String() + ")"
	}
	return s
}

// Desc says what a Ref turned out to be.
type Desc struct {
	MediaType string // of manifests and lists; empty for blobs, which have no type of their own
	Digest    Digest
	Size      int64 // in bytes; -1: not known yet
}

// Want says which part of the content is wanted, and on what condition.
type Want struct {
	Off, N   int64  // the bytes from Off on; N < 0: to the end
	Known    Digest // of a name: ErrUnchanged if it still is this one
	HeldOnly bool   // from what has landed, at once, or ErrNotHeld: starts nothing, joins nothing, asks nobody
}

// Whole is the Want of one who wants everything.
var Whole = Want{N: -1}

// Answer is what a Source says.
type Answer struct {
	Desc
	Off     int64         // where Body really begins: 0 where a source cannot skip
	AsOf    time.Time     // when the hub last said so; zero: just now. Age is not reset by passing through a chain
	Stale   bool          // older than its source would have liked
	Body    io.ReadCloser // nil where none was wanted or had to be fetched
	Via     string        // the member of the cluster that it came by; "": none
	Fetched bool          // that member did not have it, and has asked the registry
}

// Source is anything that content can be pulled from: a hub, a peer, or the router between them.
//
// Resolve asks what a name is or whether a digest is there: a HEAD, which hands a body over where only a GET could
// answer, as for lists. Open brings content. Tags and Referrers are names, also where a Digest is set: their body is
// the whole list, every page of it. ctx governs the Body too. A Body that ends early or fails says so by an error
// other than io.EOF whenever the source can tell.
//
// Errors are, by errors.Is, the kinds below.
type Source interface {
	Resolve(ctx context.Context, ref Ref, want Want) (Answer, error)
	Open(ctx context.Context, ref Ref, want Want) (Answer, error)
}
