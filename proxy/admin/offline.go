package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
)

// Offline switches offline mode: of one upstream, or of all for "". SetOffline reports false where there is no such
// upstream.
type Offline interface {
	Offline() (all bool, upstreams map[string]bool)
	SetOffline(upstream string, on bool) (known bool)
}

// offlineState is what GET and PUT /api/v1/offline answer. An upstream is offline where it says so or where all are.
type offlineState struct {
	Schema    int             `json:"schema"`
	Offline   bool            `json:"offline"`   // all of them
	Upstreams map[string]bool `json:"upstreams"` // what was said of each
}

func (h Handler) showOffline(w http.ResponseWriter, _ *http.Request) {
	s := offlineState{Schema: 1}
	s.Offline, s.Upstreams = h.Offline.Offline()
	sayJSON(w, http.StatusOK, s)
}

// setOffline changes offline mode, until it is changed again or the process ends, and answers with what then holds.
func (h Handler) setOffline(w http.ResponseWriter, r *http.Request) {
	if status, err := mayChange(r); err != nil {
		sayError(w, status, err)
		return
	}
	on, err := readOffline(r.Body)
	if err != nil {
		sayError(w, http.StatusBadRequest, err)
		return
	}
	if name := r.PathValue("upstream"); !h.Offline.SetOffline(name, on) {
		sayError(w, http.StatusNotFound, fmt.Errorf("there is no upstream %q in the configuration: GET /api/v1/offline lists them", name))
		return
	}
	h.showOffline(w, r)
}

// maxBody is far more than anything that is said here.
const maxBody = 4 << 10

var errOfflineBody = errors.New(`the body says no more and no less than {"offline": true} or {"offline": false}`)

func readOffline(body io.Reader) (on bool, err error) {
	var said struct {
		Offline *bool `json:"offline"`
	}
	d := json.NewDecoder(io.LimitReader(body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&said); err != nil {
		return false, fmt.Errorf("%w (%w)", errOfflineBody, err)
	}
	if _, err := d.Token(); said.Offline == nil || err != io.EOF {
		return false, errOfflineBody
	}
	return *said.Offline, nil
}

var (
	crossOrigin = http.NewCrossOriginProtection()

	errForeign = errors.New("a web page of another origin asks for this: what changes something is refused to it")
	errType    = errors.New("send JSON, with Content-Type: application/json")
)

// mayChange refuses what a web page could have an operator's browser send here: requests of another origin; those of a
// page whose host's name was made to lead here, so that it is its own origin; and types that a form can send.
func mayChange(r *http.Request) (status int, err error) {
	browser := r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
	if crossOrigin.Check(r) != nil || browser && !byAddress(r.Host) {
		return http.StatusForbidden, errForeign
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return http.StatusUnsupportedMediaType, errType
	}
	return 0, nil
}

// byAddress reports whether a Host header is an address, or localhost: no name that somebody else could resolve.
func byAddress(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost"
}

func sayError(w http.ResponseWriter, status int, err error) {
	sayJSON(w, status, struct {
		Schema int    `json:"schema"`
		Error  string `json:"error"`
	}{1, err.Error()})
}
