package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// The media types that we ask manifests for. An upstream is always given the whole list: asked with a shorter one, a
// registry may answer with another manifest than the one that a tag names.
const (
	typeIndex          = "application/vnd.oci.image.index.v1+json"
	typeManifest       = "application/vnd.oci.image.manifest.v1+json"
	typeArtifact       = "application/vnd.oci.artifact.manifest.v1+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

	manifestTypes = typeIndex + ", " + typeManifest + ", " + typeDockerList + ", " + typeDockerManifest + ", " + typeArtifact
)

// query is a request before it has a server: made from a Ref, never from what a client wrote.
type query struct {
	method string
	repo   string // as the Ref has it; with an empty tail: none
	tail   string // "manifests/latest", "blobs/sha256:…"; empty: the base of the API
	params string // of the URL, encoded
	accept string
	span   string       // the Range asked for; empty: everything
	off    int64        // where that begins
	known  cache.Digest // If-None-Match
	blob   bool         // a blob's body will come
}

// ask limits q to the part of a blob that is wanted.
func (q *query) ask(want cache.Want) {
	q.off = want.Off
	first := "bytes=" + strconv.FormatInt(want.Off, 10) + "-"
	switch {
	case want.N >= 0:
		q.span = first + strconv.FormatInt(want.Off+max(want.N, 1)-1, 10)
	case want.Off > 0:
		q.span = first
	}
}

// request writes q down for u. pass is the Authorization to show there; empty: none.
func (h *hub) request(ctx context.Context, q query, u *url.URL, pass Secret) *http.Request {
	header := http.Header{
		"User-Agent":      {h.agent},
		"Accept-Encoding": {"identity"}, // the digest is of the bytes as they are
		"Via":             {h.via(ctx)},
	}
	for name, value := range map[string]string{"Accept": q.accept, "Range": q.span, "Authorization": string(pass)} {
		if value != "" {
			header.Set(name, value)
		}
	}
	if !q.known.IsZero() {
		header.Set("If-None-Match", `"`+q.known.String()+`"`)
	}
	r := &http.Request{
		Method: q.method, URL: u, Host: u.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	return r.WithContext(ctx)
}

// via are the proxies that this request came through, ourselves the last.
func (h *hub) via(ctx context.Context) string {
	own := "1.1 " + h.shared.ID
	if hops := cache.HopsOf(ctx); hops != "" {
		return hops + ", " + own
	}
	return own
}

// reply is an answer with its head read and its body still on the way.
type reply struct {
	*http.Response
	ctx     context.Context // the request's; ends with cancel
	cancel  context.CancelCauseFunc
	host    string   // who answers, for people
	foreign bool     // not the endpoint itself, but where it redirected to
	secrets []Secret // that it may repeat
	lines   lines    // that its body comes by

	at      *endpoint // that was asked, or whose token server was
	who     login     // as whom; set where the answer is the endpoint's own
	counted bool      // what was asked counts as a pull
}

// newReply is the reply that is to come from a server.
func newReply(ctx context.Context, to origin, foreign bool, secrets []Secret) *reply {
	ctx, cancel := context.WithCancelCause(ctx)
	return &reply{ctx: ctx, cancel: cancel, host: clean(to.String(), secrets...), foreign: foreign, secrets: secrets}
}

// come makes the request that r answers.
func (r *reply) come(road *http.Transport, req *http.Request) (err error) {
	r.Response, err = road.RoundTrip(req)
	return err
}

// fail gives up a reply that did not come, and says why.
func (r *reply) fail(err error) error {
	defer r.cancel(context.Canceled)
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	text := err.Error()
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil && op.Op == "dial" {
		text = "cannot connect: " + op.Err.Error()
	}
	lack := scarce(err)
	if lack != "" {
		text = "cannot connect: " + lack
	}
	return &fault{
		kind: cache.ErrUnavailable, cause: err, text: r.host + ": " + r.clean(text),
		blame:  !errors.Is(err, errInside) && !errors.Is(err, cache.ErrOffline) && lack == "",
		silent: !r.foreign && timedOut(err),
	}
}

// clean makes one harmless line of a part of the answer.
func (r *reply) clean(s string) string { return clean(s, r.secrets...) }

// trip makes one request at one server, own or foreign to the endpoint. secrets are what may be known there.
func (h *hub) trip(ctx context.Context, e *endpoint, q query, u *url.URL, pass Secret, secrets []Secret) (*reply, error) {
	if err := h.offline.err(); err != nil {
		return nil, err
	}
	own := originOf(u) == e.origin
	if own {
		if err := h.turn(ctx, e); err != nil {
			return nil, err
		}
	}
	_, http2 := e.learnt()
	r := newReply(ctx, originOf(u), !own, secrets)
	r.lines = h.lines
	r.at, r.counted = e, q.counted()
	h.count.requests.Add(1)
	err := r.come(h.roads.pick(own, q.blob && !(own && http2)), h.request(r.ctx, q, u, pass))
	if q.blob && wantsHTTP2(err) {
		if own {
			e.learnHTTP2()
		}
		err = r.come(h.roads.pick(own, false), h.request(r.ctx, q, u, pass))
	}
	if err != nil {
		return nil, r.fail(err)
	}
	return r, nil
}

// drop gives an answer up. The little that may be left of it is read first, for a moment, so that its connection can
// be used again.
func (r *reply) drop() {
	const little, moment = 16 << 10, time.Second
	if r.Request.Method != http.MethodHead && r.ContentLength <= little {
		t := time.AfterFunc(moment, func() { r.cancel(context.Canceled) })
		_, _ = io.CopyN(io.Discard, r.Body, little)
		t.Stop()
	}
	r.cancel(context.Canceled)
	_ = r.Body.Close()
}

// wantsHTTP2 reports whether err is a server's refusal to speak HTTP/1.1. crypto/tls has no exported type for the
// alert that a server sends.
func wantsHTTP2(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && strings.Contains(op.Err.Error(), "no application protocol")
}
