package main_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// balance starts nginx by the configuration that deploy/compose has, in front of members, and returns its address.
func balance(t *testing.T, members ...*tidepool) string {
	t.Helper()
	needs(t, "nginx")
	dir, at := t.TempDir(), address(t)
	text := read(t, "../../deploy/compose/nginx.conf")
	if strings.Count(text, "listen 5000;") != 1 {
		t.Fatal("deploy/compose/nginx.conf listens elsewhere than it did")
	}
	mustWrite(t, filepath.Join(dir, "nginx.conf"), strings.Replace(text, "listen 5000;", "listen "+at+";", 1))
	// The members' names are docker's, and "resolve" is of nginx versions later than Debian's: all else stays.
	list := strings.ReplaceAll(read(t, "../../deploy/compose/members.conf"), " resolve ", " ")
	list = strings.Replace(list, "resolver 127.0.0.11 valid=5s;", "", 1)
	for i, name := range []string{"one", "two", "three"} {
		list = strings.Replace(list, name+":5000", members[i].addr, 1)
	}
	mustWrite(t, filepath.Join(dir, "members.conf"), list)
	p := start(t, nil, "nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr",
		"-g", "daemon off; user root; pid "+filepath.Join(dir, "pid")+"; error_log stderr;")
	p.await(t, "nginx answers", func() bool { return answers("http://" + at + "/v2/") })
	return at
}

// TestBalancer has clients pull through a load balancer while one of its three members is killed, comes back, and is
// stopped in good order: what fails is at most what was under way at the one that was killed.
func TestBalancer(t *testing.T) {
	t.Parallel()
	needs(t, "nginx")
	needsRoot(t)
	o := origintest.New()
	var images []*origintest.Image
	for i := range 12 {
		images = append(images, o.PutImage("library/balanced", fmt.Sprint(i), origintest.Spec{Seed: uint64(i), Layers: []origintest.Layer{{Size: 300 << 10, Form: origintest.Raw}}}))
	}
	hub := origintest.Serve(t, o)
	c := gather(t, 3, hub.URL)
	at := balance(t, c.members...)
	const crowd = 6
	var stop atomic.Bool
	var pulls, cut atomic.Int64
	var kill atomic.Bool // a member is about to be killed
	var killed time.Time // when it certainly was
	gone := make(chan struct{})
	var clients sync.WaitGroup
	get := func(path string, want *origintest.Content) {
		began := time.Now()
		err := getOnce("http://"+at+"/v2/library/balanced/"+path, want)
		if err == nil {
			return
		}
		if kill.Load() {
			if <-gone; began.Before(killed) && cut.Add(1) <= crowd {
				return
			}
		}
		t.Errorf("%s: %v", path, err)
	}
	for n := range crowd {
		clients.Go(func() {
			for i := n; !stop.Load(); i++ {
				img := images[i%len(images)]
				for _, b := range img.Blobs {
					get("blobs/"+b.Digest.String(), b.Content)
				}
				get("manifests/"+fmt.Sprint(i%len(images)), img.Top.Content)
				pulls.Add(1)
			}
		})
	}
	more := func() { // so that each state of the cluster has seen every image from every client
		t.Helper()
		enough := pulls.Load() + crowd*int64(len(images))
		eventually(t, "the clients go on pulling", func() bool { return pulls.Load() >= enough || t.Failed() })
	}
	more()
	kill.Store(true)
	c.members[1].kill()
	killed = time.Now()
	close(gone)
	more()
	c.members[1].restart()
	c.settle(3)
	more()
	left := leftAlone(t, c.members[0], c.members[2]) // the others were away
	c.members[2].stop(t)
	more()
	stop.Store(true)
	clients.Wait()
	t.Logf("%d pulls; %d requests were under way at the member that was killed, and cut off", pulls.Load(), cut.Load())
	for _, img := range images {
		for _, b := range img.Blobs {
			if n := o.Sent(b.Digest).Most(); n > 3+left { // once, and again for each that went
				t.Errorf("%s was sent %d times; left alone: %d", b.Digest, n, left)
			}
		}
	}
}

// TestBalancerStreams has a blob go through the load balancer while it arrives from its registry.
func TestBalancerStreams(t *testing.T) {
	needs(t, "nginx")
	needsRoot(t)
	const size, first = 16 << 20, 4 << 20
	o := origintest.New()
	blob := o.PutImage("library/slow", "1", origintest.Spec{Layers: []origintest.Layer{{Size: size, Form: origintest.Raw}}}).Blobs[1]
	if blob.Size < size {
		t.Fatal("this is not the layer")
	}
	o.When(origintest.Blob).StallAt(8 << 20).Times(1)
	c := gather(t, 3, origintest.Serve(t, o).URL)
	res, err := http.Get("http://" + balance(t, c.members...) + "/v2/library/slow/blobs/" + blob.Digest.String())
	must(t, err)
	defer res.Body.Close()
	if _, err := io.CopyN(io.Discard, res.Body, first); err != nil {
		t.Error(err)
	}
	if sent := o.Sent(blob.Digest).Distinct(); sent >= size {
		t.Errorf("the registry has sent all of it before the client had its first %d bytes", first)
	}
}
