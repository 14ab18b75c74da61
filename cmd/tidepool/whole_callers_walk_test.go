package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

const (
	steps = 150
	// A permission that was withdrawn may live on for as long as the yes, which may have been given to a token that was
	// made just before.
	accessFor, tokenLife = 5 * time.Minute, time.Minute
	partOf               = 24 * time.Hour // how long it is believed that a digest is in a repository
)

// walks is how many there are: one of each rule and each kind of hub twice, some seconds in all; under the race detector
// once, and .ci/steps runs them without as well.
func walks() uint64 {
	if racing {
		return 9
	}
	return 18
}

// Whatever four callers ask for, in whatever order, while permissions come and go and the hub too: nobody gets what the
// hub would not have given him a moment ago, nobody is refused what it would give him, and nobody who was granted
// something is refused it while the hub is down.
func TestCallersWalk(t *testing.T) {
	t.Parallel()
	for seed := range walks() {
		bubble(t, fmt.Sprintf("seed %d", seed), func(t *testing.T) { newWalk(t, seed).run() })
	}
}

// walk is a random sequence of requests, and an oracle that knows what each caller may have.
type walk struct {
	*house
	rand  *rand.Rand
	seed  uint64
	hides bool
	users []string
	repos []string // the last is everybody's
	imgs  map[string][]*origintest.Image
	lists map[string][]string // tags
	story []string

	down    bool
	may     map[pair]bool
	changed map[pair]time.Time   // when may last did
	granted map[pair]time.Time   // when the hub last said yes to a manifest of it; a lower bound
	held    map[string]time.Time // when what of a repository was last sent whole
}

type pair struct{ user, repo string }

// agings are rules by which names age; none of them is a permission.
var agings = []string{
	"",
	"tags: [{match: '**', fresh: forever, on_delete: keep}]\n",
	"tags: [{match: '**', fresh: 10s, grace: 1h, on_delete: keep}]\n",
}

func newWalk(t *testing.T, seed uint64, adjust ...func(*plan)) *walk {
	w := &walk{
		house: &house{hub: origintest.New()}, rand: rand.New(rand.NewPCG(seed, 1)), seed: seed, hides: seed%3 == 0,
		users: []string{"alice", "bob", "carol", ""}, repos: []string{"team/a", "team/b", "open/c"},
		imgs: map[string][]*origintest.Image{}, lists: map[string][]string{},
		may: map[pair]bool{}, changed: map[pair]time.Time{}, granted: map[pair]time.Time{}, held: map[string]time.Time{},
	}
	w.hub.RequireToken(origintest.TokenServer{Life: tokenLife})
	w.hub.Behave(origintest.Manners{Hides: w.hides})
	w.hub.Private("team/a", "team/b")
	for i, repo := range w.repos {
		for j := range 2 { // image 0 is the same in both private repositories
			img := w.hub.PutImage(repo, fmt.Sprint("tag", j), origintest.Spec{Seed: uint64(i * j), Layers: []origintest.Layer{
				{Size: 100 << 10, Form: origintest.Raw}, {Size: 1000, Form: origintest.Raw}}})
			w.imgs[repo] = append(w.imgs[repo], img)
			w.lists[repo] = append(w.lists[repo], fmt.Sprint("tag", j))
		}
		w.hub.PutArtifact(repo, w.imgs[repo][1].Top.Descriptor, "application/vnd.test.signature")
	}
	for _, user := range w.users {
		w.may[pair{user, "open/c"}] = true
		w.permit(user)
	}
	n := new(origintest.Net)
	origintest.ServeIn(t, n, "corp.test:80", w.hub)
	p := plan{net: n, hubs: map[string]string{}, file: asking + agings[seed/3%3]}
	for _, change := range adjust {
		change(&p)
	}
	w.pool = fill(t, p)
	return w
}

// permit tells the hub what user may have.
func (w *walk) permit(user string) {
	repos := []string{"open/c"}
	for _, r := range w.repos {
		if w.may[pair{user, r}] {
			repos = append(repos, r)
		}
	}
	if user != "" {
		w.hub.Account(user, "pass of "+user, repos...)
	}
}

func (w *walk) pick(n int) bool { return w.rand.IntN(100) < n }

func one[T any](w *walk, all []T) T { return all[w.rand.IntN(len(all))] }

func (w *walk) tell(format string, args ...any) {
	w.story = append(w.story, time.Now().UTC().Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

func (w *walk) run() {
	for range steps {
		switch n := w.rand.IntN(100); {
		case n < 62:
			w.request(one(w, w.users), w.wish())
		case n < 70:
			w.crowd(w.wish())
		case n < 83:
			w.pass(one(w, []time.Duration{time.Second, 20 * time.Second, 61 * time.Second, 3 * time.Minute, 6 * time.Minute, 25 * time.Hour}))
		case n < 92:
			w.change()
		case n < 96:
			w.toggle()
		case n < 98:
			w.tell("tokens are revoked")
			w.hub.RevokeTokens()
		case !w.down && w.pick(30):
			w.tell("restart")
			w.close()
			w.open()
			clear(w.granted)
		}
		if w.t.Failed() {
			w.t.Fatalf("seed %d (hides: %v):\n%s", w.seed, w.hides, strings.Join(w.story, "\n"))
		}
	}
}

func (w *walk) pass(d time.Duration) {
	w.tell("%v pass", d)
	time.Sleep(d)
}

// change grants or withdraws a permission, or moves a tag.
func (w *walk) change() {
	if w.pick(30) {
		repo := one(w, w.repos)
		w.hub.Tag(repo, one(w, w.lists[repo]), one(w, w.imgs[repo]).Top.Digest)
		w.tell("a tag of %s moves", repo)
		return
	}
	p := pair{one(w, w.users[:3]), one(w, w.repos[:2])}
	w.may[p], w.changed[p] = !w.may[p], time.Now()
	w.permit(p.user)
	w.tell("%s may have %s: %v", p.user, p.repo, w.may[p])
}

// toggle takes the hub down, or up.
func (w *walk) toggle() {
	if w.down = !w.down; w.down {
		w.tell("the hub goes down")
		w.hub.When().Drop()
		return
	}
	w.hub.Heal()
	w.tell("the hub is back")
	w.pass(time.Minute)
	w.request("", wish{method: http.MethodGet, repo: "open/c", tail: "manifests/nothing", kind: cache.KindManifest}) // one finds out
}

// wish is one way of asking for one thing.
type wish struct {
	method, repo, tail string
	headers            []string
	kind               cache.Kind
	content            *origintest.Content // of a digest
	there              bool                // in the repository
}

func (w *walk) wish() wish {
	q := wish{method: http.MethodGet, repo: one(w, w.repos)}
	if w.pick(35) {
		q.method = http.MethodHead
	}
	from := q.repo
	if w.pick(25) {
		from = one(w, w.repos) // somebody else's digest
	}
	img := one(w, w.imgs[from])
	switch n := w.rand.IntN(100); {
	case n < 30:
		q.kind, q.tail, q.there = cache.KindManifest, "manifests/"+one(w, w.lists[q.repo]), true
		if w.pick(20) {
			q.headers = []string{"If-None-Match", `"` + img.Top.Digest.String() + `"`}
		}
	case n < 50:
		q.kind, q.tail, q.content = cache.KindManifest, "manifests/"+img.Top.Digest.String(), img.Top.Content
		for _, mine := range w.imgs[q.repo] {
			q.there = q.there || mine.Top.Digest == img.Top.Digest
		}
	case n < 85:
		b := one(w, img.Blobs)
		q.kind, q.tail, q.content = cache.KindBlob, "blobs/"+b.Digest.String(), b.Content
		for _, mine := range w.imgs[q.repo] {
			q.there = q.there || slices.ContainsFunc(mine.Blobs, func(x origintest.Item) bool { return x.Digest == b.Digest })
		}
		switch {
		case w.pick(25):
			q.headers = []string{"Range", one(w, []string{"bytes=0-99", "bytes=-50", "bytes=10-19,30-39", "bytes=50-"})}
		case w.pick(10):
			q.headers = []string{"If-None-Match", `"` + b.Digest.String() + `"`}
		}
	case n < 93:
		q.kind, q.tail, q.there = cache.KindTags, "tags/list", true
	default:
		q.kind, q.tail, q.there = cache.KindReferrers, "referrers/"+w.imgs[q.repo][1].Top.Digest.String(), true
	}
	return q
}

func (w *walk) ask(user string, q wish) answered {
	return w.do(q.method, "/v2/corp.test/"+q.repo+"/"+q.tail, append(as(user), q.headers...)...)
}

func (w *walk) request(user string, q wish) {
	w.hub.Forget()
	began := time.Now()
	a := w.ask(user, q)
	w.judge(user, q, a, began)
	heard := w.hub.Count(origintest.Manifest, origintest.Repo(q.repo),
		origintest.Where(func(r *origintest.Request) bool { return r.Status == 200 || r.Status == 304 })) > 0
	if heard && a.status < 400 {
		w.granted[pair{user, q.repo}] = began
	}
	w.settled()
}

// crowd has everybody ask for the same at about the same time, while the hub is slow and changes its mind.
func (w *walk) crowd(q wish) {
	slow, trickle := w.hub.When().Delay(time.Second), w.hub.When(origintest.Blob, origintest.GET).Pace(20<<10)
	began := time.Now()
	var all sync.WaitGroup
	got := make([]answered, len(w.users))
	for i, user := range w.users {
		late := time.Duration(w.rand.IntN(4000)) * time.Millisecond
		all.Go(func() {
			time.Sleep(late)
			got[i] = w.ask(user, q)
		})
	}
	if w.pick(50) {
		w.pass(2 * time.Second)
		w.change()
	}
	all.Wait()
	slow.End()
	trickle.End()
	for i, user := range w.users {
		w.judge(user, q, got[i], began)
	}
	w.settled()
}

// judge is the oracle.
func (w *walk) judge(user string, q wish, a answered, began time.Time) {
	p, now := pair{user, q.repo}, time.Now()
	w.tell("%q: %s %s/%s %v: %v", user, q.method, q.repo, q.tail, q.headers, a)
	gave := a.status == http.StatusOK || a.status == http.StatusPartialContent || a.status == http.StatusNotModified
	if q.kind == cache.KindReferrers && a.status == http.StatusOK && (q.method == http.MethodHead || bytes.Contains(a.body, []byte(`"manifests":[]`))) {
		gave = false
		if w.hides || q.method == http.MethodHead {
			return // nobody can tell an empty list by its head
		}
	}
	since := now.Sub(w.changed[p])
	switch lately := w.may[p] || since <= accessFor+tokenLife && !w.changed[p].IsZero(); {
	case a.err != nil:
		w.t.Errorf("%q: %v", user, a)
	case gave && (!lately || !q.there):
		w.t.Errorf("LEAK: %q got %s/%s: %v", user, q.repo, q.tail, a)
	case gave:
		w.checkBody(q, a)
	default:
		w.refused(user, q, a, began)
	}
	if !gave && (a.status == http.StatusUnauthorized || a.status == http.StatusForbidden) {
		delete(w.granted, p)
	}
	if gave && a.status == http.StatusOK && q.method == http.MethodGet && q.content != nil {
		w.held[q.repo+q.tail] = now
	}
}

// refused checks that a refusal is right, and says nothing.
func (w *walk) refused(user string, q wish, a answered, began time.Time) {
	p, now := pair{user, q.repo}, time.Now()
	w.silent(q.tail, a)
	settled := w.changed[p].IsZero() || now.Sub(w.changed[p]) > tokenLife // a hub that hides says nothing of an old token
	switch {
	case !q.there, w.changed[p].After(began):
	case !w.down && w.may[p] && (settled || !w.hides):
		w.t.Errorf("WRONG: %q may have %s/%s: %v", user, q.repo, q.tail, a)
	case w.down && now.Sub(w.held[q.repo+q.tail]) < partOf && !w.granted[p].IsZero() && now.Sub(w.granted[p]) < accessFor-time.Second:
		w.t.Errorf("WRONG: %q was granted %s %v ago: %v", user, q.repo, now.Sub(w.granted[p]), a)
	}
}

// checkBody checks that what came is what was asked for.
func (w *walk) checkBody(q wish, a answered) {
	ok := true
	switch {
	case a.status != http.StatusOK || q.method == http.MethodHead:
	case q.content != nil:
		ok = bytes.Equal(a.body, q.content.Bytes())
	case q.kind == cache.KindManifest:
		ok = slices.ContainsFunc(w.imgs[q.repo], func(img *origintest.Image) bool { return bytes.Equal(a.body, img.Top.Content.Bytes()) })
	case q.kind == cache.KindTags:
		var list struct{ Tags []string }
		ok = json.Unmarshal(a.body, &list) == nil && slices.Equal(list.Tags, w.lists[q.repo])
	}
	if !ok {
		w.t.Errorf("%s/%s: something else came: %.200q", q.repo, q.tail, a.body)
	}
}
