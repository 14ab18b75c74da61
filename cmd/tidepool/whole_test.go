package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cache/sourcetest"
	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// The tests beside this file run a whole tidepool in this process, as serve does, between registries and clients of
// their own: what takes time in one synctest bubble, over a network in memory; what moves many bytes over loopback.

const (
	repo = "library/app"
	// tooLong is more than anybody may have to wait for an answer whatever the upstream does, in virtual time.
	tooLong = 5 * time.Minute
)

// bubble runs a test in virtual time. It fails where a goroutine outlives the test.
func bubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// plan is how a pool differs from the usual one.
type plan struct {
	net   *origintest.Net   // nil: loopback
	hubs  map[string]string // by upstream, where it is asked; nil: docker.io at http://hub.test
	file  string            // of the configuration, what is not in the flags
	flags map[string][]string
	dir   string // of the store; "": a new one
	world world  // dial and listen are the net's, where there is one
	log   *zap.Logger
	scrub string                                         // how fast the store is read over; "": not at all
	trust *tls.Config                                    // of the client, where clients come in by TLS
	wrap  func(*pool, *http.Transport) http.RoundTripper // of the client; nil: it is as it is
}

// pool is a tidepool that runs, and a client of it.
type pool struct {
	*running
	t      *testing.T
	plan   plan
	url    string
	client *http.Client
	down   bool
}

// fill starts a tidepool.
func fill(t *testing.T, p plan) *pool {
	t.Helper()
	if p.dir == "" {
		p.dir = dir(t, p.net != nil)
	}
	if p.hubs == nil {
		p.hubs = map[string]string{"docker.io": "http://hub.test"}
	}
	if p.log == nil {
		p.log = zap.NewNop()
	}
	if p.world.fs == nil {
		p.world.fs = new(diskFS)
	}
	w := &pool{t: t, plan: p}
	w.open()
	t.Cleanup(w.close)
	return w
}

// dir is a directory of the test's own, in memory where little is kept and the machine has such a place: databases sync
// their files, and a bubble's time is virtual but the disk's is not.
func dir(t *testing.T, little bool) string {
	t.Helper()
	if little {
		if d, err := os.MkdirTemp("/dev/shm", "tidepool-test-"); err == nil {
			t.Cleanup(func() { _ = os.RemoveAll(d) })
			return d
		}
	}
	return t.TempDir()
}

// inBubble starts a tidepool before o, which is docker.io, at hub.test, in a network of its own.
func inBubble(t *testing.T, o *origintest.Origin, plans ...plan) *pool {
	t.Helper()
	p := plan{}
	if len(plans) > 0 {
		p = plans[0]
	}
	if p.net == nil {
		p.net = new(origintest.Net)
	}
	origintest.ServeIn(t, p.net, "hub.test:80", o)
	return fill(t, p)
}

// open starts what was closed, on the same store.
func (w *pool) open() {
	w.t.Helper()
	p := w.plan
	flags := map[string][]string{
		"listen": {"127.0.0.1:0"}, "admin": {"127.0.0.1:0"}, "data": {p.dir}, "disk": {"2GiB"},
	}
	if p.net != nil {
		flags["listen"], flags["admin"] = []string{"127.0.0.1:5000"}, []string{"127.0.0.1:5001"}
		if p.world.dial == nil {
			p.world.dial = p.net.DialContext
		}
		p.world.listen = w.listener
	}
	for name, url := range p.hubs {
		flags["upstream"] = append(flags["upstream"], name+"="+url)
	}
	for name, values := range p.flags {
		flags[name] = values
	}
	// What is missing is asked for each time, so that a fault that is over is seen to be.
	file := "scrub: " + cmp.Or(p.scrub, "off") + "\nmissing: 0s\n" + p.file
	loaded, err := config.Load(config.Inputs{File: "-", Stdin: strings.NewReader(file), Flags: flags})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.running, err = start(w.t.Context(), loaded.Config, p.log, p.world); err != nil {
		w.t.Fatal(err)
	}
	w.down, w.url, w.client = false, w.scheme()+"://"+w.addr.String(), w.newClient()
	if p.wrap != nil {
		w.client.Transport = p.wrap(w, w.client.Transport.(*http.Transport))
	}
}

func (w *pool) listener(_, addr string) (net.Listener, error) { return w.plan.net.Listen(addr) }

// close ends the tidepool as SIGTERM does.
func (w *pool) close() {
	w.t.Helper()
	if w.down {
		return
	}
	w.down = true
	w.client.CloseIdleConnections()
	if err := w.stop(context.WithoutCancel(w.t.Context())); err != nil {
		w.t.Errorf("stop: %v", err)
	}
}

// newClient is a client with connections of its own.
func (w *pool) newClient() *http.Client {
	t := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256, TLSClientConfig: w.plan.trust}
	if w.plan.net != nil {
		t.DialContext = w.plan.net.DialContext
	}
	return &http.Client{Transport: t}
}

// answered is an answer that was read to its end.
type answered struct {
	status int
	header http.Header
	body   []byte
	err    error // why it broke off, or why there is none
	took   time.Duration
}

// do asks with headers given as pairs.
func (w *pool) do(method, path string, headers ...string) (a answered) {
	w.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(w.t.Context(), tooLong)
	defer cancel()
	res, err := w.ask(ctx, method, path, headers...)
	if err != nil {
		return answered{err: err, took: time.Since(began)}
	}
	defer res.Body.Close()
	a = answered{status: res.StatusCode, header: res.Header}
	a.body, a.err = io.ReadAll(res.Body)
	if a.took = time.Since(began); errors.Is(a.err, context.DeadlineExceeded) {
		w.t.Errorf("%s %s: no end of the answer after %v", method, path, tooLong)
	}
	return a
}

// ask is do for an answer that is not read yet. A path may have a host of its own.
func (w *pool) ask(ctx context.Context, method, path string, headers ...string) (*http.Response, error) {
	if strings.HasPrefix(path, "/") {
		path = w.url + path
	}
	req, err := http.NewRequestWithContext(ctx, method, path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := w.client.Do(req)
	if errors.Is(err, context.DeadlineExceeded) {
		w.t.Errorf("%s %s: no answer after %v", method, path, tooLong)
	}
	return res, err
}

func (w *pool) get(path string, headers ...string) answered {
	w.t.Helper()
	return w.do(http.MethodGet, path, headers...)
}

func (w *pool) head(path string, headers ...string) answered {
	w.t.Helper()
	return w.do(http.MethodHead, path, headers...)
}

// admin asks at the listener for operators.
func (w *pool) admin(path string) answered {
	w.t.Helper()
	return w.get("http://" + w.adminAddr.String() + path)
}

// String says what came, for messages.
func (a answered) String() string {
	s := fmt.Sprintf("%d", a.status)
	if code := a.code(); code != "" {
		s += " " + code
	} else {
		s += fmt.Sprintf(", %d bytes", len(a.body))
	}
	if a.err != nil {
		s += fmt.Sprintf(", then %v", a.err)
	}
	return s
}

// code is the distribution spec's code of an error; "" where the body is none of its documents.
func (a answered) code() string {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &doc) != nil || len(doc.Errors) == 0 || doc.Errors[0].Message == "" {
		return ""
	}
	return doc.Errors[0].Code
}

// brings checks that c came, whole.
func (a answered) brings(t *testing.T, c *origintest.Content) {
	t.Helper()
	if a.status != http.StatusOK || a.err != nil || !bytes.Equal(a.body, c.Bytes()) {
		t.Errorf("%v, want the %d bytes of %s; %.300s", a, c.Size(), c.Digest(), a.body)
	}
}

// refuses checks that the answer is an error.
func (a answered) refuses(t *testing.T, status int, code string) {
	t.Helper()
	if a.status != status || a.code() != code || a.err != nil {
		t.Errorf("%v, want %d %s; %.300s", a, status, code, a.body)
	}
}

// is checks the status of an answer that came whole.
func (a answered) is(t *testing.T, status int) {
	t.Helper()
	if a.status != status || a.err != nil {
		t.Errorf("%v, want %d; %.300s", a, status, a.body)
	}
}

// has checks headers given as pairs; "" means that there must be none.
func (a answered) has(t *testing.T, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := a.header.Get(pairs[i]); got != pairs[i+1] {
			t.Errorf("%s is %q, want %q", pairs[i], got, pairs[i+1])
		}
	}
}

func blobPath(d cache.Digest) string   { return "/v2/" + repo + "/blobs/" + d.String() }
func manifestPath(ref string) string   { return "/v2/" + repo + "/manifests/" + ref }
func digestPath(d cache.Digest) string { return manifestPath(d.String()) }

// pulls checks that the whole image can be pulled by its tag.
func (w *pool) pulls(tag string, img *origintest.Image) {
	w.t.Helper()
	if err := w.pull(tag, img); err != nil {
		w.t.Error(err)
	}
}

// pull pulls as a client does: the tag, every manifest, every blob.
func (w *pool) pull(tag string, img *origintest.Image) error {
	if a := w.get(manifestPath(tag)); a.status != http.StatusOK || !bytes.Equal(a.body, img.Top.Content.Bytes()) {
		return fmt.Errorf("%s: %v; %.300s", tag, a, a.body)
	}
	for _, m := range img.Manifests {
		if a := w.get(digestPath(m.Digest)); a.status != http.StatusOK || !bytes.Equal(a.body, m.Content.Bytes()) {
			return fmt.Errorf("manifest %s: %v; %.300s", m.Digest, a, a.body)
		}
	}
	for _, b := range img.Blobs {
		if a := w.get(blobPath(b.Digest)); a.status != http.StatusOK || a.err != nil || !bytes.Equal(a.body, b.Content.Bytes()) {
			return fmt.Errorf("blob %s: %v; %.300s", b.Digest, a, a.body)
		}
	}
	return nil
}

// keepsOnlyTruth checks that every file of the store has the bytes that its name says, once all is committed.
func (w *pool) keepsOnlyTruth() {
	w.t.Helper()
	if w.plan.net == nil {
		w.close()
	} else {
		time.Sleep(time.Second) // virtual: longer than a commit waits
		synctest.Wait()
	}
	if err := sourcetest.Files(w.plan.dir); err != nil {
		w.t.Errorf("the store: %v", err)
	}
}
