package admin

import (
	_ "embed"
	"net/http"
)

//go:embed openapi.yaml
var openapi string

// describe answers with the description of the API, for programs that make clients of it (OpenAPI 3).
func describe(w http.ResponseWriter, _ *http.Request) {
	sayAs(w, http.StatusOK, "application/yaml", openapi) // RFC 9512
}
