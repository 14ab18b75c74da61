package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

func TestRangesOfAllKinds(t *testing.T) {
	o := origintest.New()
	img := o.PutImage("library/app", "latest", origintest.Spec{})
	small := o.PutBlob("library/app", origintest.Synthetic(1, 1000))
	large := o.PutBlob("library/app", origintest.Synthetic(2, 3<<20))
	p := start(t, o)
	for path, content := range map[string]*origintest.Content{
		"/v2/app/manifests/latest":          img.Top.Content,
		manifest("app", img.Top.Digest):     img.Top.Content,
		blob("library/app", small.Digest()): small,
		blob("library/app", large.Digest()): large,
	} {
		b, size := content.Bytes(), content.Size()
		for range 2 { // cold, then warm
			a := p.get(t, path, "Range", "bytes=0-")
			if a.StatusCode != 200 && a.StatusCode != 206 {
				t.Errorf("%s: %d", path, a.StatusCode)
			}
			a.is(t, a.StatusCode, b)
			a = p.get(t, path, "Range", "bytes=-7")
			a.is(t, 206, b[size-7:])
			a.has(t, "Content-Range", fmt.Sprintf("bytes %d-%d/%d", size-7, size-1, size), "Content-Length", "7")
			p.get(t, path, "Range", "bytes=100-199").is(t, 206, b[100:200])
			p.get(t, path, "Range", fmt.Sprintf("bytes=%d-", size-1)).is(t, 206, b[size-1:])
			p.get(t, path, "Range", "bytes=100-99999999999").is(t, 206, b[100:])
			p.get(t, path, "Range", fmt.Sprintf("bytes=%d-,5-9", size)).is(t, 206, b[5:10])
			p.get(t, path, "Range", "bytes=9-5").is(t, 200, b)
			p.get(t, path, "Range", "pages=1-2").is(t, 200, b)
			p.get(t, path, "Range", "bytes=0-,0-,0-").is(t, 200, b)
			p.get(t, path, "Range", "bytes="+strings.Repeat("1-1,", 65)).is(t, 200, b)
			p.do(t, http.MethodHead, path, "Range", "bytes=0-4").has(t, "Content-Length", fmt.Sprint(size), "Content-Range", "")
			for _, nowhere := range []string{fmt.Sprintf("bytes=%d-", size), fmt.Sprintf("bytes=%d-,%d-", size, size+9), "bytes=-0"} {
				a := p.get(t, path, "Range", nowhere)
				if a.StatusCode != 416 || code(string(a.body)) != "SIZE_INVALID" {
					t.Errorf("%s: %d %.100q", nowhere, a.StatusCode, a.body)
				}
				a.has(t, "Content-Range", fmt.Sprintf("bytes */%d", size), "Etag", "", "Docker-Content-Digest", "")
			}
			a = p.get(t, path, "Range", "bytes=50-59,0-9,-5")
			a.several(t, b, [][2]int64{{50, 60}, {0, 10}, {size - 5, size}})
			a.has(t, "Accept-Ranges", "bytes", "Docker-Content-Digest", content.Digest().String())
		}
	}
}

// several checks a multipart answer against the parts that it must have.
func (a answer) several(t *testing.T, content []byte, parts [][2]int64) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if a.StatusCode != 206 || kind != "multipart/byteranges" || err != nil || a.ContentLength != int64(len(a.body)) {
		t.Errorf("%s: %d %v, %v, %d of %d bytes", a.Request.URL, a.StatusCode, a.Header, err, len(a.body), a.ContentLength)
		return
	}
	r := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, want := range parts {
		part, err := r.NextRawPart()
		if err != nil {
			t.Errorf("%v: %v", want, err)
			return
		}
		got, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(got, content[want[0]:want[1]]) {
			t.Errorf("%v: %d bytes, %v", want, len(got), err)
		}
		if h, w := part.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, len(content)); h != w {
			t.Errorf("%s, want %s", h, w)
		}
	}
	if _, err := r.NextRawPart(); err != io.EOF {
		t.Errorf("after the last part: %v", err)
	}
}

func TestEmptyBlob(t *testing.T) {
	o := origintest.New()
	empty := o.PutBlob("library/app", origintest.Bytes(nil))
	p := start(t, o)
	for range 2 {
		for _, ranges := range []string{"", "bytes=0-", "bytes=5-9", "bytes=-3", "bytes=0-1,2-3"} {
			a := p.get(t, blob("app", empty.Digest()), "Range", ranges)
			a.is(t, 200, nil)
			a.has(t, "Content-Length", "0", "Etag", `"`+empty.Digest().String()+`"`)
		}
	}
	p.do(t, http.MethodHead, blob("app", empty.Digest())).has(t, "Content-Length", "0")
}

// 200 requests for several ranges of a cold blob: every part is right, and the hub sends few bytes twice.
func TestManyRangesOfAColdBlob(t *testing.T) {
	const size = 8 << 20
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(7, size))
	p := start(t, o)
	b := content.Bytes()
	var group sync.WaitGroup
	for client := range 8 {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(client), 1))
			for range 25 {
				header, parts := randomRanges(rng, size)
				p.get(t, blob("app", content.Digest()), "Range", header).several(t, b, parts)
			}
		})
	}
	group.Wait()
	if sent := o.Sent(content.Digest()).Total(); sent > size+size/4 {
		t.Errorf("the hub sent %d bytes of %d", sent, size)
	}
}

func randomRanges(rng *rand.Rand, size int64) (header string, parts [][2]int64) {
	var texts []string
	for range 2 + rng.IntN(15) {
		off, n := rng.Int64N(size-70_000), 1+rng.Int64N(64<<10)
		if rng.IntN(8) == 0 {
			texts = append(texts, fmt.Sprintf("-%d", n))
			parts = append(parts, [2]int64{size - n, size})
			continue
		}
		texts = append(texts, fmt.Sprintf("%d-%d", off, off+n-1))
		parts = append(parts, [2]int64{off, off + n})
	}
	return "bytes=" + strings.Join(texts, ","), parts
}

// Who asks for a part of a blob that is not held costs the hub that part and little more.
func TestPartOfAColdBlob(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(10, 32<<20))
	p := start(t, o)
	for _, ranges := range []string{"bytes=16777216-16778215", "bytes=16777216-16777300,16777000-16777100", "bytes=-1"} {
		if a := p.get(t, blob("app", content.Digest()), "Range", ranges); a.StatusCode != 206 || a.err != nil {
			t.Errorf("%s: %d %v", ranges, a.StatusCode, a.err)
		}
	}
	if err := o.AwaitIdle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := o.Sent(content.Digest()).Total(); n > 4<<20 {
		t.Errorf("the hub sent %d bytes", n)
	}
}

// "bytes=0-", which some clients send with everything, costs no question about the size.
func TestRangeFromTheStart(t *testing.T) {
	o := origintest.New()
	content := o.PutBlob("library/app", origintest.Synthetic(11, 1<<20))
	p := start(t, o)
	a := p.get(t, blob("app", content.Digest()), "Range", "bytes=0-")
	a.is(t, 206, content.Bytes())
	a.has(t, "Content-Range", fmt.Sprintf("bytes 0-%d/%d", 1<<20-1, 1<<20))
	if n := o.Count(origintest.HEAD); n != 0 {
		t.Errorf("%d times HEAD", n)
	}
}
