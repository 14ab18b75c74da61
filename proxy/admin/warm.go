package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Warmer fetches images ahead, pins them and has them forgotten.
type Warmer interface {
	// Warm carries an order out and tells how that goes; it ends early with ctx. The error says what is wrong with the
	// order: then nothing was told.
	Warm(ctx context.Context, o WarmOrder, tell func(event any)) error
	Pins() any // what is pinned, as JSON
	// Unpin takes pins back that were set by hand, or are left of rules of members that are gone, and says what became of
	// each, as JSON.
	Unpin(ctx context.Context, images []string) any
	// Purge has images forgotten, and says what went, as JSON; an error where the order is no order.
	Purge(ctx context.Context, o PurgeOrder) (any, error)
}

// WarmOrder is the body of POST /api/v1/warm.
type WarmOrder struct {
	Images    []string `json:"images"`
	Platforms []string `json:"platforms"`
	Referrers string   `json:"referrers"`
	Newest    int      `json:"newest"`
	Pin       bool     `json:"pin"`
}

// maxOrder is tens of thousands of images.
const maxOrder = 4 << 20

// tellTime is how long one who asked for it may take to hear the next event: else an order would go on for nobody.
const tellTime = time.Minute

// warm carries an order out, and answers with a JSON document for each event, one on a line, as they come. It stops when
// the one who asked is gone.
func (h Handler) warm(w http.ResponseWriter, r *http.Request) {
	if status, err := mayChange(r); err != nil {
		sayError(w, status, err)
		return
	}
	var o WarmOrder
	if err := read(r.Body, &o); err != nil {
		sayError(w, http.StatusBadRequest, err)
		return
	}
	line := http.NewResponseController(w)
	_ = line.SetReadDeadline(time.Time{}) // all of the request is here; what is read from now on is whether its sender still is
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	begun := false
	err := h.Warmer.Warm(ctx, o, func(event any) {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Header().Set("Cache-Control", "no-store")
		}
		_ = line.SetWriteDeadline(time.Now().Add(tellTime))
		if json.NewEncoder(w).Encode(event) != nil || line.Flush() != nil {
			cancel()
		}
	})
	if err != nil && !begun {
		sayError(w, http.StatusBadRequest, err)
	}
}

func (h Handler) pins(w http.ResponseWriter, _ *http.Request) {
	sayJSON(w, http.StatusOK, h.Warmer.Pins())
}

func (h Handler) unpin(w http.ResponseWriter, r *http.Request) {
	if status, err := mayChange(r); err != nil {
		sayError(w, status, err)
		return
	}
	var o struct {
		Images []string `json:"images"`
	}
	if err := read(r.Body, &o); err != nil {
		sayError(w, http.StatusBadRequest, err)
		return
	}
	sayJSON(w, http.StatusOK, h.Warmer.Unpin(r.Context(), o.Images))
}

// read reads a document that has images, and nothing else than what it should have.
func read(body io.Reader, doc any) error {
	d := json.NewDecoder(io.LimitReader(body, maxOrder))
	d.DisallowUnknownFields()
	if err := d.Decode(doc); err != nil {
		return fmt.Errorf(`the body says which images, as in {"images": ["alpine:3"]} (%w)`, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("the body goes on after its end: send one JSON document")
	}
	return nil
}
