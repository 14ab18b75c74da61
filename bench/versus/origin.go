package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// repo is where everything lies: short enough that docker's default registry needs no other name for it.
const repo = "/v2/library/bench"

// paceStep is what a paced answer sends at once: 1.3 ms at 200 MB/s, so that timers are no part of the figure and
// the first byte comes with the header.
const paceStep = 256 << 10

// origin is the upstream of all contestants: the pull side of the distribution API over files in memory, sent by
// sendfile so that it costs the machine as little as it can. It counts what it is asked for and what it sent.
type origin struct {
	addr  string
	dir   string
	start time.Time // what blobs measure time from
	http  *http.Server
	done  chan struct{}

	mu        sync.Mutex // guards the maps
	blobs     map[string]*blob
	manifests map[string][]byte // by digest and by tag
}

// blob is one large piece of content, of random bytes.
type blob struct {
	digest string
	size   int64
	file   string
	pace   int64 // bytes per second and connection; 0: as fast as it goes

	gets  atomic.Int64 // GETs, ranges included
	sent  atomic.Int64 // bytes of bodies
	first atomic.Int64 // when the first body began, in nanoseconds since the origin's start; 0: not yet
}

func (b *blob) path() string { return repo + "/blobs/" + b.digest }

// newOrigin starts an origin that keeps its files in memory, or in dir where the machine has no /dev/shm.
func newOrigin(dir string) (*origin, error) {
	if _, err := os.Stat("/dev/shm"); err == nil {
		dir = "/dev/shm"
	}
	dir, err := os.MkdirTemp(dir, "versus-origin-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	o := &origin{
		addr: l.Addr().String(), dir: dir, start: time.Now(), done: make(chan struct{}),
		blobs: map[string]*blob{}, manifests: map[string][]byte{},
	}
	o.http = &http.Server{Handler: o}
	go func() {
		defer close(o.done)
		o.http.Serve(l)
	}()
	return o, nil
}

func (o *origin) close() error {
	err := o.http.Close()
	<-o.done
	return errors.Join(err, os.RemoveAll(o.dir))
}

// add makes a blob of size bytes that nobody has seen before.
func (o *origin) add(size, pace int64) (*blob, error) {
	f, err := os.CreateTemp(o.dir, "blob-")
	if err != nil {
		return nil, err
	}
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], rand.Uint64())
	hash := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, hash), rand.NewChaCha8(seed), size)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("make a blob: %w", err)
	}
	b := &blob{digest: digestOf(hash.Sum(nil)), size: size, file: f.Name(), pace: pace}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blobs[b.digest] = b
	return b, nil
}

// drop forgets b, whose memory others need.
func (o *origin) drop(b *blob) {
	o.mu.Lock()
	delete(o.blobs, b.digest)
	o.mu.Unlock()
	os.Remove(b.file)
}

// tag publishes a manifest by its digest and by name, and returns its digest.
func (o *origin) tag(name string, manifest []byte) string {
	sum := sha256.Sum256(manifest)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.manifests[name], o.manifests[digestOf(sum[:])] = manifest, manifest
	return digestOf(sum[:])
}

func digestOf(sum []byte) string { return "sha256:" + hex.EncodeToString(sum) }

// ServeHTTP answers as a registry does, without the errors' bodies.
func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.URL.Path == "/v2/" {
		return
	}
	if ref, ok := strings.CutPrefix(r.URL.Path, repo+"/manifests/"); ok {
		o.serveManifest(w, r, ref)
		return
	}
	digest, _ := strings.CutPrefix(r.URL.Path, repo+"/blobs/")
	o.mu.Lock()
	b := o.blobs[digest]
	o.mu.Unlock()
	if b == nil {
		http.NotFound(w, r)
		return
	}
	b.serve(w, r, o.start)
}

func (o *origin) serveManifest(w http.ResponseWriter, r *http.Request, ref string) {
	o.mu.Lock()
	m := o.manifests[ref]
	o.mu.Unlock()
	if m == nil {
		http.NotFound(w, r)
		return
	}
	sum := sha256.Sum256(m)
	w.Header().Set("Content-Type", manifestType)
	w.Header().Set("Docker-Content-Digest", digestOf(sum[:]))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m))
}

func (b *blob) serve(w http.ResponseWriter, r *http.Request, start time.Time) {
	f, err := os.Open(b.file)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", b.digest)
	if r.Method == http.MethodGet {
		b.gets.Add(1)
	}
	http.ServeContent(&pacer{ResponseWriter: w, ctx: r.Context(), blob: b, start: start}, r, "", time.Time{}, f)
}

// pacer sends an answer at its blob's pace and counts it.
type pacer struct {
	http.ResponseWriter
	ctx   context.Context
	blob  *blob
	start time.Time
}

// ReadFrom takes what http.ServeContent hands over: a limited file, which goes out by sendfile in steps that keep to a
// schedule set by the first.
func (p *pacer) ReadFrom(r io.Reader) (sent int64, err error) {
	body, ok := r.(*io.LimitedReader)
	if !ok {
		return 0, errors.New("not a limited file")
	}
	began := time.Now()
	p.blob.first.CompareAndSwap(0, int64(began.Sub(p.start)))
	for body.N > 0 && err == nil {
		step := body.N
		if p.blob.pace > 0 {
			step = min(step, paceStep)
			p.wait(began.Add(time.Duration(sent * int64(time.Second) / p.blob.pace)))
		}
		var n int64
		p.blob.sent.Add(step) // before: nobody is to have bytes that are not counted yet
		n, err = io.CopyN(p.ResponseWriter, body.R, step)
		p.blob.sent.Add(n - step)
		body.N -= n
		sent += n
	}
	return sent, err
}

func (p *pacer) wait(until time.Time) {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.ctx.Done():
	}
}
