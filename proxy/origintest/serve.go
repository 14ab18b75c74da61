package origintest

import (
	"net/http"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// ServeHTTP answers as a registry ("/v2/…"), as its token server ("/token") and as its CDN ("/cdn/…"), whichever host
// it is asked by: serve an Origin on two addresses to have two hosts.
func (o *Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req := read(r)
	x := &exchange{o: o, w: w, r: r, rec: o.log.add(req)}
	defer x.over()
	a := o.answer(&req, r)
	req.Digest = a.digest
	a.asked, a.challenge = r.URL.RequestURI(), func(realm string) *answer { return o.challenge(&req, r, realm) }
	for _, spoil := range o.spoilsFor(&req) {
		spoil(a)
	}
	x.send(a)
}

func (o *Origin) challenge(req *Request, r *http.Request, realm string) *answer {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.guard.challenge(req, r, realm, "")
}

// exchange is one request while it is answered.
type exchange struct {
	o   *Origin
	w   http.ResponseWriter
	r   *http.Request
	rec *record
}

func (x *exchange) over() {
	x.o.log.change(func() {
		x.rec.Over = true
		x.rec.Took = time.Since(x.rec.Time)
	})
}

// abort breaks the connection (over HTTP/2: the stream) once what was written has left.
func (x *exchange) abort() {
	if x.rec.Status != 0 {
		// A connection that is gone already cannot be flushed.
		_ = http.NewResponseController(x.w).Flush()
	}
	panic(http.ErrAbortHandler)
}

// read notes what is asked.
func read(r *http.Request) Request {
	req := Request{
		Time: time.Now(), Host: r.Host, From: r.RemoteAddr, Proto: r.Proto, Method: r.Method,
		Path: r.URL.Path, Query: r.URL.RawQuery, Range: r.Header.Get("Range"), Header: r.Header.Clone(),
	}
	req.Kind, req.Repo, req.Ref = parse(r.URL.Path)
	return req
}

// parse reads a path from its end, because a repository may be called "blobs/manifests".
func parse(path string) (k Kind, repo, ref string) {
	switch {
	case path == "/token":
		return Token, "", ""
	case path == "/v2" || path == "/v2/":
		return Ping, "", ""
	}
	k, rest := Other, ""
	if after, ok := strings.CutPrefix(path, "/cdn/"); ok {
		k, rest = CDN, after
	} else if rest, ok = strings.CutPrefix(path, "/v2/"); !ok {
		return Other, "", ""
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		return Other, "", ""
	}
	noun, ref := parts[len(parts)-2], parts[len(parts)-1]
	repo = strings.Join(parts[:len(parts)-2], "/")
	switch {
	case k == CDN:
		return CDN, repo, ref
	case noun == "manifests":
		return Manifest, repo, ref
	case noun == "blobs":
		return Blob, repo, ref
	case noun == "referrers":
		return Referrers, repo, ref
	case noun == "tags" && ref == "list":
		return Tags, repo, ""
	}
	return Other, "", ""
}

// answer is what a good registry says to req.
func (o *Origin) answer(req *Request, r *http.Request) *answer {
	o.mu.Lock()
	defer o.mu.Unlock()
	if refusal := o.ban.take(req.Time); refusal != nil {
		return refusal
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		return refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is for pulling")
	}
	switch req.Kind {
	case Token:
		return o.token(r)
	case CDN:
		return o.edge(req, r)
	case Other:
		return refuse(http.StatusNotFound, "NAME_UNKNOWN", "no such page")
	}
	if refusal := o.admit(req, r); refusal != nil {
		return refusal
	}
	if req.Kind == Ping {
		return document("application/json", []byte("{}"))
	}
	repo := o.repos[req.Repo]
	if repo == nil {
		return refuse(http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
	}
	switch req.Kind {
	case Manifest:
		return o.manifest(repo, req, r)
	case Blob:
		return o.blob(repo, req, r)
	case Tags:
		return o.tags(repo, req, r)
	default:
		return o.referrers(repo, req, r)
	}
}

func (o *Origin) blob(repo *repo, req *Request, r *http.Request) *answer {
	d, err := cache.ParseDigest(req.Ref)
	if err != nil {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
	}
	c := repo.blobs[d]
	if c == nil {
		return refuse(http.StatusNotFound, "BLOB_UNKNOWN", "no such blob in this repository")
	}
	if o.cdn != "" {
		return redirect(o.sign(req.Repo, d))
	}
	a := whole(c, d, "application/octet-stream")
	a.header.Set("Docker-Content-Digest", d.String())
	a.settle(r)
	return a
}

func (o *Origin) manifest(repo *repo, req *Request, r *http.Request) *answer {
	d, tagged := repo.tags[req.Ref]
	if !tagged && o.manners.NoReferrers {
		d, tagged = repo.fallback(req.Ref)
	}
	if !tagged {
		var err error
		if d, err = cache.ParseDigest(req.Ref); err != nil && strings.Contains(req.Ref, ":") {
			return refuse(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		}
	}
	m, held := repo.manifests[d]
	if !held {
		return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "no such manifest in this repository")
	}
	if !o.manners.AnyAccept {
		var refusal *answer
		if d, m, refusal = repo.negotiate(r, d, m, tagged); refusal != nil {
			return refusal
		}
	}
	headers, refusal := o.limit.take(r.Method == http.MethodGet)
	if refusal != nil {
		return refusal
	}
	a := whole(m.content, d, m.mediaType)
	a.header.Set("Docker-Content-Digest", d.String())
	for k, v := range headers {
		a.header.Set(k, v)
	}
	a.noRange = true // as the hubs do: a manifest comes whole
	a.settle(r)
	return a
}
