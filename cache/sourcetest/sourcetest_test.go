package sourcetest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cache/sourcetest"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// fill puts the stock into an origin.
func fill(o *origintest.Origin, s *sourcetest.Stock) {
	for _, r := range s.Repos {
		for _, b := range r.Blobs {
			o.PutBlob(r.Name, origintest.Bytes(b.Data).Named(b.Digest))
		}
		for _, m := range r.Manifests {
			o.PutManifest(r.Name, "", m.MediaType, origintest.Bytes(m.Data).Named(m.Digest))
			for _, tag := range m.Tags {
				o.Tag(r.Name, tag, m.Digest)
			}
		}
	}
}

func TestPlainSource(t *testing.T) {
	for name, spoil := range map[string]func(*origintest.Origin){
		"as it is": func(*origintest.Origin) {},
		"by pages": func(o *origintest.Origin) { o.Behave(origintest.Manners{PageSize: 2}) },
		"no range": func(o *origintest.Origin) { o.When(origintest.Blob).NoRange() },
	} {
		t.Run(name, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T, s *sourcetest.Stock) cache.Source {
				o := origintest.New()
				fill(o, s)
				spoil(o)
				hub := origintest.Serve(t, o)
				client := hub.Client()
				t.Cleanup(client.CloseIdleConnections)
				return source{hub.URL, client}
			})
		})
	}
}

// source is the least that is a cache.Source: a hub that nothing ever happens to.
type source struct {
	base   string
	client *http.Client
}

func (s source) Resolve(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	if ref.Kind == cache.KindTags || ref.Kind == cache.KindReferrers {
		return s.Open(ctx, ref, want)
	}
	a, err := s.ask(ctx, http.MethodHead, ref, want)
	if err == nil {
		a.Body.Close()
		a.Body = nil
	}
	return a, err
}

func (s source) Open(ctx context.Context, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	switch ref.Kind {
	case cache.KindTags:
		return s.list(ctx, ref, "tags/list", "tags", want)
	case cache.KindReferrers:
		return s.list(ctx, ref, "referrers/"+ref.Digest.String(), "manifests", want)
	default:
		return s.ask(ctx, http.MethodGet, ref, want)
	}
}

// ask asks for a manifest or a blob.
func (s source) ask(ctx context.Context, method string, ref cache.Ref, want cache.Want) (cache.Answer, error) {
	if want.HeldOnly {
		return cache.Answer{}, cache.ErrNotHeld
	}
	name := ref.Tag
	if name == "" {
		name = ref.Digest.String()
	}
	header := http.Header{"Accept": {origintest.OCIIndex, origintest.OCIManifest}}
	if ref.Kind == cache.KindBlob && (want.Off > 0 || want.N >= 0) {
		header.Set("Range", fmt.Sprintf("bytes=%d-", want.Off))
		if want.N >= 0 {
			header.Set("Range", fmt.Sprintf("bytes=%d-%d", want.Off, want.Off+want.N-1))
		}
	}
	resp, err := s.do(ctx, method, fmt.Sprintf("%s/v2/%s/%ss/%s", s.base, ref.Repo, ref.Kind, name), header)
	if err != nil {
		return cache.Answer{}, err
	}
	d, err := cache.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
	if err == nil && d == want.Known {
		err = cache.ErrUnchanged
	}
	if err != nil {
		resp.Body.Close()
		return cache.Answer{}, err
	}
	a := cache.Answer{Desc: cache.Desc{Digest: d, Size: resp.ContentLength}, Body: resp.Body}
	if ref.Kind == cache.KindManifest {
		a.MediaType = resp.Header.Get("Content-Type")
	}
	if resp.StatusCode == http.StatusPartialContent {
		var last int64
		_, err = fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &a.Off, &last, &a.Size)
	}
	return a, err
}

func (s source) do(ctx context.Context, method, url string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := s.client.Do(req)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		err = cache.ErrNotFound
	case resp.StatusCode/100 != 2:
		err = fmt.Errorf("%s: %w", resp.Status, cache.ErrUnavailable)
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// list joins the pages of a list.
func (s source) list(ctx context.Context, ref cache.Ref, path, key string, want cache.Want) (cache.Answer, error) {
	var whole map[string]any
	var mediaType string
	all := []any{}
	for next := "/v2/" + ref.Repo + "/" + path; next != ""; {
		resp, err := s.do(ctx, http.MethodGet, s.base+next, http.Header{})
		if err != nil {
			return cache.Answer{}, err
		}
		whole = nil
		err = json.NewDecoder(resp.Body).Decode(&whole)
		resp.Body.Close()
		if err != nil {
			return cache.Answer{}, err
		}
		all = append(all, whole[key].([]any)...)
		mediaType = resp.Header.Get("Content-Type")
		next, _, _ = strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
		if _, err := url.Parse(next); err != nil {
			return cache.Answer{}, err
		}
	}
	whole[key] = all
	b, err := json.Marshal(whole)
	if err != nil {
		return cache.Answer{}, err
	}
	a := cache.Answer{
		Desc: cache.Desc{MediaType: mediaType, Digest: cache.Sum(b), Size: int64(len(b))},
		Body: io.NopCloser(bytes.NewReader(b)),
	}
	if a.Digest == want.Known {
		return cache.Answer{}, cache.ErrUnchanged
	}
	return a, nil
}
