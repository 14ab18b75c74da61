package upstream_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// tagsOf reads a list of tags.
func tagsOf(t testing.TB, h cache.Source) (cache.Answer, []string) {
	t.Helper()
	a, b, err := slurp(soon(t), h, tagsRef(), cache.Whole)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Name string
		Tags []string
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Name != repo || doc.Tags == nil {
		t.Fatalf("%s: %v", b, err)
	}
	if a.MediaType != "application/json" || a.Digest != cache.Sum(b) || a.Size != int64(len(b)) {
		t.Errorf("%+v", a)
	}
	return a, doc.Tags
}

// However a hub pages its tags, the list is the same, byte for byte.
func TestTags(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "", origintest.Spec{})
	var want []string
	for i := range 2500 {
		want = append(want, fmt.Sprintf("v%d", i))
		o.Tag(repo, want[i], img.Top.Digest)
	}
	slices.Sort(want)
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	var digest cache.Digest
	for _, m := range []origintest.Manners{{}, {PageSize: 100}, {PageSize: 100, AbsoluteLinks: true}} {
		o.Behave(m)
		a, got := tagsOf(t, h)
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %d tags", m, len(got))
		}
		if digest != (cache.Digest{}) && a.Digest != digest {
			t.Errorf("%+v: another digest", m)
		}
		digest = a.Digest
	}
	if r, err := h.Resolve(t.Context(), tagsRef(), cache.Whole); err != nil || r.Digest != digest || r.Body == nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestNoTags(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "", origintest.Spec{})
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	if _, got := tagsOf(t, h); len(got) != 0 {
		t.Errorf("%q", got)
	}
	ref := tagsRef()
	ref.Repo = "nobody/knows"
	_, err := h.Resolve(t.Context(), ref, cache.Whole)
	wantErr(t, err, cache.ErrNotFound)
}

// tagServer answers pages of tags with links of all sorts.
func tagServer(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) *upstream.Hubs {
	return hubs(t, upstream.Options{}, upstream.Config{Endpoints: []string{raw(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer(w, r)
	})}})
}

// A link leads to the next page of the same list at the same endpoint, and nowhere else.
func TestLinksStayAtTheEndpoint(t *testing.T) {
	evil := origintest.New()
	e := origintest.Serve(t, evil)
	for link, follow := range map[string]bool{
		`</v2/library/app/tags/list?n=1&last=a>; rel="next"`:               true,
		`<?n=1&last=a>; rel=next`:                                          true,
		`<list?n=1&last=a>;rel="next"`:                                     true,
		`<http://internal:5000/v2/library/app/tags/list?last=a>; rel=next`: true,
		`<` + e.URL + `/v2/library/app/tags/list?last=a>; rel="next"`:      true,
		`</v2/secret/app/tags/list?last=a>; rel="next"`:                    true,
		`<x?y=z>; rel="prev", <x?last=a>; rel="next"`:                      true,
		`<x?y=z>; title="a,b;c", <x?last=a>; REL="Next"; title=x`:          true,
		`<x?last=a>; rel="prev"`:                                           false,
		`<x?last=a>`:                                                       false,
		`<>; rel="next"`:                                                   false,
		`x?last=a; rel="next"`:                                             false,
		``:                                                                 false,
	} {
		t.Run(link, func(t *testing.T) {
			h := tagServer(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/library/app/tags/list" {
					t.Errorf("asked for %s", r.URL)
				}
				if r.URL.Query().Get("last") == "a" {
					fmt.Fprint(w, `{"tags":["b"]}`)
					return
				}
				w.Header().Set("Link", link)
				fmt.Fprint(w, `{"tags":["a"]}`)
			})
			if _, got := tagsOf(t, h); len(got) == 2 != follow {
				t.Errorf("%q", got)
			}
		})
	}
	if n := evil.Count(); n != 0 {
		t.Errorf("%d requests elsewhere", n)
	}
}

// Lists end: in pages, in bytes, in circles.
func TestListsAreBounded(t *testing.T) {
	pages := 0
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		kind   error
		says   string
	}{
		"a circle": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `<?last=a>; rel="next"`)
			fmt.Fprint(w, `{"tags":["a"]}`)
		}, cache.ErrUnavailable, "circle"},
		"a circle of two": {func(w http.ResponseWriter, r *http.Request) {
			next := map[string]string{"": "a", "a": "b", "b": "a"}[r.URL.Query().Get("last")]
			w.Header().Set("Link", `<?last=`+next+`>; rel="next"`)
			fmt.Fprint(w, `{"tags":["a"]}`)
		}, cache.ErrUnavailable, "circle"},
		"no end": {func(w http.ResponseWriter, r *http.Request) {
			pages++
			w.Header().Set("Link", fmt.Sprintf(`<?last=%d>; rel="next"`, pages))
			fmt.Fprint(w, `{"tags":[]}`)
		}, cache.ErrUnsupported, "1000 pages"},
		"a page too large": {func(w http.ResponseWriter, r *http.Request) {
			for range 20 {
				fmt.Fprint(w, strings.Repeat(" ", 1<<20))
			}
		}, cache.ErrUnsupported, "16 MiB"},
		"pages too large": {func(w http.ResponseWriter, r *http.Request) {
			pages++
			w.Header().Set("Link", fmt.Sprintf(`<?last=%d>; rel="next"`, pages))
			fmt.Fprint(w, strings.Repeat(" ", 5<<20), `{}`)
		}, cache.ErrUnsupported, "16 MiB"},
		"a long link": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `<?last=`+strings.Repeat("a", 4000)+`>; rel="next"`)
			fmt.Fprint(w, `{}`)
		}, cache.ErrUnavailable, "circle"},
		"a bad link": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `<%zz?last=a>; rel="next"`)
			fmt.Fprint(w, `{}`)
		}, cache.ErrUnavailable, "no address"},
		"no list": {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `["a"]`) }, cache.ErrUnavailable, "none"},
		"odd tags": {func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `{"tags":["ok","../x","a\r\nb","","-x"]}`)
		}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := tagServer(t, c.answer)
			if c.kind == nil {
				if _, got := tagsOf(t, h); !slices.Equal(got, []string{"ok"}) {
					t.Errorf("%q", got)
				}
				return
			}
			_, err := h.Open(soon(t), tagsRef(), cache.Whole)
			wantErr(t, err, c.kind, c.says)
		})
	}
}

// Some registries refuse pages as large as we ask for.
func TestPageSizeRefused(t *testing.T) {
	h := tagServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("n") != "" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}`)
			return
		}
		fmt.Fprint(w, `{"tags":["b","a"]}`)
	})
	if _, got := tagsOf(t, h); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%q", got)
	}
}

func referrersOf(t testing.TB, h cache.Source, d cache.Digest) []origintest.Descriptor {
	t.Helper()
	a, b, err := slurp(soon(t), h, referrersRef(d), cache.Whole)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		SchemaVersion int
		MediaType     string
		Manifests     []origintest.Descriptor
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.SchemaVersion != 2 || doc.MediaType != origintest.OCIIndex || doc.Manifests == nil {
		t.Fatalf("%s: %v", b, err)
	}
	if a.MediaType != origintest.OCIIndex || a.Digest != cache.Sum(b) || a.Size != int64(len(b)) {
		t.Errorf("%+v", a)
	}
	return doc.Manifests
}

// Referrers come from the API, page by page, or from the tag that stands in for it: the same list either way.
func TestReferrers(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	var want []cache.Digest
	for i := range 5 {
		a := o.PutArtifact(repo, img.Top.Descriptor, fmt.Sprintf("application/vnd.test.%d", i), origintest.Synthetic(uint64(i), 10))
		want = append(want, a.Top.Digest)
	}
	h := hubs(t, upstream.Options{}, at(origintest.Serve(t, o)))
	for _, m := range []origintest.Manners{{}, {PageSize: 2}, {PageSize: 2, AbsoluteLinks: true}, {NoReferrers: true}} {
		o.Behave(m)
		var got []cache.Digest
		for _, d := range referrersOf(t, h, img.Top.Digest) {
			got = append(got, d.Digest)
			if !strings.HasPrefix(d.ArtifactType, "application/vnd.test.") || d.MediaType == "" || d.Size == 0 {
				t.Errorf("%+v", d)
			}
		}
		slices.SortFunc(got, func(a, b cache.Digest) int { return strings.Compare(a.String(), b.String()) })
		slices.SortFunc(want, func(a, b cache.Digest) int { return strings.Compare(a.String(), b.String()) })
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %v", m, got)
		}
	}
}

// What nobody refers to, or nobody knows, has an empty list: the API knows no "not found".
func TestNoReferrers(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{})
	server := origintest.Serve(t, o)
	h := hubs(t, upstream.Options{}, at(server))
	for _, m := range []origintest.Manners{{}, {NoReferrers: true}} {
		o.Behave(m)
		for _, d := range []cache.Digest{img.Top.Digest, cache.Sum([]byte("unknown"))} {
			if got := referrersOf(t, h, d); len(got) != 0 {
				t.Errorf("%+v", got)
			}
		}
	}
	// a tag of that name that is no index
	o.Behave(origintest.Manners{NoReferrers: true})
	o.Tag(repo, "sha256-"+img.Top.Digest.Hex(), img.Top.Digest)
	if got := referrersOf(t, h, img.Top.Digest); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	for name, spoil := range map[string]func(*origintest.Rule){
		"405":        func(r *origintest.Rule) { r.Status(405) },
		"501":        func(r *origintest.Rule) { r.Status(501) },
		"other type": func(r *origintest.Rule) { r.Body("application/json", []byte(`{}`)) },
	} {
		r := o.When(origintest.Referrers)
		spoil(r)
		if got := referrersOf(t, h, cache.Sum([]byte(name))); len(got) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
		r.End()
	}
	for kind, spoil := range map[error]func(*origintest.Rule){
		cache.ErrUnavailable: func(r *origintest.Rule) { r.Status(500) },
		cache.ErrDenied:      func(r *origintest.Rule) { r.Status(403) },
		cache.ErrLimited:     func(r *origintest.Rule) { r.Status(429) },
	} {
		h := hubs(t, upstream.Options{}, at(server)) // a limit is remembered
		r := o.When(origintest.Referrers)
		spoil(r)
		_, err := h.Open(t.Context(), referrersRef(img.Top.Digest), cache.Whole)
		wantErr(t, err, kind)
		if errors.Is(err, cache.ErrNotFound) {
			t.Error(err)
		}
		r.End()
	}
}

// A referrer that nobody could pull is passed over, and does not hide the others.
func TestOddReferrers(t *testing.T) {
	good := cache.Sum([]byte("good")).String()
	h := hubs(t, upstream.Options{}, upstream.Config{Endpoints: []string{raw(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", origintest.OCIIndex)
		fmt.Fprintf(w, `{"manifests":[{"digest":"sha384:00"},{"digest":""},{},{"digest":%q,"mediaType":"x","annotations":{"b":"2","a":"1"}},{"digest":%q}]}`, good, good)
	})}})
	if got := referrersOf(t, h, cache.Sum(nil)); len(got) != 1 || got[0].Digest.String() != good || got[0].Annotations["a"] != "1" {
		t.Errorf("%+v", got)
	}
}

func TestReferrersAreBounded(t *testing.T) {
	var doc strings.Builder
	for i := range 10_001 {
		fmt.Fprintf(&doc, `,{"mediaType":"x","digest":%q,"size":1}`, cache.Sum(fmt.Append(nil, i)))
	}
	h := hubs(t, upstream.Options{}, upstream.Config{Endpoints: []string{raw(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", origintest.OCIIndex)
		fmt.Fprintf(w, `{"schemaVersion":2,"manifests":[%s]}`, doc.String()[1:])
	})}})
	_, err := h.Open(soon(t), referrersRef(cache.Sum(nil)), cache.Whole)
	wantErr(t, err, cache.ErrUnsupported, "10000 referrers")
}
