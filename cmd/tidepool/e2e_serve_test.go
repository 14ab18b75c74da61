package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// TestDrain ends tidepool while 100 clients are in the middle of a blob, half of them one that is still arriving:
// each of them gets the rest, nobody new comes in, and the exit status is 0.
func TestDrain(t *testing.T) {
	needs(t)
	const streams, size, delay = 100, 16 << 20, 2 * time.Second
	o := origintest.New()
	held := o.PutBlob("test/drain", origintest.Synthetic(1, size))
	arriving := o.PutBlob("test/drain", origintest.Synthetic(2, size))
	stalled := o.When(origintest.GET, origintest.Of(arriving.Digest())).StallAt(size / 2)
	pool := serve(t, "--upstream", "docker.io="+origintest.Serve(t, o).URL, "--shutdown-delay", delay.String(),
		"--drain", patience.String()) // a busy machine needs long for 1.6 GiB
	url := func(c *origintest.Content) string {
		return "http://" + pool.addr + "/v2/test/drain/blobs/" + c.Digest().String()
	}
	if _, err := fetch(url(held), held, 0, size); err != nil {
		t.Fatal(err)
	}

	var begun, all sync.WaitGroup
	goOn := make(chan struct{})
	for i := range streams {
		blob := held
		if i%2 == 1 {
			blob = arriving
		}
		begun.Add(1)
		all.Go(func() {
			if err := inTwo(url(blob), blob, sync.OnceFunc(begun.Done), goOn); err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
	}
	begun.Wait()
	terminated := time.Now()
	must(t, pool.Process.Signal(syscall.SIGTERM))
	pool.await(t, "/readyz refuses", func() bool { return !answers("http://" + pool.admin + "/readyz") })
	if !answers("http://"+pool.addr+"/v2/") && time.Since(terminated) < delay {
		t.Error("the door closed before those who watch /readyz could know")
	}
	pool.await(t, "nobody new comes in", func() bool { return !reachable(pool.addr) })
	close(goOn)
	stalled.Release()
	all.Wait()
	if code := pool.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// inTwo reads the first bytes of what url serves, calls begun, and reads the rest once it may go on.
func inTwo(url string, want *origintest.Content, begun func(), goOn <-chan struct{}) error {
	defer begun()
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	const head = 64 << 10
	if _, err := compare(io.LimitReader(resp.Body, head), want, 0); err != nil {
		return err
	}
	begun()
	<-goOn
	rest, err := compare(resp.Body, want, head)
	if err == nil && head+rest != want.Size() {
		err = fmt.Errorf("a clean end after %d bytes of %d", head+rest, want.Size())
	}
	return err
}

// TestSendfile counts the system calls of a hit: the kernel moves the file, no copy goes through the program.
func TestSendfile(t *testing.T) {
	needs(t, "strace")
	const size = 100 << 20
	o := origintest.New()
	blob := o.PutBlob("test/sendfile", origintest.Synthetic(1, size))
	pool := serve(t, "--upstream", "docker.io="+origintest.Serve(t, o).URL)
	url := "http://" + pool.addr + "/v2/test/sendfile/blobs/" + blob.Digest().String()
	if _, err := fetch(url, blob, 0, size); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the blob is a hit", func() bool {
		resp, err := http.Head(url)
		must(t, err)
		resp.Body.Close()
		return strings.Contains(resp.Header.Get("Cache-Status"), "hit")
	})

	calls := filepath.Join(t.TempDir(), "calls")
	tracer := start(t, nil, "strace", "-f", "-p", strconv.Itoa(pool.Process.Pid), "-o", calls,
		"-e", "trace=sendfile,write,writev,sendto,sendmsg,splice")
	tracer.await(t, "strace is attached", func() bool { return strings.Contains(tail(tracer.log), "attached") })
	if _, err := fetch(url, blob, 0, size); err != nil {
		t.Fatal(err)
	}
	tracer.stop(t)
	moved := bytesBy(t, calls)
	const first = 512 // bytes that net/http puts behind the header, in one packet with it
	if moved["sendfile"] < size-first {
		t.Errorf("%d bytes of %d went out by sendfile", moved["sendfile"], size)
	}
	delete(moved, "sendfile")
	for call, n := range moved {
		if n > 64<<10 { // the header, a line of the log, wake-ups
			t.Errorf("%d bytes went through %s", n, call)
		}
	}
}

// bytesBy adds up what strace saw each system call move.
func bytesBy(t *testing.T, trace string) map[string]int64 {
	t.Helper()
	b, err := os.ReadFile(trace)
	must(t, err)
	moved := map[string]int64{}
	call := regexp.MustCompile(`(?m)^[0-9]+ +(?:<\.\.\. )?([a-z]+)(?:\(| resumed).*= ([0-9]+)$`)
	for _, m := range call.FindAllSubmatch(b, -1) {
		n, err := strconv.ParseInt(string(m[2]), 10, 64)
		must(t, err)
		moved[string(m[1])] += n
	}
	return moved
}

// TestUpstreamDown starts tidepool while its upstream is down: that is no reason not to start, the refusal says what
// is wrong, and once the upstream is there pulls work. What was pulled is served by one who starts later, too.
func TestUpstreamDown(t *testing.T) {
	needs(t)
	o := origintest.New()
	k := &kitchen{t: t, seed: 11 << 32}
	put(t, o, "test/late", k.oci(own(), types.OCILayer, 2, 100<<10))
	hub := origintest.Serve(t, o)
	hub.Close()
	pool := serve(t, "--upstream", "docker.io="+hub.URL)
	resp, err := http.Get("http://" + pool.addr + "/v2/test/late/manifests/latest")
	must(t, err)
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	resp.Body.Close()
	var refusal struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(body, &refusal); err != nil || len(refusal.Errors) == 0 || resp.StatusCode < 500 {
		t.Errorf("%s with %s, want a server's error as the distribution spec writes it", resp.Status, body)
	}

	image := pool.addr + "/test/late:latest"
	must(t, hub.Reopen())
	eventually(t, "the upstream is tried again", func() bool { return pullAll(image) == nil })
	pool.stop(t)
	hub.Close()
	pool.restart()
	if err := pullAll(image); err != nil {
		t.Errorf("after a restart with the upstream down: %v", err)
	}
}

// TestReferrers asks for what refers to an image at a registry without a referrers API: tidepool answers from the
// fallback tag, also when the registry is gone.
func TestReferrers(t *testing.T) {
	hub := open(t, t.TempDir(), false)
	k := &kitchen{t: t, repo: "test/subject", seed: 13 << 32}
	subject := k.oci(own(), types.OCILayer, 1, 1<<10)
	sbom := k.artifact("application/vnd.example.sbom", subject)
	images := []*image{k.tag("docker.io", "subject", subject, subject), k.tag("docker.io", "sbom", sbom, sbom)}
	push(t, hub.addr, images...)
	pool := serve(t, "--upstream", "docker.io=http://"+hub.addr)
	ref, err := name.NewDigest(pool.addr+"/"+images[0].repo+"@"+images[0].digest, name.Insecure)
	must(t, err)
	for _, state := range []string{"up", "down"} {
		index, err := remote.Referrers(ref, remote.WithFilter("artifactType", "application/vnd.example.sbom"))
		must(t, err)
		list, err := index.IndexManifest()
		must(t, err)
		if len(list.Manifests) != 1 || list.Manifests[0].Digest.String() != images[1].digest {
			t.Errorf("with the registry %s: referrers are %v, want %s", state, list.Manifests, images[1].digest)
		}
		must(t, pullAll(pool.addr+"/"+images[1].repo+"@"+images[1].digest))
		hub.stop(t)
	}
}

// TestTagRevalidation pulls an image whose tag may be a millisecond old at most: again and again the registry is
// asked whether the tag has moved, by a HEAD, which hubs do not count, and for nothing else.
func TestTagRevalidation(t *testing.T) {
	s := newScene(t, "tags: [{match: \"**\", fresh: 1ms}]\n")
	k := &kitchen{t: t, repo: "library/aged", seed: 15 << 32}
	img := k.oci(own(), types.OCILayer, 2, 100<<10)
	push(t, s.hub.addr, k.tag("docker.io", "latest", img, img))
	must(t, pullAll(s.pool.addr+"/library/aged:latest"))
	s.reached()
	must(t, pullAll(s.pool.addr+"/library/aged:latest"))
	heads := 0
	for _, r := range s.reached() {
		if r.method != http.MethodHead || !strings.HasSuffix(r.path, "/manifests/latest") {
			t.Errorf("reached the registry: %s", r)
		}
		heads++
	}
	if heads == 0 {
		t.Error("nobody asked whether the tag has moved")
	}
}
