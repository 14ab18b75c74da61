package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// lists pages through the tags of a repository as Renovate does: by the links, as many to a page as it is given; between
// is called between two pages.
func (w *pool) lists(t *testing.T, path string, n int, between func()) (all []string) {
	t.Helper()
	at, err := url.Parse(w.url + fmt.Sprintf("%s/tags/list?n=%d", path, n))
	for pages := 0; err == nil && at != nil && pages < 1000; pages++ {
		a := w.get(at.String())
		var page struct{ Tags []string }
		if a.status != http.StatusOK || json.Unmarshal(a.body, &page) != nil {
			t.Fatalf("%s: %v; %.300s", at, a, a.body)
		}
		all = append(all, page.Tags...)
		link, _, more := strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
		if !more {
			return all
		}
		at, err = at.Parse(link)
		between()
	}
	t.Errorf("%s: no end of the pages: %v", path, err)
	return all
}

// Tags that come and go between two pages neither shift nor double the others.
func TestTagsMoveBetweenPages(t *testing.T) {
	bubble(t, "pages", func(t *testing.T) {
		for _, rule := range []string{"fresh: never", "fresh: 5m", "fresh: 1h, grace: 1h", "fresh: forever, lists: 1m"} {
			o := origintest.New()
			o.Behave(origintest.Manners{PageSize: 7})
			img := o.PutImage(repo, "m00", origintest.Spec{})
			var stay []string
			for i := range 50 {
				stay = append(stay, fmt.Sprintf("m%02d", i))
				o.Tag(repo, stay[i], img.Top.Digest)
				o.Tag(repo, fmt.Sprintf("m%02d-goes", i), img.Top.Digest)
			}
			w := inBubble(t, o, plan{file: "tags: [{match: '**', " + rule + "}]\n"})
			i := 0
			got := w.lists(t, "/v2/app", 4, func() {
				i++
				for _, new := range []string{"a%d", "m00-%d", "m25-%d", "z%d"} { // before, between and behind
					o.Tag(repo, fmt.Sprintf(new, i), img.Top.Digest)
				}
				o.Untag(repo, fmt.Sprintf("m%02d-goes", i))
				time.Sleep(2 * time.Minute)
			})
			if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("%s: out of order, or twice: %v", rule, got)
			}
			for _, tag := range stay {
				if !slices.Contains(got, tag) {
					t.Errorf("%s: without %s: %v", rule, tag, got)
				}
			}
			if !strings.Contains(rule, "never") {
				w.close()
				continue
			}
			if i := slices.IndexFunc(got, func(s string) bool { return s[0] == 'z' }); i < 0 {
				t.Errorf("%s: nothing new: %v", rule, got)
			}
			w.close()
		}
	})
}

// However many clients list, by whichever name and page, the registry is asked for its list once in a window.
func TestOneListInAWindow(t *testing.T) {
	t.Parallel()
	bubble(t, "window", func(t *testing.T) {
		o := origintest.New()
		o.Behave(origintest.Manners{PageSize: 100})
		img := o.PutImage(repo, "latest", origintest.Spec{})
		for i := range 250 {
			o.Tag(repo, fmt.Sprintf("v%03d", i), img.Top.Digest)
		}
		w := inBubble(t, o, plan{file: "tags: [{match: 'docker.io/library/*:*', fresh: 1h, lists: 10m}, {match: '**', fresh: 1m}]\n"})
		for range 6 {
			var all sync.WaitGroup
			for i := range 50 {
				all.Go(func() {
					base := []string{"/v2/app", "/v2/library/app", "/v2/docker.io/app", "/docker.io/v2/library/app"}[i%4]
					if got := w.lists(t, base, []int{10, 1000, 10000}[i%3], func() {}); len(got) != 251 {
						t.Errorf("%d tags", len(got))
					}
				})
			}
			all.Wait()
			time.Sleep(5 * time.Minute)
		}
		reached(t, "300 clients in half an hour, lists of three pages", o, 3*3)
	})
}

// While the registry cannot be asked, the list is what it said last and what has been pulled since, or all that is held
// where it never said anything.
func TestTagsWithoutARegistry(t *testing.T) {
	for _, how := range []string{"down", "limits", "offline"} {
		bubble(t, how, func(t *testing.T) {
			o := origintest.New()
			o.Behave(origintest.Manners{PageSize: 2})
			for i, tag := range []string{"a", "b", "c"} {
				o.PutImage(repo, tag, origintest.Spec{Seed: uint64(i)})
				o.PutImage("org/unlisted", tag, origintest.Spec{Seed: uint64(i)})
				o.PutImage("org/refused", tag, origintest.Spec{Seed: uint64(i)})
			}
			o.When(origintest.Tags, origintest.Repo("org/unlisted")).Status(404)
			o.When(origintest.Tags, origintest.Repo("org/refused")).Status(401)
			w := inBubble(t, o, plan{file: "hold: 0s\ntags: [{match: 'docker.io/**/*:old', fresh: 1m, stale_if_error: 1m}, {match: '**', fresh: 5m}]\n"})
			listed := func(path string, want ...string) {
				t.Helper()
				for _, n := range []int{1, 2, 1000} {
					if got := w.lists(t, path, n, func() {}); !slices.Equal(got, want) {
						t.Errorf("%s by %d: %v, want %v", path, n, got, want)
					}
				}
			}
			listed("/v2/app", "a", "b", "c")
			w.get("/v2/org/unlisted/tags/list").refuses(t, http.StatusNotFound, "NAME_UNKNOWN")
			w.get("/v2/org/refused/tags/list").refuses(t, http.StatusForbidden, "DENIED")
			o.PutImage(repo, "bb", origintest.Spec{Seed: 9}) // not listed yet, and pulled
			o.PutImage(repo, "old", origintest.Spec{Seed: 8})
			o.PutImage(repo, "never", origintest.Spec{Seed: 7})
			for _, path := range []string{"app/manifests/a", "app/manifests/bb", "app/manifests/old", "org/unlisted/manifests/b", "org/refused/manifests/c"} {
				w.get("/v2/"+path).is(t, http.StatusOK)
			}
			w.head("/v2/app/manifests/never").is(t, http.StatusOK) // known, and not held
			switch how {
			case "down":
				o.When().Status(503)
			case "limits":
				o.When().Status(429)
			default:
				w.close()
				w.plan.flags = map[string][]string{"offline": {"true"}}
				w.open()
			}
			time.Sleep(time.Hour)
			for range 2 {
				listed("/v2/app", "a", "b", "bb", "c")
				listed("/v2/org/unlisted", "b")
				listed("/v2/org/refused", "c")
				w.get("/v2/app/manifests/bb").is(t, http.StatusOK)
				time.Sleep(time.Minute)
			}
			a := w.get("/v2/app/tags/list")
			if a.header.Get("Warning") == "" || a.header.Get("Age") == "" {
				t.Errorf("old, and not said: %v", a.header)
			}
			if a := w.get("/v2/org/none/tags/list"); a.status < 400 {
				t.Errorf("of nothing: %v", a)
			}
		})
	}
}

// A list of several is what each of them lists, and while one cannot be asked, what it listed.
func TestTagsOfAVirtualUpstream(t *testing.T) {
	bubble(t, "union", func(t *testing.T) {
		c := encircle(t, "tags: [{match: '**', fresh: 5m}]\n")
		for i, o := range []*origintest.Origin{c.hub, c.corp, c.quay} {
			img := o.PutImage("org/app", "latest", origintest.Spec{Seed: uint64(i)})
			for j := range 3 {
				o.Tag("org/app", fmt.Sprintf("v%d.%d", i, j), img.Top.Digest)
			}
		}
		want := []string{"latest", "v0.0", "v0.1", "v0.2", "v1.0", "v1.1", "v1.2", "v2.0", "v2.1", "v2.2"}
		for range 2 {
			for _, n := range []int{1, 3, 100} {
				if got := c.lists(t, "/v2/org/app", n, func() {}); !slices.Equal(got, want) {
					t.Errorf("by %d: %v", n, got)
				}
			}
			for name, o := range map[string]*origintest.Origin{"corp": c.corp, "quay": c.quay, "hub": c.hub} {
				if n := o.Count(origintest.Tags); n > 1 {
					t.Errorf("%s was asked %d times", name, n)
				}
				o.Forget()
			}
			c.quay.When().Status(503)
			time.Sleep(time.Hour)
		}
		if a := c.get("/v2/org/app/tags/list"); !strings.Contains(a.header.Get("Warning"), "quay.io cannot be asked") {
			t.Errorf("one cannot be asked, and it is not said: %v", a.header)
		}
	})
}
