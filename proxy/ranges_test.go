package proxy

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRanges(t *testing.T) {
	const size = 1000
	whole := []span(nil)
	for _, c := range []struct {
		header string
		want   []span // nil: the whole; empty: 416
	}{
		{"bytes=0-", []span{{0, 1000}}},
		{"bytes=0-0", []span{{0, 1}}},
		{"bytes=999-", []span{{999, 1}}},
		{"bytes=10-19", []span{{10, 10}}},
		{"Bytes=10-19", []span{{10, 10}}},
		{"bytes=990-5000", []span{{990, 10}}},
		{"bytes=-1", []span{{999, 1}}},
		{"bytes=-5000", []span{{0, 1000}}},
		{"bytes=0-0,-1", []span{{0, 1}, {999, 1}}},
		{"bytes= 5-6 ,\t1-2,", []span{{5, 2}, {1, 2}}},
		{"bytes=500-,0-499", []span{{500, 500}, {0, 500}}},
		{"bytes=0-,0-", []span{{0, 1000}, {0, 1000}}},
		{"bytes=1000-,3-4,-0", []span{{3, 2}}},

		{"bytes=1000-", []span{}},
		{"bytes=1000-1001,2000-", []span{}},
		{"bytes=-0", []span{}},
		{"bytes=99999999999999999999999-", []span{}},

		{"", whole},
		{"bytes", whole},
		{"bytes=", whole},
		{"bytes=,", whole},
		{"bytes=-", whole},
		{"bytes=a-b", whole},
		{"bytes=5", whole},
		{"bytes=5-4", whole},
		{"bytes=1-2,5-4", whole},
		{"bytes=--5", whole},
		{"bytes=+1-2", whole},
		{"bytes=0x1-2", whole},
		{"bytes=1 - 2", whole},
		{"bytes =1-2", whole},
		{"lines=1-2", whole},
		{"none", whole},
		{"bytes=0-,0-,0-0", whole}, // more than twice the content
	} {
		spans, all := within(parseRanges([]string{c.header}), size)
		if all != (c.want == nil) || !slices.Equal(spans, c.want) {
			t.Errorf("%q: %v, whole %v; want %v", c.header, spans, all, c.want)
		}
	}
	if got := parseRanges([]string{"bytes=1-2", "bytes=3-4"}); got != nil {
		t.Errorf("two headers: %v", got)
	}
	if spans, all := within(parseRanges([]string{"bytes=1-2"}), 0); spans != nil || !all {
		t.Errorf("of nothing: %v, whole %v", spans, all)
	}
	if spans, all := within(parseRanges([]string{"bytes=1-2"}), -1); spans != nil || !all {
		t.Errorf("of an unknown size: %v, whole %v", spans, all)
	}
}

// nginx added up suffixes until their sum wrapped round, and sent what lies before the file.
func TestCVE_2017_7529_RangeOverflow(t *testing.T) {
	for _, header := range []string{
		"bytes=-17208,-9223372036854758792", "bytes=-9223372036854775807,-9223372036854775807",
		"bytes=9223372036854775807-9223372036854775807,-1", "bytes=-18446744073709551615", "bytes=0-18446744073709551616",
		"bytes=18446744073709551615-", "bytes=-9223372036854775808", "bytes=1-9223372036854775807",
	} {
		for _, size := range []int64{1, 2, 600, 1 << 40, math.MaxInt64} {
			checkSpans(t, header, size)
		}
	}
}

// Apache built each of thousands of overlapping ranges before it sent one.
func TestCVE_2011_3192_ManyRanges(t *testing.T) {
	many := "bytes=0-" + strings.Repeat(",5-", 1300)
	if len(many) > maxHeader {
		t.Fatal("the header would not come so far")
	}
	if specs := parseRanges([]string{many}); specs != nil {
		t.Errorf("%d ranges are honoured", len(specs))
	}
	if n := testing.AllocsPerRun(10, func() { parseRanges([]string{many}) }); n > 10 {
		t.Errorf("refusing them takes %v allocations", n)
	}
	most := "bytes=" + strings.Repeat("0-0,", maxRanges)
	if specs := parseRanges([]string{most}); len(specs) != maxRanges {
		t.Errorf("%d of %d ranges are honoured", len(specs), maxRanges)
	}
}

// checkSpans checks what must be true of the spans that any header means.
func checkSpans(t *testing.T, header string, size int64) {
	t.Helper()
	spans, all := within(parseRanges([]string{header}), size)
	if all && spans != nil || len(spans) > maxRanges {
		t.Errorf("%q of %d: %d spans, whole %v", header, size, len(spans), all)
	}
	var total float64
	for _, s := range spans {
		if s.off < 0 || s.n <= 0 || s.off >= size || s.n > size-s.off {
			t.Errorf("%q of %d: %v lies outside", header, size, s)
		}
		total += float64(s.n)
	}
	if total > maxOverlap*math.Abs(float64(size))*(1+1e-9) {
		t.Errorf("%q of %d: %v bytes in all", header, size, total)
	}
}

// Where a request has one well-formed range, the standard library answers as RFC 9110 wants, and so must we.
func TestOneRangeLikeServeContent(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		size := 1 + rng.Int64N(300) // of nothing, it sends a suffix of nothing with a 206
		header := randomRange(rng, size)
		want := serveContent(header, size)
		spans, all := within(parseRanges([]string{header}), size)
		switch {
		case want.Code == http.StatusOK && all:
		case want.Code == http.StatusRequestedRangeNotSatisfiable && !all && len(spans) == 0:
		case want.Code == http.StatusPartialContent && len(spans) == 1 &&
			spans[0].of(size) == want.Header().Get("Content-Range"):
		default:
			t.Fatalf("%q of %d: %v, whole %v; the oracle says %d %v", header, size, spans, all, want.Code, want.Header())
		}
	}
}

func randomRange(rng *rand.Rand, size int64) string {
	a, b := rng.Int64N(size+20), rng.Int64N(size+20)
	switch rng.IntN(4) {
	case 0:
		return fmt.Sprintf("bytes=%d-", a)
	case 1:
		return fmt.Sprintf("bytes=-%d", 1+a) // a suffix of 0 is where it errs: it sends no bytes with a 206
	default:
		return fmt.Sprintf("bytes=%d-%d", min(a, b), max(a, b))
	}
}

// serveContent is the standard library's answer for content whose n-th byte is n.
func serveContent(header string, size int64) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Range", header)
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(counting(size)))
	return w
}

func counting(size int64) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// Several ranges must come out as a client's parser reads them, in the order asked, and as long as was promised.
func TestMultipart(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	content := counting(5000)
	for range 200 {
		var texts []string
		for range 2 + rng.IntN(15) {
			texts = append(texts, strings.TrimPrefix(randomRange(rng, 300), "bytes="))
		}
		spans, all := within(parseRanges([]string{"bytes=" + strings.Join(texts, ",")}), int64(len(content)))
		if all || len(spans) == 0 {
			continue
		}
		p := newParts(spans, int64(len(content)), "application/x-test")
		var body bytes.Buffer
		err := p.send(&body, func(s span) error {
			_, err := body.Write(content[s.off : s.off+s.n])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if int64(body.Len()) != p.length() {
			t.Errorf("%d bytes, promised were %d", body.Len(), p.length())
		}
		checkParts(t, p.contentType(), &body, spans, content)
	}
}

func checkParts(t *testing.T, contentType string, body io.Reader, spans []span, content []byte) {
	t.Helper()
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		t.Fatal(err)
	}
	reader := multipart.NewReader(body, params["boundary"])
	for _, s := range spans {
		part, err := reader.NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(got, content[s.off:s.off+s.n]) {
			t.Errorf("%v: %d bytes, %v", s, len(got), err)
		}
		if h := part.Header.Get("Content-Range"); h != s.of(int64(len(content))) {
			t.Errorf("%v: %s", s, h)
		}
	}
	if _, err := reader.NextRawPart(); err != io.EOF {
		t.Errorf("after the last part: %v", err)
	}
}

func FuzzRange(f *testing.F) {
	for _, header := range []string{"bytes=0-", "bytes=-5", "bytes=1-2,3-4,-1", "bytes=-0", "bytes=5-4", "bytes=,,1-1,",
		"bytes=9223372036854775807-", "lines=1-2", "bytes=0-0,0-0,0-0"} {
		f.Add(header, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		checkSpans(t, header, size)
		a, b, ok := oneRange(header)
		if !ok || size <= 0 || size > 1<<12 {
			return
		}
		want := serveContent(header, size)
		spans, all := within(parseRanges([]string{header}), size)
		if (want.Code == http.StatusPartialContent) != (len(spans) == 1) || want.Code == http.StatusOK && !all {
			t.Errorf("%q (%d, %d) of %d: %v, whole %v; the oracle says %d", header, a, b, size, spans, all, want.Code)
		}
	})
}

// oneRange reads a header with one well-formed range, by other means than the product; -1: left out.
func oneRange(header string) (a, b int64, ok bool) {
	s, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(s, "-")
	a, errA := strconv.ParseInt(first, 10, 64)
	b, errB := strconv.ParseInt(last, 10, 64)
	if first == "" {
		a, errA = -1, nil
	}
	if last == "" {
		b, errB = -1, nil
	}
	ok = ok && dash && errA == nil && errB == nil && !strings.ContainsAny(s, "+ ") && strings.Count(s, "-") == 1
	return a, b, ok && (a >= 0 && (b < 0 || a <= b) || a < 0 && b > 0)
}
