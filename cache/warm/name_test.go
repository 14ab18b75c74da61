package warm

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for text, want := range map[string]Item{
		"alpine":                              {Name: "alpine", Tag: "latest"},
		"alpine:3":                            {Name: "alpine", Tag: "3"},
		"alpine:1.x":                          {Name: "alpine", Tag: "1.x"},
		"ghcr.io/org/app:v1.2.3":              {Name: "ghcr.io/org/app", Tag: "v1.2.3"},
		"r.corp:5000/app":                     {Name: "r.corp:5000/app", Tag: "latest"},
		"r.corp:5000/app:2":                   {Name: "r.corp:5000/app", Tag: "2"},
		"localhost:5000/a/b@" + digest:        {Name: "localhost:5000/a/b"},
		"r.corp:5000/app:2.1@" + digest:       {Name: "r.corp:5000/app"},
		"app:" + strings.Repeat("a", 128):     {Name: "app", Tag: strings.Repeat("a", 128)},
		"docker.io/library/nginx:1.25-alpine": {Name: "docker.io/library/nginx", Tag: "1.25-alpine"},
	} {
		got, err := Parse(text)
		if err != nil || got.Name != want.Name || got.Tag != want.Tag || got.Digest.IsZero() != !strings.Contains(text, "@") || !got.One() {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, say := range map[string]string{
		"":                                "names no image",
		":3":                              "names no image",
		"ghcr.io/":                        "names no image",
		"app@sha256:1234":                 "digest",
		"app@":                            "digest",
		"app:":                            "neither a tag",
		"app:-1":                          "neither a tag",
		"app:~":                           "neither a tag",
		"app:~1.4 beta":                   "neither a tag",
		"app:v1.[0":                       "left open",
		"app:~1.4@" + digest:              "one image",
		"app:" + strings.Repeat("a", 129): "neither a tag",
	} {
		if i, err := Parse(text); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %+v, %v; want %q", text, i, err, say)
		}
	}
}

// TestVersions: what a range or a pattern means of a list as registries have it.
func TestVersions(t *testing.T) {
	tags := []string{
		"latest", "1", "1.4", "1.4.0", "1.4.1", "1.4.10", "1.5.0", "1.5.0-rc.1", "v1.6.0", "2.0.0", "1.4.1-alpine", "1.4.2-alpine",
		"1.4.2-alpine3.20", "20260101", "20260101.1", "sha256-abc.sig", "nightly", "1.4.1.2", "01.4.3",
	}
	for text, want := range map[string]string{
		"~1.4":            "1.4 1.4.0 1.4.1 1.4.10 01.4.3",
		"^1":              "1 1.4 1.4.0 1.4.1 1.4.10 1.5.0 v1.6.0 01.4.3",
		">=1.5, <2":       "1.5.0 v1.6.0",
		">=1.5 <2":        "1.5.0 v1.6.0",
		">=2":             "2.0.0",
		"=1.4.1 || >=2.0": "1.4.1 2.0.0",
		">=20250101":      "20260101 20260101.1",
		"~1.4-alpine":     "1.4.1-alpine 1.4.2-alpine",
		"^1-alpine3.20":   "1.4.2-alpine3.20",
		">=1.5-rc.1":      "1.5.0-rc.1",
		"1.4.*":           "1.4.0 1.4.1 1.4.10 1.4.1-alpine 1.4.2-alpine 1.4.2-alpine3.20 1.4.1.2",
		"*-alpine":        "1.4.1-alpine 1.4.2-alpine",
		"v?.6.*":          "v1.6.0",
		"{latest,1}":      "latest 1",
		"=1.4.*":          "1.4 1.4.0 1.4.1 1.4.10 01.4.3",
		">9":              "",
	} {
		i, err := Parse("app:" + text)
		if err != nil || i.One() {
			t.Errorf("%s: %v, %v", text, i, err)
			continue
		}
		var got []string
		for _, tag := range tags {
			if i.match(tag) {
				got = append(got, tag)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s\nwant %s", text, s, want)
		}
	}
}

func TestCompareTags(t *testing.T) {
	sorted := strings.Fields("-a 1-alpine 1 1.2.0-beta 1.2.0-rc.1 1.2.0-rc.10 1.2.0 1.2.3 1.10 2 10 2026-01-05 2026-01-10 2026-12 2026 " +
		"20260101 20260102 a a1 a2 a10 b v1.9 v1.10 v2")
	shuffled := slices.Clone(sorted)
	slices.Reverse(shuffled)
	slices.SortFunc(shuffled, compareTags)
	if !slices.Equal(shuffled, sorted) {
		t.Errorf("%v\nwant %v", shuffled, sorted)
	}
	for _, a := range sorted {
		for _, b := range sorted {
			if compareTags(a, b) != -compareTags(b, a) || (compareTags(a, b) == 0) != (a == b) {
				t.Errorf("%s and %s: %d and %d", a, b, compareTags(a, b), compareTags(b, a))
			}
		}
	}
}

func TestParsePlatform(t *testing.T) {
	for _, s := range []string{"linux/amd64", "linux/arm/v7", "windows/amd64"} {
		if p, err := ParsePlatform(s); err != nil || p.String() != s {
			t.Errorf("%s: %v, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "linux", "amd64", "linux/", "/amd64", "linux//v7", "linux/arm/v7/x", "linux/arm/"} {
		if p, err := ParsePlatform(s); err == nil {
			t.Errorf("%q: %v", s, p)
		}
	}
}

// FuzzParse: nothing panics, and an image is an image again when it is read a second time.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"alpine", "a/b:~1.4", "r:5/a:v1.*", "a@sha256:00", "a:>=1 <2-x", "a:{b", "a:^1||^2"} {
		f.Add(s, "1.4.2-alpine")
	}
	f.Fuzz(func(t *testing.T, s, tag string) {
		i, err := Parse(s)
		if err != nil {
			return
		}
		if i.Name == "" || i.One() && i.Tag == "" && i.Digest.IsZero() {
			t.Errorf("%q: %+v", s, i)
		}
		if !i.One() {
			i.match(tag)
		}
		_ = compareTags(s, tag)
	})
}
