package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// walker does at random what can befall the members of a virtual upstream, and keeps account.
type walker struct {
	*circle
	t       *testing.T
	rng     *rand.Rand
	members []*origintest.Origin
	faults  []*origintest.Rule
	has     []map[string]bool
	from    map[string]int // by digest: the member that it was put into
	seed    uint64
	calm    time.Time // since when nothing changes and nobody fails
	pulls   [3]int    // by the member that answered
	errors  int
}

// A later member answers for a tag only after each before it has said that it does not have it, and has said nothing else
// since; and when all is calm, the first that has it answers.
func TestVirtualUpstreamWalk(t *testing.T) {
	t.Parallel()
	var pulls [3]int
	errs := 0
	for seed := range uint64(fewer(20)) {
		bubble(t, fmt.Sprint(seed), func(t *testing.T) {
			c := encircle(t, "hold: 0s\ntags: [{match: '**', fresh: 1m}]\n")
			w := &walker{circle: c, t: t, rng: rand.New(rand.NewPCG(seed, 1)), members: []*origintest.Origin{c.corp, c.quay, c.hub},
				faults: make([]*origintest.Rule, 3), has: []map[string]bool{{}, {}, {}}, from: map[string]int{}, calm: time.Now()}
			for range 300 {
				w.step()
			}
			for i, n := range w.pulls {
				pulls[i] += n
			}
			errs += w.errors
		})
	}
	t.Logf("answered by member: %v, errors: %d", pulls, errs)
	if slices.Min(pulls[:]) < 20 || errs < 20 {
		t.Error("not much happened")
	}
}

func (w *walker) step() {
	i, tag := w.rng.IntN(3), fmt.Sprintf("t%d", w.rng.IntN(3))
	switch w.rng.IntN(12) {
	case 0: // it fails, or no more
		if w.calm = time.Now(); w.faults[i] != nil {
			w.faults[i].End()
			w.faults[i] = nil
			return
		}
		w.faults[i] = w.members[i].When(origintest.Repo("org/app")).Status([]int{503, 429, 500}[w.rng.IntN(3)])
	case 1:
		i = []int{0, 1, 1, 2, 2, 2}[w.rng.IntN(6)] // mostly where it does not hide the others
		w.seed++
		img := w.members[i].PutImage("org/app", tag, origintest.Spec{Seed: w.seed})
		w.has[i][tag], w.from[img.Top.Digest.String()], w.calm = true, i, time.Now()
	case 2:
		i = []int{0, 0, 0, 1, 1, 2}[w.rng.IntN(6)]
		w.members[i].Untag("org/app", tag)
		w.has[i][tag], w.calm = false, time.Now()
	case 3:
		time.Sleep(time.Duration(w.rng.Int64N(int64(30 * time.Minute))))
	case 4, 5:
		time.Sleep(time.Duration(w.rng.Int64N(int64(90 * time.Second))))
	default:
		w.look(tag)
	}
}

// look pulls a tag and checks who answered.
func (w *walker) look(tag string) {
	a := w.do([]string{http.MethodGet, http.MethodHead}[w.rng.IntN(2)], "/v2/org/app/manifests/"+tag)
	by := -1
	if a.status == http.StatusOK {
		by = w.from[a.header.Get("Docker-Content-Digest")]
		w.pulls[by]++
	} else {
		w.errors++
	}
	for i := range max(0, by) {
		if last := w.lastWord(i, tag); last != http.StatusNotFound {
			w.t.Errorf("%s came from member %d, and the last word of %d on it was %d", tag, by, i, last)
		}
	}
	// Longer than any limit, outage or freshness is remembered.
	if time.Since(w.calm) < 10*time.Minute || w.faults[0] != nil || w.faults[1] != nil || w.faults[2] != nil {
		return
	}
	first := -1
	for i := 2; i >= 0; i-- {
		if w.has[i][tag] {
			first = i
		}
	}
	if by != first || first < 0 && a.status != http.StatusNotFound {
		w.t.Errorf("%s, when all is calm: %v of member %d, want %d", tag, a, by, first)
	}
}

// lastWord is the status of a member's last answer about a tag that was one; 0: it was never asked.
func (w *walker) lastWord(i int, tag string) (status int) {
	for _, r := range w.members[i].Requests(origintest.Repo("org/app"), origintest.Ref(tag)) {
		if r.Status == http.StatusOK || r.Status == http.StatusNotFound {
			status = r.Status
		}
	}
	return status
}
