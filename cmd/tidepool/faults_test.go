package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// ill is something that an upstream does wrong, and what each question brings then: "whole" is what there is,
// "torn" an answer that breaks off so that nobody takes it for the whole; anything else is a status and the code of
// an error. Questions without an outcome are not asked.
type ill struct {
	name              string
	spoil             func(*origintest.Rule)
	tag, digest, head string // a manifest, by GET, by GET of its digest, and by HEAD
	blob, part, size  string // a blob whole, some of its middle, and by HEAD
}

const (
	whole     = "whole"
	torn      = "torn"
	down      = "502 UNAVAILABLE"
	wrong     = "502 CORRUPT"
	tooMuch   = "415 UNSUPPORTED"
	limitedBy = "429 TOOMANYREQUESTS"
	noEntry   = "403 DENIED"
	tornOnce  = "torn or whole" // where all of it was found wrong before any was shown, it is fetched anew
	either    = "whole or 502"  // whether a part comes depends on whether another request for the whole is under way
)

// fits reports whether an outcome is one of those that want stands for. Where all came and was found wrong before any
// of it had been shown, there still can be a status.
func fits(got, want string) bool {
	switch want {
	case either:
		return got == whole || got == down
	case tornOnce:
		return got == whole || fits(got, torn)
	case torn:
		return got == torn || got == wrong
	}
	return got == want
}

// blobSize is so large that a blob is neither kept in memory nor held back to its end; the part that is asked for lies
// in the middle.
const blobSize, partOff, partLen = 300 << 10, 150_000, 10_000

var otherDigest = cache.Sum([]byte("something else")).String()

var faults = []ill{
	{"cut once", func(r *origintest.Rule) { r.Once().CutAt(100) }, whole, whole, whole, whole, whole, whole},
	{"cut once near the end", func(r *origintest.Rule) { r.Once().CutAt(blobSize - 10) }, whole, whole, whole, whole, whole, whole},
	{"cut a hundred times", func(r *origintest.Rule) { r.Times(100).CutAt(70 << 10) }, whole, whole, whole, whole, whole, whole},
	{"cut always", func(r *origintest.Rule) { r.CutAt(0) }, down, down, whole, down, down, whole},
	{"reset once", func(r *origintest.Rule) { r.Once().ResetAt(100) }, whole, whole, whole, whole, whole, whole},
	{"hang up once", func(r *origintest.Rule) { r.Once().Drop() }, down, down, down, whole, down, down},
	{"hang up always", func(r *origintest.Rule) { r.Drop() }, down, down, down, down, down, down},
	{"stall once", func(r *origintest.Rule) { r.Once().StallAt(100) }, down, down, whole, whole, whole, whole},
	{"stall always", func(r *origintest.Rule) { r.StallAt(0) }, down, down, whole, down, down, whole},
	{"no answer", func(r *origintest.Rule) { r.Hang() }, down, down, down, down, down, down},
	{"slow trickle", func(r *origintest.Rule) { r.Pace(4 << 10) }, whole, whole, whole, whole, whole, whole},
	{"slow header", func(r *origintest.Rule) { r.Delay(10 * time.Second) }, whole, whole, whole, whole, whole, whole},

	{"wrong bytes", func(r *origintest.Rule) { r.Flip(50) }, wrong, wrong, whole, torn, whole, whole},
	{"wrong bytes once", func(r *origintest.Rule) { r.Once().Flip(50) }, wrong, wrong, whole, tornOnce, whole, whole},
	{"wrong last byte", func(r *origintest.Rule) { r.Flip(blobSize - 1) }, whole, whole, whole, torn, whole, whole},
	{"wrong bytes, no length", func(r *origintest.Rule) { r.NoLength().Flip(50) }, wrong, wrong, whole, torn, whole, whole},
	{"length too long", func(r *origintest.Rule) { r.Length(7) }, down, down, "", torn, "", ""},
	{"length too short", func(r *origintest.Rule) { r.Length(-7) }, wrong, wrong, "", torn, "", ""},
	{"more than there is", func(r *origintest.Rule) { r.Pad(7) }, wrong, wrong, "", torn, "", ""},
	{"huge", func(r *origintest.Rule) { r.Pad(5 << 20) }, tooMuch, tooMuch, tooMuch, "", "", ""},
	{"endless", func(r *origintest.Rule) { r.Endless() }, tooMuch, tooMuch, "", "", "", ""},
	{"no length", func(r *origintest.Rule) { r.NoLength() }, whole, whole, whole, whole, whole, whole},
	{"until the end of the connection", func(r *origintest.Rule) { r.UntilClose() }, whole, whole, whole, whole, whole, whole},
	{"a cut that looks like the end", func(r *origintest.Rule) { r.Once().UntilClose().CutAt(100) }, wrong, wrong, whole, wrong, whole, whole},
	{"no Range", func(r *origintest.Rule) { r.NoRange() }, whole, whole, whole, whole, whole, whole},
	{"no Range, cut once", func(r *origintest.Rule) { r.NoRange().Once().CutAt(200 << 10) }, whole, whole, whole, whole, whole, whole},

	{"404", func(r *origintest.Rule) { r.Status(404) }, "404 MANIFEST_UNKNOWN", "404 MANIFEST_UNKNOWN", "404 MANIFEST_UNKNOWN", "404 BLOB_UNKNOWN", "404 BLOB_UNKNOWN", "404 BLOB_UNKNOWN"},
	{"403", func(r *origintest.Rule) { r.Status(403) }, noEntry, noEntry, noEntry, noEntry, noEntry, noEntry},
	{"500 then good", func(r *origintest.Rule) { r.Once().Status(500) }, down, down, down, whole, down, down},
	{"500", func(r *origintest.Rule) { r.Status(500) }, down, down, down, down, down, down},
	{"503", func(r *origintest.Rule) { r.Status(503).Header("Retry-After", "600") }, down, down, down, down, down, down},
	{"429 with a long wait", func(r *origintest.Rule) { r.Status(429).Header("Retry-After", "3600") }, limitedBy, limitedBy, limitedBy, limitedBy, limitedBy, limitedBy},
	{"429 with a short wait", func(r *origintest.Rule) { r.Once().Status(429).Header("Retry-After", "3") }, whole, whole, whole, whole, whole, whole},
	{"429", func(r *origintest.Rule) { r.Status(429) }, limitedBy, limitedBy, limitedBy, limitedBy, limitedBy, limitedBy},
	{"401 loop", func(r *origintest.Rule) { r.Unauthorized() }, noEntry, noEntry, noEntry, noEntry, noEntry, noEntry},
	{"redirect to a host that is down", func(r *origintest.Rule) { r.Redirect("http://nowhere.test/x") }, down, down, down, down, down, down},
	{"redirect loop", func(r *origintest.Rule) { r.Redirect("") }, down, down, down, down, down, down},
	{"token realm on a foreign host", func(r *origintest.Rule) { r.Realm("http://evil.test/token") }, down, down, down, down, down, down},

	{"web page", func(r *origintest.Rule) { r.HTML() }, down, down, down, down, down, down},
	{"error document with 200", func(r *origintest.Rule) {
		r.Body("application/json", []byte(`{"errors":[{"code":"DENIED","message":"no"}]}`))
	}, down, down, down, wrong, "", ""},
	{"empty 200", func(r *origintest.Rule) { r.Empty() }, down, down, down, wrong, wrong, ""},
	{"204", func(r *origintest.Rule) { r.NoContent() }, down, down, down, down, down, down},
	{"unrequested 206", func(r *origintest.Rule) { r.Partial(0, 50) }, down, down, down, down, down, down},
	{"wrong Content-Range", func(r *origintest.Rule) { r.Header("Content-Range", "bytes 5-9/7") }, whole, whole, whole, whole, either, whole},
	{"gzip", func(r *origintest.Rule) { r.Gzip() }, down, down, down, down, down, down},
	{"wrong Docker-Content-Digest", func(r *origintest.Rule) { r.Header("Docker-Content-Digest", otherDigest) }, wrong, whole, "", whole, whole, whole},
	{"no Docker-Content-Digest", func(r *origintest.Rule) { r.Header("Docker-Content-Digest", "") }, whole, whole, whole, whole, whole, whole},
	{"no Content-Type", func(r *origintest.Rule) { r.Header("Content-Type", "") }, down, down, down, whole, whole, whole},
	{"text", func(r *origintest.Rule) { r.Header("Content-Type", "text/plain") }, down, down, down, whole, whole, whole},
}

// What an upstream does wrong to HEAD alone: a GET decides, where the distribution spec leaves room for doubt.
var headFaults = []ill{
	{"HEAD 404", func(r *origintest.Rule) { r.Status(404) }, whole, whole, "404 MANIFEST_UNKNOWN", whole, whole, whole},
	{"HEAD 405", func(r *origintest.Rule) { r.Status(405) }, whole, whole, whole, whole, whole, whole},
	{"HEAD 501", func(r *origintest.Rule) { r.Status(501) }, whole, whole, whole, whole, whole, whole},
	{"HEAD without length", func(r *origintest.Rule) { r.NoLength() }, whole, whole, whole, whole, whole, whole},
	{"HEAD says too much", func(r *origintest.Rule) { r.Length(7) }, whole, whole, "", whole, "", ""},
	{"HEAD names another digest", func(r *origintest.Rule) { r.Header("Docker-Content-Digest", otherDigest) }, whole, whole, "", whole, whole, whole},
}

// Each fault, in each way of asking: the client gets what the table says, and soon; nothing wrong is kept; nobody but
// the upstream is asked; once the upstream is well again, so are the pulls, and what they brought stays when it is
// gone. Under the race detector each fault in some of the ways: .ci/steps runs it without as well.
func TestFaults(t *testing.T) {
	blob := origintest.Synthetic(1, blobSize)
	img := origintest.Build(origintest.Spec{})
	for n, f := range faults {
		f.run(t, n, img, blob)
	}
	for n, f := range headFaults {
		f.run(t, n, img, blob, origintest.HEAD)
	}
}

// question is one way of asking for a manifest or a blob.
type question struct {
	name   string
	kind   origintest.Kind
	want   string
	method string
	path   string
	item   *origintest.Content
	part   bool
}

func (f ill) questions(img *origintest.Image, blob *origintest.Content) []question {
	top, manifest, blobs := img.Top.Content, origintest.Manifest, origintest.Blob
	return []question{
		{"tag", manifest, f.tag, http.MethodGet, manifestPath("latest"), top, false},
		{"digest", manifest, f.digest, http.MethodGet, digestPath(img.Top.Digest), top, false},
		{"head", manifest, f.head, http.MethodHead, manifestPath("latest"), top, false},
		{"blob", blobs, f.blob, http.MethodGet, blobPath(blob.Digest()), blob, false},
		{"part", blobs, f.part, http.MethodGet, blobPath(blob.Digest()), blob, true},
		{"size", blobs, f.size, http.MethodHead, blobPath(blob.Digest()), blob, false},
	}
}

// run asks in each way; under the race detector in a third of them, others for the n-th fault than for the next.
func (f ill) run(t *testing.T, n int, img *origintest.Image, blob *origintest.Content, more ...origintest.Match) {
	for i := range 6 {
		q := f.questions(img, blob)[i]
		if q.want == "" || racing && (i+n)%3 != 0 {
			continue
		}
		bubble(t, f.name+"/"+q.name, func(t *testing.T) {
			o, evil, net := origintest.New(), origintest.New(), new(origintest.Net)
			o.Put(repo, "latest", img)
			o.PutBlob(repo, blob)
			origintest.ServeIn(t, net, "evil.test:80", evil)
			w := inBubble(t, o, plan{net: net, file: "tags: [{match: '**', fresh: 10s}]"})
			f.spoil(o.When(append(more, q.kind)...))

			a := w.put(q)
			if got := a.outcome(q); !fits(got, q.want) {
				t.Errorf("brings %q (%v), want %q; %.300s", got, a, q.want, a.body)
			}
			if a.took > 2*time.Minute {
				t.Errorf("took %v", a.took)
			}
			w.keepsOnlyTruth()
			if evil.Count() > 0 {
				t.Errorf("somebody else was asked: %+v", evil.Requests())
			}
			w.healed(o, img, blob, q)
		})
	}
}

func (w *pool) put(q question) answered {
	w.t.Helper()
	if q.part {
		return w.do(q.method, q.path, "Range", fmt.Sprintf("bytes=%d-%d", partOff, partOff+partLen-1))
	}
	return w.do(q.method, q.path)
}

// outcome is what came, in the words of the table.
func (a answered) outcome(q question) string {
	status, content := http.StatusOK, q.item.Bytes()
	if q.part {
		status, content = http.StatusPartialContent, content[partOff:partOff+partLen]
	}
	length := a.header.Get("Content-Length")
	switch {
	case a.err != nil && (a.status == 0 || a.status == status):
		return torn
	case a.err != nil:
		return "torn error"
	case a.status == status && q.method == http.MethodHead && (length == "" || length == strconv.Itoa(len(content))):
		return whole
	case a.status == status && bytes.Equal(a.body, content):
		return whole
	case q.method == http.MethodHead && strings.HasPrefix(q.want, strconv.Itoa(a.status)):
		return q.want // without a body there is no code
	}
	return fmt.Sprintf("%d %s", a.status, a.code())
}

// healed checks that nothing is left of a fault once the upstream is well, and nothing missing once it is gone.
func (w *pool) healed(o *origintest.Origin, img *origintest.Image, blob *origintest.Content, q question) {
	w.t.Helper()
	o.Heal()
	time.Sleep(2 * time.Second) // virtual: for so long an endpoint that fails is not asked
	if q.want == limitedBy {
		time.Sleep(time.Hour + time.Minute) // nor one that limits, until the time it named
	}
	if a := w.put(q); a.outcome(q) != whole {
		w.t.Errorf("healed, asked again: %v; %.300s", a, a.body)
	}
	w.pulls("latest", img)
	w.get(blobPath(blob.Digest())).brings(w.t, blob)
	w.keepsOnlyTruth()
	o.When().Drop()
	time.Sleep(20 * time.Second) // virtual: every tag has aged
	w.pulls("latest", img)
	w.get(blobPath(blob.Digest())).brings(w.t, blob)
}
