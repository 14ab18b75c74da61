package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// mirror starts Debian's docker-registry as a pull-through cache of what is at url.
func mirror(t *testing.T, url string) *registry { return mirrorAt(t, address(t), url) }

func mirrorAt(t *testing.T, addr, url string) *registry {
	t.Helper()
	needs(t, "docker-registry")
	r := &registry{t: t, addr: addr, conf: filepath.Join(t.TempDir(), "mirror.yml")}
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\n"+
		"http: {addr: %s, secret: x}\nproxy: {remoteurl: %s}\n", t.TempDir(), r.addr, url)
	must(t, os.WriteFile(r.conf, []byte(conf), 0o600))
	r.restart()
	return r
}

// twice is the chain in which distribution 2.8 fetches each blob twice, whoever asks it for one: once for the one who asks,
// and once to keep it (proxyBlobStore.ServeBlob).
const twice = "tidepool, distribution, registry"

// herd has n clients pull all of an image at once, and returns the first error.
func herd(n int, name string) error {
	var all sync.WaitGroup
	errs := make(chan error, n)
	for range n {
		all.Go(func() { errs <- pullAll(name) })
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestChainOfProxies puts proxies behind each other: what tidepool asks, it asks once for a whole herd; what is held is
// served without what is behind; and errors mean at the front what they mean at the end.
func TestChainOfProxies(t *testing.T) {
	t.Parallel()
	front := func(url string) string { return serve(t, "--upstream", "docker.io="+url).addr }
	for name, chain := range map[string]func(end string) (head string){
		twice:                              func(end string) string { return front("http://" + mirror(t, end).addr) },
		"distribution, tidepool, registry": func(end string) string { return mirror(t, "http://"+front(end)).addr },
		"tidepool, tidepool, registry":     func(end string) string { return front("http://" + front(end)) },
		"tidepool, distribution, tidepool, registry": func(end string) string { return front("http://" + mirror(t, "http://"+front(end)).addr) },
	} {
		t.Run(name, func(t *testing.T) {
			hub := open(t, t.TempDir(), false)
			k := &kitchen{t: t, repo: "library/chained", seed: 81 << 32}
			mine := k.oci(own(), types.OCILayer, 3, 400<<10)
			img := k.tag("docker.io", "1", mine, mine)
			push(t, hub.addr, img)
			hub.reached()
			head := chain("http://" + hub.addr)

			must(t, herd(20, head+"/"+img.repo+":1"))
			times := map[string]int{}
			for _, r := range hub.reached() {
				if r.status == http.StatusOK && (r.blob() || r.manifest()) {
					times[r.path]++
				}
			}
			blobs := 0
			for path, n := range times {
				if strings.Contains(path, "/blobs/") {
					blobs++
				}
				if n > 1 && !(name == twice && n == 2 && strings.Contains(path, "/blobs/")) {
					t.Errorf("%s was fetched %d times", path, n)
				}
			}
			if blobs != len(img.blobs()) {
				t.Errorf("%d blobs were fetched of %d", blobs, len(img.blobs()))
			}

			status, code := refusal(t, "http://"+head+"/v2/library/chained/manifests/missing")
			if status != http.StatusNotFound || code != "MANIFEST_UNKNOWN" {
				t.Errorf("a tag that is missing at the end is %d %s at the front", status, code)
			}
			hub.stop(t)
			if err := pullAll(head + "/" + img.repo + ":1"); err != nil {
				t.Errorf("held, with the end gone: %v", err)
			}
			// distribution calls an upstream that it cannot reach a missing manifest; tidepool must not believe what it
			// hears from one of its own.
			if status, code = refusal(t, "http://"+head+"/v2/library/other/manifests/1"); !strings.Contains(name, "distribution") && status < 500 {
				t.Errorf("with the end gone, what is not held is %d %s", status, code)
			}
		})
	}
}

// refusal is the status and the code of an answer that is none.
func refusal(t *testing.T, url string) (status int, code string) {
	t.Helper()
	res, err := http.Get(url)
	must(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	var doc struct{ Errors []struct{ Code string } }
	if json.Unmarshal(b, &doc) != nil || len(doc.Errors) == 0 {
		return res.StatusCode, ""
	}
	return res.StatusCode, doc.Errors[0].Code
}

// TestLoopThroughAStranger closes a circle through a proxy that does not tell where a request has been: nobody waits for
// ever, and the circle is not run through again and again.
func TestLoopThroughAStranger(t *testing.T) {
	t.Parallel()
	addr := address(t)
	pool := serve(t, "--upstream", "docker.io=http://"+addr)
	between := mirrorAt(t, addr, "http://"+pool.addr) // it asks who is there before it starts
	between.reached()
	began := time.Now()
	for range 3 {
		if status, code := refusal(t, "http://"+pool.addr+"/v2/library/round/manifests/1"); status < 400 {
			t.Errorf("%d %s", status, code)
		}
	}
	took := time.Since(began)
	n := len(between.reached())
	t.Logf("three requests took %v, and the circle was run through %d times", took.Round(time.Millisecond), n)
	if took > time.Minute || n > 30 {
		t.Errorf("three requests took %v, and the circle was run through %d times", took, n)
	}
}
