package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/admin"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// warms gives an order and returns how each image ended, and what became of all.
func (w *pool) warms(o admin.WarmOrder) (ends map[string]warmEvent, sum warmSummary) {
	w.t.Helper()
	ends = map[string]warmEvent{}
	err := w.warm(w.t.Context(), o, func(line []byte) error {
		var e warmEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		switch e.State {
		case stateOver:
			return json.Unmarshal(line, &sum)
		case "started", "moving":
		default:
			ends[e.Image] = e
		}
		return nil
	})
	if err != nil || sum.State != stateOver {
		w.t.Errorf("%+v, %v", sum, err)
	}
	return ends, sum
}

// warm gives an order and hands on each line of the answer.
func (w *pool) warm(ctx context.Context, o admin.WarmOrder, each func(line []byte) error) error {
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.adminAddr.String()+"/api/v1/warm", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		return fmt.Errorf("%s: %s", res.Status, text)
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if err := each(lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}

const app = "docker.io/" + repo

// ended checks how an image ended.
func ended(t *testing.T, ends map[string]warmEvent, image, state, say string) {
	t.Helper()
	if e, ok := ends[image]; !ok || e.State != state || !strings.Contains(e.Error, say) {
		t.Errorf("%s: %+v, want %s %q of %v", image, e, state, say, ends)
	}
}

// TestWarm: what is fetched ahead costs what it must, once.
func TestWarm(t *testing.T) {
	never := func(images ...string) admin.WarmOrder { return admin.WarmOrder{Images: images, Referrers: "never"} }
	bubble(t, "once", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}})
		w := inBubble(t, o)
		cold := []string{"GET manifests/latest"}
		for _, m := range img.Manifests {
			if m.Digest != img.Top.Digest {
				cold = append(cold, "GET manifests/"+m.Digest.String())
			}
		}
		for _, b := range img.Blobs {
			cold = append(cold, "GET blobs/"+b.Digest.String())
		}
		costs(t, o, "a cold image", func() {
			ends, sum := w.warms(never("app"))
			ended(t, ends, app+":latest", "fetched", "")
			if sum.Bytes != img.Size() || sum.Images != 1 || sum.Fetched != 1 {
				t.Errorf("%+v, of %d bytes", sum, img.Size())
			}
		}, cold...)
		costs(t, o, "a pull after it", func() { w.pulls("latest", img) })
		time.Sleep(6 * time.Minute)
		costs(t, o, "an unchanged image", func() {
			ends, sum := w.warms(never("docker.io/library/app:latest", "app"))
			ended(t, ends, app+":latest", "unchanged", "")
			if sum.Bytes != 0 || sum.Images != 1 || sum.Unchanged != 1 {
				t.Errorf("%+v", sum)
			}
		}, "HEAD manifests/latest")
		next := o.PutImage(repo, "latest", origintest.Spec{Seed: 1, Layers: []origintest.Layer{{Size: 1 << 10}}})
		time.Sleep(6 * time.Minute)
		changed := []string{"HEAD manifests/latest", "GET manifests/" + next.Top.Digest.String()}
		for _, b := range next.Blobs {
			changed = append(changed, "GET blobs/"+b.Digest.String())
		}
		costs(t, o, "a changed image", func() { w.warms(never("app")) }, changed...)
		costs(t, o, "by digest", func() { w.warms(never("app@" + img.Top.Digest.String())) })
	})
	bubble(t, "grace is for clients", func(t *testing.T) {
		o := origintest.New()
		o.PutImage(repo, "latest", origintest.Spec{})
		w := inBubble(t, o, plan{file: "tags: [{match: '**', fresh: 5m, grace: 24h}]"})
		w.warms(never("app"))
		next := o.PutImage(repo, "latest", origintest.Spec{Seed: 1})
		time.Sleep(6 * time.Minute)
		ends, _ := w.warms(never("app"))
		if e := ends[app+":latest"]; e.Digest != next.Top.Digest.String() || e.State != "fetched" {
			t.Errorf("%+v", e)
		}
	})
	bubble(t, "platforms", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64"}})
		w := inBubble(t, o)
		ends, _ := w.warms(admin.WarmOrder{Images: []string{"app"}, Platforms: []string{"linux/arm/v7", "linux/amd64"}, Referrers: "never"})
		ended(t, ends, app+":latest", "fetched", "")
		for n, v := range img.Variants {
			want := n == 0 || n == 2
			if held := w.store.Holds(v.Manifest.Digest); held != want {
				t.Errorf("variant %d is held: %v", n, held)
			}
			for _, l := range v.Layers {
				if held := w.store.Holds(l.Digest); held != want {
					t.Errorf("layer of variant %d is held: %v", n, held)
				}
			}
		}
		ends, sum := w.warms(admin.WarmOrder{Images: []string{"app"}, Platforms: []string{"linux/s390x"}, Referrers: "never"})
		if ended(t, ends, app+":latest", "failed", "there is none for linux/s390x: there are linux/amd64, linux/arm/v6"); sum.Failed != 1 {
			t.Errorf("%+v", sum)
		}
	})
	bubble(t, "a bad one stops no other", func(t *testing.T) {
		o := origintest.New()
		good := o.PutImage(repo, "good", origintest.Spec{})
		o.PutImage("library/broken", "1", origintest.Spec{Seed: 2})
		o.When(origintest.Repo("library/broken"), origintest.Blob).Flip(3)
		w := inBubble(t, o)
		ends, sum := w.warms(never("broken:1", "missing:1", "app:good", "Bad/Name", "evil.test/app", "app:~bad", "library/none:v*"))
		ended(t, ends, "docker.io/library/broken:1", "failed", "corrupt")
		ended(t, ends, "docker.io/library/missing:1", "failed", "404")
		ended(t, ends, app+":good", "fetched", "")
		ended(t, ends, "Bad/Name", "failed", "lower-case")
		ended(t, ends, "evil.test/app", "failed", "not an upstream")
		ended(t, ends, "app:~bad", "failed", "range of versions")
		ended(t, ends, "library/none:v*", "failed", "404")
		if sum.Images != 7 || sum.Failed != 6 || sum.Fetched != 1 {
			t.Errorf("%+v", sum)
		}
		o.Forget()
		w.pulls("good", good)
		if n := o.Count(origintest.Repo(repo)); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
	bubble(t, "tags", func(t *testing.T) {
		o := origintest.New()
		for n, tag := range []string{"1.4.0", "1.4.1", "1.4.10", "1.5.0", "1.4.2-alpine", "latest"} {
			o.PutImage(repo, tag, origintest.Spec{Seed: uint64(n)})
		}
		w := inBubble(t, o)
		names := func(o admin.WarmOrder) string {
			ends, _ := w.warms(o)
			var tags []string
			for image, e := range ends {
				if e.State == "failed" {
					t.Errorf("%+v", e)
				}
				tags = append(tags, strings.TrimPrefix(image, app+":"))
			}
			slices.Sort(tags)
			return strings.Join(tags, " ")
		}
		o.Forget()
		if got := names(never("app:~1.4")); got != "1.4.0 1.4.1 1.4.10" {
			t.Error(got)
		}
		if got := names(admin.WarmOrder{Images: []string{"app:~1.4"}, Newest: 2}); got != "1.4.1 1.4.10" {
			t.Error(got)
		}
		if got := names(never("app:1.4.*", "app:latest")); got != "1.4.0 1.4.1 1.4.10 1.4.2-alpine latest" {
			t.Error(got)
		}
		if n := o.Count(origintest.Where(func(r *origintest.Request) bool { return strings.Contains(r.Path, "tags/list") })); n != 1 {
			t.Errorf("the list was asked for %d times", n)
		}
	})
}

// TestWarmPlaces: what is fetched ahead is looked for where clients' pulls are, and nowhere else.
func TestWarmPlaces(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		net, in, out := new(origintest.Net), origintest.New(), origintest.New()
		origintest.ServeIn(t, net, "in.test:80", in)
		origintest.ServeIn(t, net, "out.test:80", out)
		out.PutImage("library/tool", "1.0.0", origintest.Spec{})
		in.PutImage("internal/app", "1.0.0", origintest.Spec{Seed: 1})
		out.PutImage("internal/app", "1.0.1", origintest.Spec{Seed: 2})
		out.PutImage("new/app", "1", origintest.Spec{Seed: 3})
		w := fill(t, plan{net: net, hubs: map[string]string{"in.corp": "http://in.test", "docker.io": "http://out.test"}, file: `
upstreams: {all: {type: virtual, of: [in.corp, docker.io], inside: ["internal/**"], inside_of: [in.corp]}}
aliases: [{from: "docker.io/old/**", to: "docker.io/new/**"}]
`})
		order := func(images ...string) admin.WarmOrder {
			return admin.WarmOrder{Images: images, Referrers: "never", Pin: true}
		}
		ends, _ := w.warms(order("all/library/tool:1.0.0", "all/internal/app:^1", "docker.io/old/app:1"))
		ended(t, ends, "docker.io/library/tool:1.0.0", "fetched", "")
		ended(t, ends, "in.corp/internal/app:1.0.0", "fetched", "")
		ended(t, ends, "docker.io/new/app:1", "fetched", "")
		if n := out.Count(origintest.Repo("internal/app")); n != 0 || len(ends) != 3 {
			t.Errorf("%d requests outside for what is inside; %v", n, ends)
		}
		ends, _ = w.warms(order("docker.io/internal/app:1.0.1"))
		if e := ends["docker.io/internal/app:1.0.1"]; e.State != "failed" || out.Count(origintest.Repo("internal/app")) != 0 {
			t.Errorf("%v, %d requests outside", ends, out.Count(origintest.Repo("internal/app")))
		}
		w.hubs.SetOffline("", true)
		w.get("/v2/all/internal/app/manifests/1.0.0").is(t, 200)
	})
}

// TestWarmReferrers: signatures and bills of materials come along, once, and are there without the registry.
func TestWarmReferrers(t *testing.T) {
	bubble(t, "once", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{Platforms: []string{"linux/amd64"}})
		sbom := o.PutArtifact(repo, img.Top.Descriptor, "application/spdx+json", origintest.Synthetic(7, 50<<10))
		sig := o.PutArtifact(repo, sbom.Top.Descriptor, "application/vnd.dev.sigstore.bundle.v0.3+json", origintest.Synthetic(8, 1<<10))
		old := o.PutImage(repo, strings.Replace(img.Top.Digest.String(), ":", "-", 1)+".sig", origintest.Spec{Seed: 9})
		w := inBubble(t, o)
		ends, _ := w.warms(admin.WarmOrder{Images: []string{"app"}, Pin: true})
		ended(t, ends, app+":latest", "fetched", "")
		for _, x := range []*origintest.Image{sbom, sig, old} {
			for _, b := range append(slices.Clone(x.Blobs), x.Top) {
				if !w.store.Holds(b.Digest) {
					t.Errorf("%s is not here", b.Digest)
				}
			}
		}
		time.Sleep(10 * time.Minute)
		costs(t, o, "an unchanged image", func() { w.warms(admin.WarmOrder{Images: []string{"app"}}) }, "HEAD manifests/latest")
		time.Sleep(10 * time.Minute)
		costs(t, o, "an unchanged image that is pinned", func() { w.warms(admin.WarmOrder{Images: []string{"app"}, Pin: true}) }, "HEAD manifests/latest")
		late := o.PutArtifact(repo, img.Top.Descriptor, "application/late", origintest.Synthetic(10, 1<<10))
		w.warms(admin.WarmOrder{Images: []string{"app"}})
		if w.store.Holds(late.Top.Digest) {
			t.Error("asked for again")
		}
		w.warms(admin.WarmOrder{Images: []string{"app"}, Referrers: "always"})
		if !w.store.Holds(late.Top.Digest) {
			t.Error("not asked for again")
		}

		w.hubs.SetOffline("", true)
		list := w.get("/v2/" + repo + "/referrers/" + img.Top.Digest.String())
		if list.is(t, http.StatusOK); !bytes.Contains(list.body, []byte(sbom.Top.Digest.String())) {
			t.Errorf("offline, it is referred to by %s", list.body)
		}
		w.get(manifestPath(strings.Replace(img.Top.Digest.String(), ":", "-", 1)+".sig")).brings(t, old.Top.Content)
	})
}

// TestPinned: what is pinned stays, whatever else has to go, without its registry, and after a restart that has lost
// all that may be lost.
func TestPinned(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []origintest.Layer{{Size: 1 << 20, Form: origintest.Raw}}})
		w := inBubble(t, o, plan{flags: map[string][]string{"disk": {"16MiB"}}})
		ends, _ := w.warms(admin.WarmOrder{Images: []string{"app"}, Pin: true})
		if e := ends[app+":latest"]; e.State != "fetched" || !e.Pinned {
			t.Errorf("%+v", e)
		}
		for n := range uint64(40) {
			if err := w.fetch(t.Context(), o.PutBlob(repo, origintest.Synthetic(100+n, 1<<20)), 0, -1); err != nil {
				t.Fatal(err)
			}
		}
		if s := w.store.Stats(); s.Evicted == 0 || s.PinnedBytes < 2<<20 {
			t.Errorf("%+v", s)
		}
		w.close()
		if err := os.Remove(filepath.Join(w.plan.dir, "store", "facts.db")); err != nil {
			t.Fatal(err)
		}
		o.When().Drop()
		time.Sleep(100 * 24 * time.Hour)
		o.Forget()
		w.open()
		a := w.get(manifestPath("latest"))
		if a.brings(t, img.Top.Content); !strings.HasPrefix(a.header.Get("Warning"), "299 ") {
			t.Errorf("nothing says that it is old: %v", a.header)
		}
		w.pulls("latest", img)
		if code, list := w.pinned(); code != 200 || len(list.Pins) != 1 || !list.Pins[0].Whole || list.Pins[0].Owner != byHand || list.Pins[0].Image != app+":latest" {
			t.Errorf("%d %+v", code, list)
		}
		ends, _ = w.warms(admin.WarmOrder{Images: []string{"app"}, Pin: true})
		ended(t, ends, app+":latest", "failed", "could not be asked")
	})
	bubble(t, "no room", func(t *testing.T) {
		o := origintest.New()
		big := o.PutImage(repo, "big", origintest.Spec{Layers: []origintest.Layer{{Size: 9 << 20, Form: origintest.Raw}}})
		small := o.PutImage("library/small", "1", origintest.Spec{Layers: []origintest.Layer{{Size: 5 << 20, Form: origintest.Raw}}, Seed: 3})
		w := inBubble(t, o, plan{flags: map[string][]string{"disk": {"12MiB"}}})
		w.warms(admin.WarmOrder{Images: []string{"small:1"}, Pin: true})
		ends, _ := w.warms(admin.WarmOrder{Images: []string{"app:big"}, Pin: true})
		ended(t, ends, app+":big", "failed", "no room")
		w.pulls("big", big) // clients get it all the same
		if a := w.admin("/healthz?verbose"); a.status != http.StatusOK || !strings.Contains(string(a.body), "[+] disk: ok") {
			t.Errorf("%d %s", a.status, a.body)
		}
		w.close()
		w.plan.flags["disk"] = []string{"5MiB"}
		w.open()
		if a := w.admin("/healthz?verbose"); a.status != http.StatusOK || !strings.Contains(string(a.body), "what is pinned takes 5.0 MiB of 5.0 MiB") {
			t.Errorf("%d %s", a.status, a.body)
		}
		for _, b := range small.Blobs {
			if !w.store.Holds(b.Digest) {
				t.Error("what was pinned is gone")
			}
		}
	})
}

// pinned asks what is pinned.
func (w *pool) pinned() (status int, list pinList) {
	w.t.Helper()
	a := w.admin("/api/v1/pins")
	if err := json.Unmarshal(a.body, &list); err != nil {
		w.t.Error(err)
	}
	return a.status, list
}

// TestWarmRules: rules are carried out when they are due, within their hours, and pin what they mean.
func TestWarmRules(t *testing.T) {
	t.Parallel()
	bubble(t, "every hour, newest two", func(t *testing.T) {
		o := origintest.New()
		for n, tag := range []string{"1.0.0", "1.1.0", "1.2.0"} {
			o.PutImage(repo, tag, origintest.Spec{Seed: uint64(n)})
		}
		w := inBubble(t, o, plan{file: "warm: [{images: ['app:^1'], newest: 2, every: 1h, pin: true}]"})
		time.Sleep(time.Minute)
		pins := func() string {
			var all []string
			_, list := w.pinned()
			for _, p := range list.Pins {
				if all = append(all, strings.TrimPrefix(p.Image, app+":")); p.Owner != "rules" {
					t.Errorf("%+v", p)
				}
			}
			return strings.Join(all, " ")
		}
		if got := pins(); got != "1.1.0 1.2.0" {
			t.Error(got)
		}
		o.PutImage(repo, "1.3.0", origintest.Spec{Seed: 9})
		time.Sleep(time.Hour)
		if got := pins(); got != "1.2.0 1.3.0" {
			t.Error(got)
		}
		w.close()
		w.plan.file = ""
		w.open()
		time.Sleep(time.Minute)
		if got := pins(); got != "" {
			t.Errorf("no rule is left, and pinned is %s", got)
		}
	})
	bubble(t, "hours", func(t *testing.T) {
		o := origintest.New()
		img := o.PutImage(repo, "latest", origintest.Spec{Layers: []origintest.Layer{{Size: 20 << 20, Form: origintest.Raw}}})
		o.When(origintest.Blob).Pace(4 << 10) // an hour and a half
		now := time.Now()
		clock := func(d time.Duration) string { return now.Add(d).Format("15:04") }
		w := inBubble(t, o, plan{file: fmt.Sprintf("warm: [{images: [app], every: 10m, windows: [{from: '%s', to: '%s'}]}]",
			clock(time.Hour), clock(2*time.Hour))})
		time.Sleep(time.Hour - time.Minute)
		if n := o.Count(); n != 0 {
			t.Errorf("%d requests before its hours", n)
		}
		time.Sleep(time.Hour + 2*time.Minute)
		if n := o.Count(); n == 0 {
			t.Error("no request within its hours")
		}
		o.Forget()
		got := w.received()
		time.Sleep(22*time.Hour + 30*time.Minute)
		if n := o.Count(); n != 0 || w.received() != got || w.store.Stats().Flights != 0 {
			t.Errorf("%d requests and %d bytes after its hours", n, w.received()-got)
		}
		time.Sleep(4 * time.Hour)
		for _, b := range img.Blobs {
			if !w.store.Holds(b.Digest) {
				t.Error("it does not go on where it stopped")
			}
			if n := o.Sent(b.Digest).Repeated(); n > 1<<20 {
				t.Errorf("%d bytes were fetched twice", n)
			}
		}
	})
	bubble(t, "cron", func(t *testing.T) {
		o := origintest.New()
		o.PutImage(repo, "latest", origintest.Spec{})
		w := inBubble(t, o, plan{file: "warm: [{images: [app], cron: '30 2 * * *'}]"})
		first := time.Date(2000, 1, 1, 2, 30, 0, 0, time.Local)
		for !first.After(time.Now()) {
			first = first.Add(24 * time.Hour)
		}
		time.Sleep(time.Until(first) - time.Minute)
		if n := o.Count(); n != 0 {
			t.Errorf("%d requests before it is due", n)
		}
		time.Sleep(2 * time.Minute)
		if n := o.Count(origintest.Manifest); n == 0 {
			t.Error("it was not carried out")
		}
		time.Sleep(24 * time.Hour)
		if n := o.Count(origintest.Method(http.MethodHead), origintest.Ref("latest")); n != 1 {
			t.Errorf("asked for %d times the day after", n)
		}
		_ = w
	})
}

// TestWarmAndClients: who fetches ahead is in nobody's way.
func TestWarmAndClients(t *testing.T) {
	bubble(t, "uplink", func(t *testing.T) {
		const budget = 20_000_000
		o := origintest.New()
		o.PutImage(repo, "huge", origintest.Spec{Layers: []origintest.Layer{
			{Size: 1 << 30, Form: origintest.Raw}, {Size: 512 << 20, Form: origintest.Raw}, {Size: 512 << 20, Form: origintest.Raw},
		}})
		cold := o.PutBlob(repo, origintest.Synthetic(2, 5*budget))
		w := inBubble(t, o, plan{file: "uplink: {limit: 20MB/s}", flags: map[string][]string{"disk": {"8GiB"}}})
		o.When(origintest.Blob).Pace(5 * budget)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() {
			over <- w.warm(ctx, admin.WarmOrder{Images: []string{"app:huge"}}, func([]byte) error { return nil })
		}()
		time.Sleep(3 * time.Second)
		if got := float64(w.received()) / budget / 3; got < 0.9 {
			t.Errorf("alone, it gets %.2f of the budget", got)
		}
		before := o.Sent(cold.Digest()).Total()
		go func() { _ = w.fetch(ctx, cold, 0, -1) }()
		time.Sleep(time.Second)
		first := o.Sent(cold.Digest()).Total() - before
		time.Sleep(2 * time.Second)
		got := float64(o.Sent(cold.Digest()).Total()-before-first) / budget / 2
		t.Logf("a client gets %.2f of the budget in its first second, %.2f in the next two", float64(first)/budget, got)
		if got < 0.9 {
			t.Errorf("a client gets %.2f of the budget", got)
		}
		cancel()
		if err := <-over; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		if n := w.store.Stats().Flights; n > 1 { // the client's
			t.Errorf("%d downloads go on for nobody", n)
		}
	})
	bubble(t, "pull limit", func(t *testing.T) {
		o := origintest.New()
		for n := range uint64(20) {
			o.PutImage(fmt.Sprintf("library/app%d", n), "1", origintest.Spec{Seed: n})
		}
		o.RateLimit(10, 6*time.Hour, "192.0.2.1")
		w := inBubble(t, o, plan{file: "upstreams: {docker.io: {endpoints: ['http://hub.test'], reserve: 50%}}"})
		var images []string
		for n := range 20 {
			images = append(images, fmt.Sprintf("app%d:1", n))
		}
		ends, sum := w.warms(admin.WarmOrder{Images: images, Referrers: "never"})
		if sum.Fetched < 3 || sum.Fetched > 5 || sum.Fetched+sum.Failed != 20 {
			t.Errorf("%+v: of 10 pulls, 5 are for clients", sum)
		}
		for _, e := range ends {
			if e.State == "failed" && !strings.Contains(e.Error, "reserve") {
				t.Errorf("%+v", e)
			}
		}
		a := w.get("/v2/library/app19/manifests/1")
		a.is(t, http.StatusOK)
	})
	bubble(t, "shutdown", func(t *testing.T) {
		o := origintest.New()
		o.PutImage(repo, "latest", origintest.Spec{Layers: []origintest.Layer{{Size: 1 << 20, Form: origintest.Raw}}})
		o.When(origintest.Blob).Hang()
		w := inBubble(t, o)
		over := make(chan string, 1)
		go func() {
			var last warmSummary
			err := w.warm(t.Context(), admin.WarmOrder{Images: []string{"app"}}, func(line []byte) error { return json.Unmarshal(line, &last) })
			over <- fmt.Sprint(last.State, cmp.Or(err, nil))
		}()
		time.Sleep(time.Minute) // longer than a request to the admin listener may take to come
		began := time.Now()
		w.close()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v to stop", took)
		}
		if got := <-over; !strings.HasPrefix(got, stateOver) {
			t.Errorf("who waits for it hears %s", got)
		}
	})
}
