package main_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// large is the size of the blob that TestLargeBlob pulls, in GiB. Releases are tested with 20.
var large = flag.Int64("large", 1, "`GiB` of the blob that TestLargeBlob pulls")

// errWrong says that bytes were served that are not the content's: nothing excuses that.
var errWrong = errors.New("wrong bytes")

// fetch reads n bytes of what url serves from off on, and returns how many came, all of them right.
func fetch(url string, want *origintest.Content, off, n int64) (good int64, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	if n < want.Size() {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if partial := resp.StatusCode == http.StatusPartialContent; !partial && resp.StatusCode != http.StatusOK ||
		partial != (n < want.Size()) {
		return 0, errors.New(resp.Status)
	}
	good, err = compare(resp.Body, want, off)
	if err == nil && good != n {
		err = fmt.Errorf("%w: a clean end after %d bytes of %d", errWrong, good, n)
	}
	return good, err
}

// compare reads r to its end and returns how many bytes came, all of which are content's from off on.
func compare(r io.Reader, content *origintest.Content, off int64) (good int64, err error) {
	got, exp := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := r.Read(got)
		content.ReadAt(exp[:n], off+good)
		if !bytes.Equal(got[:n], exp[:n]) {
			return good, fmt.Errorf("%w near byte %d", errWrong, off+good)
		}
		good += int64(n)
		if err == io.EOF {
			return good, nil
		}
		if err != nil {
			return good, err
		}
	}
}

// follow is fetch for one who does not give up: it goes on where it was broken off, as long as that leads anywhere.
func follow(url string, want *origintest.Content, off, n int64) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for last := time.Now(); ; <-tick.C {
		good, err := fetch(url, want, off, n)
		if err == nil || errors.Is(err, errWrong) {
			return err
		}
		off, n = off+good, n-good
		if good > 0 {
			last = time.Now()
		}
		if time.Since(last) > patience {
			return fmt.Errorf("at byte %d for %v: %w", off, patience, err)
		}
	}
}

// TestLargeBlob pulls one blob that breaks off 20 times on its way, with 50 followers at offsets all over it beside
// one who reads the whole, and kills tidepool twice. All get the right bytes, the upstream sends next to none twice,
// and tidepool's memory does not grow with the blob.
func TestLargeBlob(t *testing.T) {
	t.Parallel()
	needs(t)
	const followers, places, cuts = 50, 8, 20
	const flat = 128 << 20 // bytes of memory: twice the memory tier's budget
	const lost = 20 << 20  // bytes that were on their way, in all requests of a place, when tidepool was killed, whatever the size
	size := *large << 30
	o := origintest.New()
	blob := o.PutBlob("test/large", origintest.Synthetic(1, size))
	o.When(origintest.Blob, origintest.GET).Times(cuts).CutAt(8 << 20)
	hub := origintest.Serve(t, o)
	pool := serve(t, "--upstream", "docker.io="+hub.URL)
	url := "http://" + pool.addr + "/v2/test/large/blobs/" + blob.Digest().String()

	var all sync.WaitGroup
	all.Go(func() {
		if err := follow(url, blob, 0, size); err != nil {
			t.Errorf("who reads all: %v", err)
		}
	})
	for i := range int64(followers) {
		off := i%places*(size/places) + i/places<<20 // those of one place are near enough to share a request
		all.Go(func() {
			if err := follow(url, blob, off, size/32); err != nil {
				t.Errorf("follower %d: %v", i, err)
			}
		})
	}
	for third := int64(1); third <= 2; third++ {
		eventually(t, "a third more has come", func() bool { return o.Bytes(origintest.Blob) > third*size/3 })
		if peak := pool.peak(t); peak > flat {
			t.Errorf("tidepool took %d MiB of memory", peak>>20)
		}
		hold(t, o, hub)
		pool.kill()
		o.Pace(0)
		pool.restart()
	}
	all.Wait()
	if peak := pool.peak(t); peak > flat {
		t.Errorf("tidepool took %d MiB of memory", peak>>20)
	}
	if sent, most := o.Bytes(origintest.Blob), size+max(size/100, lost); sent > most {
		t.Errorf("the upstream sent %d bytes of a blob of %d, want at most %d", sent, size, most)
	}
	t.Logf("%d GiB: upstream sent %.4f of it, memory peaked at %d MiB", *large,
		float64(o.Bytes(origintest.Blob))/float64(size), pool.peak(t)>>20)
}

// hold makes the origin send next to nothing until what it sent has been read. A kernel that holds megabytes for each
// connection loses them with the process, and that is not to be put down to tidepool.
func hold(t *testing.T, o *origintest.Origin, hub *origintest.Server) {
	t.Helper()
	o.Pace(1)
	_, text, err := net.SplitHostPort(hub.Addr())
	must(t, err)
	port, err := strconv.Atoi(text)
	must(t, err)
	const state, none = "01", "00000000:00000000" // connected; nothing in the queues to send and to read
	queues := regexp.MustCompile(fmt.Sprintf(`:%04X (?:[0-9A-F]+:[0-9A-F]+ )?%s ([0-9A-F]+:[0-9A-F]+) `, port, state))
	eventually(t, "all has been read", func() bool {
		table, err := os.ReadFile("/proc/net/tcp")
		must(t, err)
		return !slices.ContainsFunc(queues.FindAllSubmatch(table, -1), func(m [][]byte) bool { return string(m[1]) != none })
	})
}

// peak is the most memory that p ever had since it started, in bytes.
func (p *process) peak(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	must(t, err)
	m := regexp.MustCompile(`VmHWM:\s+([0-9]+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	must(t, err)
	return kib << 10
}

// TestKilledAmongPulls kills tidepool in the middle of 50 pulls and starts it again: everything can be pulled, with
// the right bytes, little is fetched twice, and nothing half-done is left on the disk.
func TestKilledAmongPulls(t *testing.T) {
	t.Parallel()
	needs(t)
	const pulls, images, layer = 50, 10, 6 << 20
	o := origintest.New()
	k := &kitchen{t: t, seed: 9 << 32}
	var content int64
	for i := range images {
		content += put(t, o, fmt.Sprint("test/image", i), k.oci(own(), types.OCILayer, 2, layer))
	}
	o.Pace(16 << 20)
	hub := origintest.Serve(t, o)
	pool := serve(t, "--upstream", "docker.io="+hub.URL)

	var running sync.WaitGroup
	pick := rand.New(rand.NewPCG(1, 2))
	for range pulls {
		name := fmt.Sprintf("%s/test/image%d:latest", pool.addr, pick.IntN(images))
		running.Go(func() { _ = pullAll(name) }) // most of them break off
	}
	eventually(t, "half of it has come", func() bool { return o.Bytes(origintest.Blob) > content/2 })
	hold(t, o, hub)
	pool.kill()
	running.Wait()
	pool.restart()
	o.Pace(0)
	for i := range images {
		must(t, pullAll(fmt.Sprintf("%s/test/image%d:latest", pool.addr, i)))
	}
	t.Logf("the upstream sent %.3f of the content", float64(o.Bytes())/float64(content))
	if sent, most := o.Bytes(), content/10*11; sent > most {
		t.Errorf("the upstream sent %d bytes of %d, want at most %d", sent, content, most)
	}
	if code := pool.stop(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	checkStore(t, pool.data)
}

// put makes img an image of the origin's, tagged latest, and returns how many bytes it has.
func put(t *testing.T, o *origintest.Origin, repo string, img v1.Image) int64 {
	t.Helper()
	manifest, err := img.RawManifest()
	must(t, err)
	config, err := img.RawConfigFile()
	must(t, err)
	kind, err := img.MediaType()
	must(t, err)
	layers, err := img.Layers()
	must(t, err)
	size := o.PutManifest(repo, "latest", string(kind), origintest.Bytes(manifest)).Size()
	size += o.PutBlob(repo, origintest.Bytes(config)).Size()
	for _, l := range layers {
		r, err := l.Compressed()
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		size += o.PutBlob(repo, origintest.Bytes(b)).Size()
	}
	return size
}

// pullAll reads all of an image; the library compares the bytes with their digests.
func pullAll(name string) error {
	img, err := crane.Pull(name, crane.Insecure)
	if err != nil {
		return err
	}
	if _, err := img.RawConfigFile(); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// checkStore looks at the files of a tidepool that was stopped: what it has is what the names say, and nothing is
// left of downloads.
func checkStore(t *testing.T, data string) {
	t.Helper()
	kept := 0
	err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		inside := strings.TrimPrefix(path, data)
		switch {
		case err != nil || d.IsDir():
			return err
		case strings.Contains(inside, "/tmp/") || strings.Contains(inside, "/partial/"):
			t.Errorf("left behind: %s", path)
		case strings.Contains(inside, "/blobs/sha256/"):
			kept++
			if hashFile(t, path) != d.Name() {
				t.Errorf("%s has other bytes than its name says", path)
			}
		}
		return nil
	})
	must(t, err)
	if kept == 0 {
		t.Errorf("nothing was kept in %s", data)
	}
}
