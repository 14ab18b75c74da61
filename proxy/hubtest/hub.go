package hubtest

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
)

// Hub is a registry at a name: a guard in front of content.
type Hub struct {
	Base   string // what stands before /v2 in its paths: "/repository/docker"
	Prefix string // what stands before the names of repositories: "docker-remote/"
	Guard  Guard  // nil: everybody may come in
	CDN    string // the host that blobs are redirected to; empty: they come from here
	Own    bool   // the registry behind asks for the login itself

	// Cache makes it answer 404 to the HEAD of a blob that it was not asked for yet, as Harbor's proxy projects do
	// (goharbor/harbor#22609).
	Cache bool

	content http.Handler

	mu        sync.Mutex // guards what follows
	seen      []string
	had       map[string]bool
	interrupt func()
	passes    map[string]bool // that were shown to the registry behind; true: it sees them no more
}

// NewHub is a hub whose content another registry serves, at a URL.
func NewHub(content string) *Hub {
	u, err := url.Parse(content)
	if err != nil {
		panic(err) // the test's own
	}
	p := httputil.NewSingleHostReverseProxy(u)
	p.ErrorLog = log.New(io.Discard, "", 0) // clients that leave
	return &Hub{content: p, had: map[string]bool{}, passes: map[string]bool{}}
}

// Seen are the requests that got in since this was last asked: "GET blobs", "HEAD manifests".
func (h *Hub) Seen() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := h.seen
	h.seen = nil
	return seen
}

// Interrupt has the next blob break off in its middle, and do called before it does.
func (h *Hub) Interrupt(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.interrupt = do
}

// Void takes every pass away that was shown so far to a registry that asks for logins itself, since it cannot be made to
// forget what was signed.
func (h *Hub) Void() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for pass := range h.passes {
		h.passes[pass] = true
	}
}

// shows reports whether a request shows the registry behind a pass.
func (h *Hub) shows(header http.Header) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	pass := header.Get("Authorization")
	if h.passes[pass] || pass == "" {
		header.Del("Authorization")
		return false
	}
	h.passes[pass] = false
	return true
}

// ServeHTTP answers as the registry.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, ok := strings.CutPrefix(r.URL.Path, h.Base+"/v2/")
	if !ok {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "no such page")
		return
	}
	full, kind, ref := split(rest)
	if h.Guard != nil && !h.Guard(w, r, full) {
		return
	}
	repo, ok := strings.CutPrefix(full, h.Prefix)
	if full != "" && !ok {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
		return
	}
	in := inside(r, repo, kind, ref)
	switch {
	case !h.Own:
		in.Header.Del("Authorization") // it was for us
	case !h.shows(in.Header):
		kind = "" // it will not get in
	}
	h.serve(w, in, kind, ref)
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request, kind, ref string) {
	h.mu.Lock()
	if kind != "" {
		h.seen = append(h.seen, r.Method+" "+kind)
	}
	missing := h.Cache && kind == "blobs" && r.Method == http.MethodHead && !h.had[ref]
	h.had[ref] = true
	h.mu.Unlock()
	switch {
	case missing:
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
	case kind == "blobs" && h.CDN != "" && r.Method == http.MethodGet:
		w.Header().Set("Location", "https://"+h.CDN+r.URL.Path+"?X-Signature="+Marker)
		w.WriteHeader(http.StatusTemporaryRedirect)
	case kind == "blobs" && r.Method == http.MethodGet:
		h.blob(w, r)
	default:
		h.content.ServeHTTP(w, r)
	}
}

// Store is the host that blobs are redirected to. A signed address is its login: a second one is refused, as S3 does.
func (h *Hub) Store() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.URL.Query().Get("X-Signature") != Marker {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		h.blob(w, r)
	})
}

// blob sends a blob, to its end unless it is to be interrupted.
func (h *Hub) blob(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	do := h.interrupt
	h.interrupt = nil
	h.mu.Unlock()
	if do == nil {
		h.content.ServeHTTP(w, r)
		return
	}
	r.Header.Del("Accept-Encoding")
	h.content.ServeHTTP(&breaking{ResponseWriter: w, do: do}, r)
}

// breaking breaks a body off when half of it is written.
type breaking struct {
	http.ResponseWriter
	do   func()
	left int64
}

func (b *breaking) WriteHeader(status int) {
	if size, err := json.Number(b.Header().Get("Content-Length")).Int64(); err == nil {
		b.left = size / 2
	}
	b.ResponseWriter.WriteHeader(status)
}

func (b *breaking) Write(p []byte) (int, error) {
	if int64(len(p)) < b.left {
		b.left -= int64(len(p))
		return b.ResponseWriter.Write(p)
	}
	_, _ = b.ResponseWriter.Write(p[:b.left]) // it is broken off anyhow
	_ = http.NewResponseController(b.ResponseWriter).Flush()
	b.do()
	panic(http.ErrAbortHandler)
}

// split reads "library/app/blobs/sha256:…".
func split(path string) (repo, kind, ref string) {
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		if i := strings.LastIndex(path, kind); i >= 0 {
			return path[:i], strings.Trim(kind, "/"), path[i+len(kind):]
		}
	}
	return "", "", ""
}

// inside is the request as the registry that has the content knows it.
func inside(r *http.Request, repo, kind, ref string) *http.Request {
	in := r.Clone(r.Context())
	in.URL.Path, in.Host = "/v2/", ""
	if repo != "" {
		in.URL.Path += repo + "/" + kind + "/" + ref
	}
	return in
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	b, _ := json.Marshal(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
	_, _ = w.Write(b) // who asked is gone, if anything
}

func reply(w http.ResponseWriter, doc any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc) // as above
}
