package admin

import (
	"net/http"
)

// PurgeOrder is the body of POST /api/v1/purge.
type PurgeOrder struct {
	Images []string `json:"images"`
	DryRun bool     `json:"dry_run"`
	Here   bool     `json:"here"`
}

// purge has images forgotten, and answers with what went.
func (h Handler) purge(w http.ResponseWriter, r *http.Request) {
	if status, err := mayChange(r); err != nil {
		sayError(w, status, err)
		return
	}
	var o PurgeOrder
	if err := read(r.Body, &o); err != nil {
		sayError(w, http.StatusBadRequest, err)
		return
	}
	doc, err := h.Warmer.Purge(r.Context(), o)
	if err != nil {
		sayError(w, http.StatusBadRequest, err)
		return
	}
	sayJSON(w, http.StatusOK, doc)
}
