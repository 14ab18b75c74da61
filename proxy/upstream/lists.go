package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

const (
	maxList      = 16 << 20 // bytes of all pages together: some hundred thousand tags
	maxPages     = 1000
	listTime     = 10      // times what a document may take, for all pages together
	maxLink      = 2 << 10 // bytes of the query of a link to the next page
	maxReferrers = 10000   // as many as an index may list
	pageSize     = "n=1000"
)

// list brings a whole list as a document of our own making, so that equal lists have equal digests.
func (h *hub) list(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	a, err := h.try(ctx, ref, func(e *endpoint) (cache.Answer, error) {
		if ref.Kind == cache.KindTags {
			return h.tags(ctx, e, ref)
		}
		return h.referrers(ctx, e, ref)
	})
	if ref.Kind == cache.KindReferrers && errors.Is(err, cache.ErrNotFound) {
		a, err = listAnswer(typeIndex, newIndex(nil)) // a digest that nothing refers to, known or not (spec, "Listing Referrers")
	}
	if err == nil && a.Digest == want.Known {
		return cache.Answer{}, refused(cache.ErrUnchanged, "%s: unchanged", ref)
	}
	return a, err
}

// tags gathers every page of a repository's tags, in the order the spec asks for.
func (h *hub) tags(ctx context.Context, e *endpoint, ref cache.Ref) (cache.Answer, error) {
	all := []string{}
	var since time.Time
	q := query{method: http.MethodGet, repo: ref.Repo, tail: "tags/list", params: pageSize, accept: "application/json"}
	err := h.pages(ctx, e, q, func(doc *document) error {
		var page struct{ Tags []string }
		if err := json.Unmarshal(doc.body, &page); err != nil {
			return broken("%s sent a list of tags that is none", e.origin)
		}
		for _, t := range page.Tags {
			if isTag(t) {
				all = append(all, t)
			}
		}
		since = older(since, asOf(doc.header, time.Now()))
		return nil
	})
	if err != nil {
		return cache.Answer{}, err
	}
	slices.Sort(all)
	a, err := listAnswer("application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{ref.Repo, slices.Compact(all)})
	a.AsOf = since
	return a, err
}

// descriptor is what a list of referrers says of one (image spec, "OCI Content Descriptors").
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// index is an image index that lists referrers.
type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

func newIndex(all []descriptor) index {
	if all == nil {
		all = []descriptor{}
	}
	return index{SchemaVersion: 2, MediaType: typeIndex, Manifests: all}
}

// referrers gathers what refers to a digest: from the registry's API or, where it has none, from the index that clients
// keep under a tag for it (spec, "Unavailable Referrers API"). Mostly there is none: the tag is asked for by HEAD first,
// which counts as no pull.
func (h *hub) referrers(ctx context.Context, e *endpoint, ref cache.Ref) (cache.Answer, error) {
	a, err := h.gather(ctx, e, query{
		method: http.MethodGet, repo: ref.Repo, tail: "referrers/" + ref.Digest.String(), accept: typeIndex,
	})
	if err == nil || !doubtful(err) && !errors.Is(err, errNoIndex) {
		return a, err
	}
	tag := cache.Ref{Repo: ref.Repo, Tag: ref.Digest.Algorithm() + "-" + ref.Digest.Hex()}
	q := manifestQuery(tag)
	q.method = http.MethodHead
	if _, err = h.headManifest(ctx, e, tag, q); err == nil {
		a, err = h.gather(ctx, e, manifestQuery(tag))
	}
	if errors.Is(err, errNoIndex) {
		return listAnswer(typeIndex, newIndex(nil)) // a tag of that name that is something else
	}
	return a, err
}

// errNoIndex is an answer of another type than an index: of a registry that does not know the API.
var errNoIndex = errors.New("no index")

func (h *hub) gather(ctx context.Context, e *endpoint, q query) (cache.Answer, error) {
	var all []descriptor
	var since time.Time
	seen := map[string]bool{}
	err := h.pages(ctx, e, q, func(doc *document) error {
		var page index
		switch err := json.Unmarshal(doc.body, &page); {
		case mediaType(doc.header) != typeIndex:
			return errNoIndex
		case err != nil:
			return broken("%s sent a list of referrers that is none", e.origin)
		}
		for _, d := range page.Manifests {
			if _, err := cache.ParseDigest(d.Digest); err == nil && !seen[d.Digest] {
				seen[d.Digest] = true
				all = append(all, d)
			}
		}
		since = older(since, asOf(doc.header, time.Now()))
		if len(all) > maxReferrers {
			return refused(cache.ErrUnsupported, "%s lists more than %d referrers", e.origin, maxReferrers)
		}
		return nil
	})
	if err != nil {
		return cache.Answer{}, err
	}
	a, err := listAnswer(typeIndex, newIndex(all))
	a.AsOf = since
	return a, err
}

// pages makes q and the queries for the pages that follow, and hands each to add.
func (h *hub) pages(ctx context.Context, e *endpoint, q query, add func(*document) error) error {
	t := listTime * h.shared.Timeouts.Document
	ctx, cancel := context.WithTimeoutCause(ctx, t, broken("%s did not finish its list within %v", e.origin, t))
	defer cancel()
	seen := map[string]bool{q.params: true}
	left := int64(maxList)
	for range maxPages {
		doc, err := h.document(ctx, e, q, left)
		if errors.Is(err, cache.ErrUnsupported) {
			return tooLarge(e, maxList)
		}
		if q.params == pageSize && doubtful(err) && !errors.Is(err, cache.ErrNotFound) {
			q.params = "" // some refuse pages of this size, or to be told one
			continue
		}
		if err != nil {
			return err
		}
		if err := add(doc); err != nil {
			return err
		}
		left -= int64(len(doc.body))
		next, err := nextPage(doc.header)
		switch {
		case err != nil:
			return broken("%s: %v", e.origin, err)
		case next == "":
			return nil
		case seen[next] || len(next) > maxLink:
			return broken("%s lists its pages in a circle", e.origin)
		}
		seen[next], q.params = true, next
	}
	return refused(cache.ErrUnsupported, "%s has more than %d pages of it", e.origin, maxPages)
}

// nextPage is the query of the link to the next page (RFC 8288); empty on the last. Only that is taken from it: the next
// page is asked of the same endpoint, whatever host and path the link names, which behind a proxy are often wrong.
func nextPage(header http.Header) (query string, err error) {
	for _, v := range header.Values("Link") {
		for v != "" {
			_, after, found := strings.Cut(v, "<")
			target, params, closed := strings.Cut(after, ">")
			if !found || !closed {
				break
			}
			params, rest, _ := strings.Cut(params, "<")
			if isNext(params) {
				u, err := url.Parse(target)
				if err != nil {
					return "", errors.New("the link to the next page is no address")
				}
				return u.RawQuery, nil
			}
			v = "<" + rest
		}
	}
	return "", nil
}

func isNext(params string) bool {
	for p := range strings.FieldsFuncSeq(params, func(r rune) bool { return r == ';' || r == ',' }) {
		name, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "rel") && strings.EqualFold(strings.Trim(strings.TrimSpace(value), `"`), "next") {
			return true
		}
	}
	return false
}

// listAnswer is doc as a list.
func listAnswer(mediaType string, doc any) (cache.Answer, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return cache.Answer{}, err
	}
	return cache.Answer{
		Desc: cache.Desc{MediaType: mediaType, Digest: cache.Sum(b), Size: int64(len(b))},
		Body: io.NopCloser(bytes.NewReader(b)),
	}, nil
}

// older is the earlier of two times of which zero means now.
func older(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
