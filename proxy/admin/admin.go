// Package admin is the second listener: what operators and their programs ask about a running tidepool.
//
// Its invariant: what it tells holds no secret and nothing of any client but the network that it is in; and it changes
// nothing but by a request that no web page can have a browser send (see mayChange), and nothing of the configuration: a
// restart goes back to that.
package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// Check is one thing that can be well or not.
type Check struct {
	Name string
	Err  error  // nil: all is well
	Note string // what else there is to say of it, for ?verbose
	Mild bool   // clients are served as ever: shown, but no reason to call the whole unhealthy
}

// Build says what is running.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
}

// Handler answers the admin API.
type Handler struct {
	Ready   func() error   // nil while clients may come
	Health  func() []Check // in the order they are shown
	Offline Offline        // switches offline mode
	Warmer  Warmer
	History func(image string) (any, error)                     // what a tag was, as JSON; an error where it names none
	Ring    func(ctx context.Context, what string) (any, error) // who owns what, as JSON: nothing, a digest, or an image; an error where that is none, or there is no ring
	Metrics http.Handler
	Saved   func() any                // what was saved, as JSON
	Status  func(context.Context) any // how everything stands, as JSON
	Build   Build
}

// Routes is h as a handler of all its paths.
func (h Handler) Routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, serve := range h.paths() {
		mux.HandleFunc(pattern, serve)
	}
	return mux
}

// paths are all there are, as http.ServeMux spells them. A test holds them against openapi.yaml.
func (h Handler) paths() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /livez":                     h.live,
		"GET /readyz":                    h.ready,
		"GET /healthz":                   h.healthy,
		"GET /metrics":                   h.Metrics.ServeHTTP,
		"GET /api/openapi.yaml":          describe,
		"GET /api/v1/status/buildinfo":   h.build,
		"GET /api/v1/status":             h.status,
		"GET /api/v1/saved":              h.saved,
		"GET /api/v1/offline":            h.showOffline,
		"PUT /api/v1/offline":            h.setOffline,
		"PUT /api/v1/offline/{upstream}": h.setOffline,
		"POST /api/v1/warm":              h.warm,
		"GET /api/v1/pins":               h.pins,
		"GET /api/v1/ring":               h.ring,
		"GET /api/v1/history":            h.history,
		"POST /api/v1/unpin":             h.unpin,
		"POST /api/v1/purge":             h.purge,
	}
}

// live says that the process answers: nothing is better after a restart than before it.
func (h Handler) live(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok\n") }

// ready says whether clients should be sent here.
func (h Handler) ready(w http.ResponseWriter, _ *http.Request) {
	if err := h.Ready(); err != nil {
		say(w, http.StatusServiceUnavailable, err.Error()+"\n")
		return
	}
	say(w, http.StatusOK, "ok\n")
}

// healthy says what is wrong, while clients may still be served; with ?verbose, what is right as well.
func (h Handler) healthy(w http.ResponseWriter, r *http.Request) {
	status := http.StatusOK
	verbose := r.URL.Query().Has("verbose")
	var lines strings.Builder
	for _, c := range h.Health() {
		mark := "[+] "
		switch {
		case c.Err != nil && c.Mild:
			mark = "[~] "
		case c.Err != nil:
			mark, status = "[-] ", http.StatusServiceUnavailable
		}
		state := "ok"
		if c.Err != nil {
			state = c.Err.Error()
		}
		if c.Note != "" && verbose {
			state += " (" + c.Note + ")"
		}
		if c.Err != nil || verbose {
			fmt.Fprintf(&lines, "%s%s: %s\n", mark, c.Name, state)
		}
	}
	if lines.Len() == 0 {
		lines.WriteString("ok\n")
	}
	say(w, status, lines.String())
}

func (h Handler) build(w http.ResponseWriter, _ *http.Request) {
	sayJSON(w, http.StatusOK, struct {
		Schema int `json:"schema"`
		Build
	}{1, h.Build})
}

func (h Handler) status(w http.ResponseWriter, r *http.Request) {
	sayJSON(w, http.StatusOK, h.Status(r.Context()))
}

func (h Handler) saved(w http.ResponseWriter, _ *http.Request) {
	sayJSON(w, http.StatusOK, h.Saved())
}

// history says what ?image=… was, and where it is looked for.
func (h Handler) history(w http.ResponseWriter, r *http.Request) {
	doc, err := h.History(r.URL.Query().Get("image"))
	if err != nil {
		sayError(w, http.StatusBadRequest, err)
		return
	}
	sayJSON(w, http.StatusOK, doc)
}

// ring says who the members are, and with ?digest=… or ?image=… whose that is.
func (h Handler) ring(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	doc, err := h.Ring(r.Context(), cmp.Or(q.Get("digest"), q.Get("image")))
	if err != nil {
		sayError(w, http.StatusNotFound, err)
		return
	}
	sayJSON(w, http.StatusOK, doc)
}

func sayJSON(w http.ResponseWriter, status int, doc any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(doc) // a client that is gone needs no answer
}

func say(w http.ResponseWriter, status int, text string) {
	sayAs(w, status, "text/plain; charset=utf-8", text)
}

func sayAs(w http.ResponseWriter, status int, form, text string) {
	w.Header().Set("Content-Type", form)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // a client that is gone needs no answer
}
