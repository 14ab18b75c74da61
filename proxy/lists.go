package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/tidepool-oci/tidepool/cache"
)

const indexType = "application/vnd.oci.image.index.v1+json"

// tags answers with a page of the list of tags (distribution-spec, "Listing Tags"). The store has the whole list: a
// page is cut from it, so that any client can page by any step, also while the upstream is down.
func (h *Handler) tags(ctx context.Context, a *answer) error {
	n, err := a.ask.count()
	if err != nil {
		return err
	}
	tags, found, err := h.gather(ctx, a)
	if err != nil {
		return err
	}
	page, more := paged(tags, n, a.ask.last.text)
	if more {
		a.set("Link", a.ask.next(n, page[len(page)-1]))
	}
	body, err := json.Marshal(tagList{a.ask.name, append([]string{}, page...)}) // none is [] and not null
	if err != nil {
		return err
	}
	return a.document(found, "application/json", body)
}

type tagList struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

// tagList is every tag that one repository has.
func (h *Handler) tagList(ctx context.Context, ref cache.Ref) ([]string, cache.Found, error) {
	list, found, err := h.list(ctx, ref)
	if err != nil {
		return nil, found, err
	}
	var all tagList
	if err := json.Unmarshal(list, &all); err != nil {
		return nil, found, unreadable(err)
	}
	return all.Tags, found, nil
}

// count is how many tags are wanted at most; negative: all. It sizes nothing: a number beyond the list means its end.
func (a *asked) count() (int, error) {
	if !a.n.given {
		return -1, nil
	}
	n, err := strconv.ParseUint(a.n.text, 10, 31)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, refuse(paramInvalid, "n is %q: want the number of tags to list", a.n.text)
	}
	return int(n), nil // the largest there is where it was out of range
}

// paged is the tags after last in lexical order, at most n of them, and whether there are more.
func paged(tags []string, n int, last string) (page []string, more bool) {
	slices.Sort(tags)
	tags = slices.Compact(tags)
	from, found := slices.BinarySearch(tags, last)
	if found {
		from++
	}
	page = tags[from:]
	if n < 0 || n >= len(page) {
		return page, false
	}
	return page[:n], n > 0
}

// next is the Link to the page after last, by the way that this one was asked for.
func (a *asked) next(n int, last string) string {
	q := "?n=" + strconv.Itoa(n) + "&last=" + url.QueryEscape(last)
	if a.ns.given {
		q += "&ns=" + url.QueryEscape(a.ns.text)
	}
	return "<" + a.path + q + `>; rel="next"`
}

// referrers answers with what refers to a digest (distribution-spec, "Listing Referrers"): an index, also where
// nobody knows the digest.
func (h *Handler) referrers(ctx context.Context, a *answer) error {
	if len(a.ask.places) > 0 {
		if err := h.locate(ctx, a); err != nil {
			return err
		}
	}
	ctx, err := h.turn(ctx, a, a.ask.ref)
	if err != nil {
		return err
	}
	list, found, err := h.list(ctx, a.ask.ref)
	if errors.Is(err, cache.ErrNotFound) {
		list, found, err = []byte(emptyIndex), cache.Found{From: cache.FromUpstream}, nil
	}
	if want := a.ask.artifactType.text; err == nil && want != "" {
		list, err = filter(list, want)
		a.set("Oci-Filters-Applied", "artifactType")
	}
	if err != nil {
		return err
	}
	return a.document(found, indexType, list)
}

const emptyIndex = `{"schemaVersion":2,"mediaType":"` + indexType + `","manifests":[]}`

// filter is the index without the manifests of other artifact types. All else in it stays as it is.
func filter(index []byte, artifactType string) ([]byte, error) {
	var fields map[string]json.RawMessage
	var manifests []json.RawMessage
	if err := json.Unmarshal(index, &fields); err != nil {
		return nil, unreadable(err)
	}
	if err := json.Unmarshal(fields["manifests"], &manifests); err != nil {
		return nil, unreadable(err)
	}
	var err error
	fields["manifests"], err = json.Marshal(slices.DeleteFunc(manifests,
		func(m json.RawMessage) bool { return typeOf(m) != artifactType }))
	if err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

func typeOf(descriptor json.RawMessage) string {
	var d struct {
		ArtifactType string `json:"artifactType"`
	}
	if json.Unmarshal(descriptor, &d) != nil {
		return ""
	}
	return d.ArtifactType
}

// list reads a list whole: it is in memory and of bounded size.
func (h *Handler) list(ctx context.Context, ref cache.Ref) ([]byte, cache.Found, error) {
	b, err := h.Store.Open(ctx, ref, cache.Whole)
	if err != nil {
		return nil, cache.Found{}, err
	}
	defer b.Close()
	return b.Bytes(), b.Found, nil
}

func unreadable(err error) error {
	return fmt.Errorf("the upstream's list cannot be read: %w: %w", err, cache.ErrUnavailable)
}

// document sends a body made from f. Its tag is that of the bytes that go out, since f's may be others.
func (a *answer) document(f cache.Found, mediaType string, body []byte) error {
	digest := cache.Sum(body).String()
	f.MediaType = mediaType
	a.origin(f)
	a.set("Etag", `"`+digest+`"`)
	if matches(a.r.Header["If-None-Match"], digest) {
		a.status = http.StatusNotModified
		return nil
	}
	return a.send(http.StatusOK, body)
}
